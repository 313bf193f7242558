"""From a page of a listing to what is new, changed or missing.

The comparison is pure; the two requests it needs are named.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pipeline.discover.router import Router
from pipeline.model import keys
from pipeline.model.commit import Quarantined
from pipeline.model.listing import Head, Page
from pipeline.model.task import Inputs
from pipeline.plan.evidence import ByTransform, Found
from pipeline.ports import Store
from pipeline.state.ledger import Entry, overlay_between
from pipeline.state.state import State

if TYPE_CHECKING:
    import pyarrow as pa


class Known(NamedTuple):
    """What the ledger says of a key, as far as a comparison needs it."""

    etag: str
    output: str
    version: str
    sequence: int


@dataclass(slots=True)
class Judged:
    """What one page says: objects to process by transform, known keys that the page lacks, and what
    no route takes.
    """

    found: list[Found] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    listed: int = 0
    listed_bytes: int = 0
    unmatched: int = 0
    unmatched_sample: list[str] = field(default_factory=list)
    unusable: list[Quarantined] = field(default_factory=list)


Again = Callable[[str, int, Known], bool]
"""Whether an object at its committed version is to be processed again: its key, its time of change,
and what is known of it.
"""


def judge(  # noqa: PLR0917
    page: Page,
    state: State,
    committed: pa.Table | None,
    router: Router,
    after: str,
    upto: str | None,
    again: Again | None = None,
) -> Judged:
    """Compare a page that covers the keys in (`after`, `upto`] with what the ledger's runs hold
    there, and with the overlay.

    Objects at their committed version cost nothing further, but for those that `again` picks.
    `replaces` of what is found is exact as long as no commit decides about the key before it is
    planned (the planner checks that).
    """
    unusable, page = page.unusable, without_markers(page)
    judged = Judged(listed=len(page.keys), listed_bytes=sum(page.sizes))
    judged.unusable = [_unusable(name) for name in unusable]
    changed = dict(overlay_between(state.overlay, after, upto))
    set_aside = [key for key in state.quarantine if after < key and (upto is None or key <= upto)]
    if again is None and committed is not None:
        page, committed = differing(page, committed, [*changed, *set_aside])
    known = _known(committed, changed)
    if not known and router.everything is not None:
        judged.found = [Found(router.everything, Inputs.new(page))] if page.keys else []
    else:
        _compare(judged, page, known, router, _also_waiting(state, again))
    judged.absent = sorted([*known, *_absent_quarantined(page, state, known, set_aside)])
    return judged


def differing(page: Page, committed: pa.Table, keep: Iterable[str]) -> tuple[Page, pa.Table]:
    """The page's objects and the ledger's rows without those that are the same in both; keys in
    `keep` stay, whatever they are.

    On whole columns: of millions of objects, Python sees those that matter.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    keys, known_keys = pa.array(page.keys, pa.string()), _array(committed, "key")
    same = _has_etag(page, keys, known_keys, _array(committed, "etag"))
    if kept := sorted(keep):
        same = pc.and_(same, pc.invert(pc.is_in(keys, value_set=pa.array(kept, pa.string()))))
    other = pc.indices_nonzero(pc.invert(same)).to_pylist()
    if not other and len(keys) == len(known_keys):
        return page.take([]), committed.slice(0, 0)
    rest = pc.invert(pc.is_in(known_keys, value_set=keys.filter(same)))
    return page.take(other), committed.filter(rest)


def _has_etag(page: Page, keys: pa.Array, known_keys: pa.Array, known_etags: pa.Array) -> pa.Array:
    """Which of the page's objects are known, at this version."""
    import pyarrow as pa
    import pyarrow.compute as pc

    etags = pa.array(page.etags, pa.string())
    if keys.equals(known_keys):  # the common case: the same keys in the same order
        return pc.equal(known_etags, etags)
    at = pc.index_in(keys, value_set=known_keys)
    return pc.fill_null(pc.equal(known_etags.take(at), etags), fill_value=False)


def _array(table: pa.Table, name: str) -> pa.Array:
    import pyarrow as pa

    chunks = table.column(name).chunks
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)


def in_ranges(
    page: Page, after: str, upto: str | None, ends: Sequence[str]
) -> Iterator[tuple[Page, str, str | None]]:
    """The page in pieces, each with the range (above, end] that it covers: none spans two of the
    ranges that `ends` end.
    """
    start = 0
    for end in ends:
        stop = bisect_right(page.keys, end)
        yield page.slice(start, stop), after, end
        start, after = stop, end
    yield page.slice(start), after, upto


def without_markers(page: Page) -> Page:
    """The page's objects without those that only stand for folders.

    Names that can be no keys are left out where there are some.
    """
    if 0 not in page.sizes:
        return page
    sized = enumerate(zip(page.keys, page.sizes, strict=True))
    return page.take([i for i, (key, size) in sized if not keys.is_folder_marker(key, size)])


