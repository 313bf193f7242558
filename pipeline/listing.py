"""What a pass is to look at, page by page, each compared with the ledger: the bucket's own listing, somebody else's, or keys
that were named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from pipeline.discovery import Again, Judged, Router, confirm_missing, in_ranges, judge, judge_named, judge_unknown, with_more
from pipeline.log import Log
from pipeline.model import Page
from pipeline.parts import Request
from pipeline.settings import PipelineSettings
from pipeline.state import State

Look = tuple[Judged, list[str], int, bool]
"""What a page says, the keys that are surely missing, the sequence known before it was asked for, and whether more follow."""


TOUCHED_MAX = 50_000


async def found_objects(
    log: Log, state: State, settings: PipelineSettings, request: Request, scopes: Sequence[tuple[str, Again | None]] = ()
) -> AsyncIterator[Look]:
    """What the request is about, in key order. The caller may commit between two looks. Raises Outdated.

    scopes: prefixes to list one after the other, each with what is processed once more there; by default the source. The last
    one is the source: only there objects are counted, and missed.
    """
    if request.names is not None:
        looks = _named(log, state, settings, request)
    elif request.listing is not None:
        looks = _told(log, state, settings, request.listing(settings.source))
    else:
        *ahead, (_, again) = scopes or [(settings.source, request.again)]
        for prefix, first in ahead:
            async for judged, _, base, _ in _listed(log, state, settings, prefix, first, ahead=True):
                yield Judged(found=judged.found), [], base, True
        looks = _listed(log, state, settings, settings.source, again)
    async for look in looks:
        yield look


async def _named(log: Log, state: State, settings: PipelineSettings, request: Request) -> AsyncIterator[Look]:
    names, base = sorted(set(request.names or ())), state.sequence
    await log.look_up(state, names)
    judged = judge_named(await log.store.head_many(names), names, state, Router(settings), request.again)
    yield judged, judged.absent, base, False


async def _told(log: Log, state: State, settings: PipelineSettings, pages: AsyncIterator[Page]) -> AsyncIterator[Look]:
    router = Router(settings)
    async for page, more in with_more(pages):
        state.ledger.forget()
        await log.look_up(state, page.keys)
        yield judge_unknown(page, state, router), [], state.sequence, more


async def _listed(
    log: Log, state: State, settings: PipelineSettings, prefix: str, again: Again | None, *, ahead: bool = False
) -> AsyncIterator[Look]:
    """Pages below the prefix. ahead: of what is there alone; nothing is missed yet, and no key outside of the prefix is judged."""
    router = Router(settings)
    async for page, after, upto, base in ranged_pages(log, state, prefix):
        if ahead and not page.keys:
            continue
        first, last = (after or prefix[:-1], page.keys[-1]) if ahead else (after, upto)
        for part, above, end in in_ranges(page, first, last, state.ledger.runs.range_ends(first, last)):
            committed = await log.committed_between(state, above, end)
            judged = judge(part, state, committed, router, above, end, again)
            yield judged, [] if ahead else await confirm_missing(log.store, judged.absent), base, end is not None
            if len(state.touched) > TOUCHED_MAX and end is not None:  # keys come in order: no later page asks about these
                state.touched = {key: sequence for key, sequence in state.touched.items() if key > end}


async def ranged_pages(log: Log, state: State, source: str) -> AsyncIterator[tuple[Page, str, str | None, int]]:
    """Pages with the key range each covers and the sequence known before any was requested."""
    after, held, base = "", None, state.sequence
    async for page in log.store.list(source):
        if held is not None and held.keys:
            yield held, after, held.keys[-1], base
            after = held.keys[-1]
        held = page
    yield held or Page(keys=[], etags=[], sizes=[], modified_us=[]), after, None, base
