"""What a pass is to look at, page by page, each compared with the ledger: the bucket's own listing,
somebody else's, or keys that were named.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from pipeline.commit_log.log import Log
from pipeline.discover.compare import (
    Again,
    Judged,
    confirm_missing,
    in_ranges,
    judge,
    judge_named,
    judge_unknown,
    with_more,
)
from pipeline.discover.request import Request
from pipeline.discover.router import Router
from pipeline.model.listing import Page
from pipeline.model.settings import PipelineSettings
from pipeline.state.key_growth import Frontier, Growth, Stretch, Survey, stretch_of
from pipeline.state.state import State


@dataclass(frozen=True, slots=True)
class Look:
    """What a part of the listing says."""

    judged: Judged
    missing: list[str]
    """Known keys that are surely not there any more."""
    base: int
    """The sequence that was known before it was asked for."""
    more: bool
    """Further looks follow."""


Scope = tuple[str, Again | None]
"""A prefix to list, and what is processed once more there."""

TOUCHED_MAX = 50_000
"""Decisions remembered for a listing under way, before those about keys that it has passed are let
go.
"""


class Finder:
    """What a request is about, found and compared with the state.

    The caller may commit between two looks.
    """

    def __init__(
        self,
        log: Log,
        state: State,
        settings: PipelineSettings,
        request: Request,
        scopes: Sequence[Scope] = (),
    ) -> None:
        """scopes: prefixes to list one after the other, each with what is processed once more
        there; by default the source. The last one is the source: only there objects are counted,
        and missed.
        """
        self.log = log
        self.state = state
        self.settings = settings
        self.request = request
        self.router: Router = Router(settings)
        self.scopes: Sequence[Scope] = scopes or [(settings.source, request.again)]
        self.growth: Growth | None = None
        """What the listing showed of how keys grow; None until it was read to its end."""

    async def looks(self) -> AsyncIterator[Look]:
        """In key order, for each part that is listed. Raises Outdated."""
        request = self.request
        if request.names is not None:
            looks = self._named(request.names)
        elif request.listing is not None:
            looks = self._unlisted(request.listing(self.settings.source))
        elif request.growing:
            looks = self._grown()
        else:
            looks = self._whole()
        async for look in looks:
            yield look

    async def _named(self, names: Sequence[str]) -> AsyncIterator[Look]:
        names, base = sorted(set(names)), self.state.sequence
        await self.log.look_up(self.state, names)
        judged = judge_named(
            await self.log.store.head_many(names),
            names,
            self.state,
            self.router,
            self.request.again,
        )
        yield Look(judged, judged.absent, base, more=False)

    async def _unlisted(self, pages: AsyncIterator[Page]) -> AsyncIterator[Look]:
        async for page, more in with_more(pages):
            self.state.ledger.forget()
            await self.log.look_up(self.state, page.keys)
            judged = judge_unknown(page, self.state, self.router)
            yield Look(judged, [], self.state.sequence, more)

    async def _whole(self) -> AsyncIterator[Look]:
        *ahead, (source, again) = self.scopes
        for prefix, first in ahead:
            stretch = Stretch(prefix, "", prefix[:-1], None)
            async for look in self._listed([stretch], first, None):
                yield Look(Judged(found=look.judged.found), [], look.base, more=True)
        survey = Survey(source)
        async for look in self._listed([Stretch(source, "", "", None)], again, survey):
            yield look
        self.growth = survey.growth()

    async def _grown(self) -> AsyncIterator[Look]:
        """Only where keys grow, from the last one on; what is late is for a notice or a whole
        listing to find.
        """
        frontiers = grown(self.state, self.settings)
        survey = Survey(self.settings.source, self.state.growth)
        stretches = [stretch_of(frontier, self.settings.source) for frontier in frontiers]
        async for look in self._listed(stretches, self.request.again, survey):
            yield look
        self.growth = survey.further(frontiers)

    async def _listed(
        self, stretches: Sequence[Stretch], again: Again | None, survey: Survey | None
    ) -> AsyncIterator[Look]:
        """Pages of the stretches.

        Without a survey: ahead of the whole listing, so nothing is missed yet.
        """
        state, base = self.state, self.state.sequence
        for last, stretch in [(stretch is stretches[-1], stretch) for stretch in stretches]:
            splits = state.ledger.runs.split_keys(stretch.after, stretch.upto)
            async for page, after, to in ranged_pages(self.log, stretch, splits):
                if survey is not None:
                    survey.note(page)
                upto = to if survey is not None else (page.keys or [after])[-1]
                for part, above, end in in_ranges(
                    page, after, upto, state.ledger.runs.range_ends(after, upto)
                ):
                    committed = await self.log.committed_between(state, above, end)
                    judged = judge(part, state, committed, self.router, above, end, again)
                    missing = (
                        await confirm_missing(self.log.store, judged.absent)
                        if survey is not None
                        else []
                    )
                    yield Look(judged, missing, base, more=not last or end != stretch.upto)
                    # no later page asks about these
                    if len(state.touched) > TOUCHED_MAX and end is not None:
                        state.touched = {
                            key: sequence for key, sequence in state.touched.items() if key > end
                        }


def grown(state: State, settings: PipelineSettings) -> list[Frontier]:
    """Where this pipeline is listed from the last key on; empty if nowhere."""
    if settings.listing == "whole" or state.growth is None:
        return []
    return state.growth.grown(always=settings.listing == "growing")


async def ranged_pages(
    log: Log, stretch: Stretch, split_at: Sequence[str] = ()
) -> AsyncIterator[tuple[Page, str, str | None]]:
    """The stretch's pages, each with the key range (after, upto] that it covers."""
    held, after = None, stretch.after
    async for page in log.store.list(
        stretch.prefix, start_after=stretch.start_after, split_at=split_at
    ):
        if held is not None and held.keys:
            yield held, after, held.keys[-1]
            after = held.keys[-1]
        held = page
    yield held or Page.of([]), after, stretch.upto