def judge_named(
    heads: Sequence[Head | None],
    names: Sequence[str],
    state: State,
    router: Router,
    again: Again | None,
) -> Judged:
    """Compare objects that were asked for by name, each with its head or None where there is none,
    with the ledger.
    """
    heads = [_source(head) for head in heads]
    there = [head for head in heads if head is not None]
    page = _page_of(there)
    known = _known_of(state, there)
    judged = Judged(listed=len(there))
    _compare(judged, page, known, router, _also_waiting(state, again))
    for found in judged.found:
        found.again = False  # who names an object wants it now, whatever became of it before
    judged.absent = [name for name, head in zip(names, heads, strict=True) if head is None]
    return judged


def _page_of(heads: Iterable[Head]) -> Page:
    return Page.of([(h.key, h.etag, h.size_bytes, h.modified_us) for h in heads])


def _known_of(state: State, heads: Iterable[Head]) -> dict[str, Known]:
    entries = {head.key: state.entry(head.key) for head in heads}
    return {
        key: Known(e.etag, e.output, e.version, e.sequence)
        for key, e in entries.items()
        if e is not None
    }


def judge_unknown(page: Page, state: State, router: Router) -> Judged:
    """Of a listing that may be days old: the objects that no commit ever spoke of.

    What is known may be newer than the page.
    """
    page = without_markers(page)
    judged = Judged(listed=len(page.keys))
    fresh = [
        i
        for i, key in enumerate(page.keys)
        if key not in state.wanted and key not in state.quarantine and state.entry(key) is None
    ]
    _compare(judged, page.take(fresh), {}, router, None)
    return judged


def _compare(
    judged: Judged, page: Page, known: dict[str, Known], router: Router, again: Again | None
) -> None:
    """Sort the page's objects by transform: new and changed, then those for once more.

    Takes the page's keys out of `known`.
    """
    groups = ByTransform()
    for key, etag, size, modified in zip(
        page.keys, page.etags, page.sizes, page.modified_us, strict=True
    ):
        before = known.pop(key, None)
        if (
            before is not None
            and before.etag == etag
            and (again is None or not again(key, modified, before))
        ):
            continue
        if not router.includes(key):
            continue
        transform = router.route(key)
        if transform is None:
            judged.unmatched += 1
            if len(judged.unmatched_sample) < 5:
                judged.unmatched_sample.append(key)
            continue
        once_more = before is not None and before.etag == etag
        output = before.output if before is not None else None
        groups.of(transform, again=once_more).append(key, etag, size, modified, output)
    judged.found = groups.found()


def _also_waiting(state: State, again: Again | None) -> Again | None:
    """Committed versions that were to be processed once more, and whose attempt gave no answer,
    still are.
    """
    quarantine = state.quarantine
    if not quarantine:
        return again

    def is_wanted(key: str, modified_us: int, before: Known) -> bool:
        waiting = quarantine.get(key)
        waits = waiting is not None and waiting.retry_at_ms != 0 and waiting.etag == before.etag
        return waits or (again is not None and again(key, modified_us, before))

    return is_wanted


def _known(committed: pa.Table | None, changed: Mapping[str, Entry | None]) -> dict[str, Known]:
    """The committed keys of a range."""
    known: dict[str, Known] = {}
    if committed is not None and committed.num_rows:
        names, *rest = (committed.column(name).to_pylist() for name in ("key", *Known._fields))
        known = dict(zip(names, map(Known._make, zip(*rest, strict=True)), strict=True))
    for key, entry in changed.items():
        if entry is None:
            known.pop(key, None)
        else:
            known[key] = Known(entry.etag, entry.output, entry.version, entry.sequence)
    return known


def _absent_quarantined(
    page: Page, state: State, known: Iterable[str], set_aside: Sequence[str]
) -> list[str]:
    """Quarantined keys of the range that the page lacks.

    Names that can be no key are listed nowhere: they stay.
    """
    candidates = [key for key in set_aside if state.quarantine[key].kind != "key"]
    if not candidates:
        return []
    present = set(page.keys)
    present.update(known)
    return [key for key in candidates if key not in present]


def _unusable(name: str) -> Quarantined:
    return Quarantined(
        key=name,
        etag="",
        kind="key",
        reason="the name is not valid UTF-8, so it cannot be an object key: rename the file",
    )


async def with_more(pages: AsyncIterator[Page]) -> AsyncIterator[tuple[Page, bool]]:
    """Each page, and whether another follows."""
    held: Page | None = None
    async for page in pages:
        if held is not None:
            yield held, True
        held = page
    if held is not None:
        yield held, False


async def confirm_missing(store: Store, absent: Sequence[str]) -> list[str]:
    """Those keys of `absent` that a request for each does not find either: a listing may be stale,
    a HEAD is not.
    """
    if not absent:
        return []
    return [
        key
        for key, head in zip(absent, await store.head_many(absent), strict=True)
        if _source(head) is None
    ]


def _source(head: Head | None) -> Head | None:
    """None where there is no object, and where there is one that only stands for a folder."""
    return None if head is None or keys.is_folder_marker(head.key, head.size_bytes) else head
