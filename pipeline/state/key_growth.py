"""Which prefixes grow at their end, as dates and sequence numbers do: there a pass lists from the
last key on, not all there is.

Advice only, gathered while a whole listing goes by, and kept in checkpoints: a key that comes late,
below the last one, is found by a notice or by the next whole listing. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from pipeline.model.listing import Page

OVERLAP_S = 120
"""Uploads may end in another order than that of their keys: what was uploaded so long before the
newest is listed again.
"""
LATE_MAX = 0.001
"""Share of late keys above which a prefix is not taken to grow."""
LISTED_MIN = 50_000
"""Objects below which a whole listing is cheap enough to be made each time."""
PREFIXES_MAX = 16
"""Folders right below the source that are looked at one by one; with more, the source grows as a
whole or not at all.
"""
MARK_KEYS = 500
_MARKS = 512
_SAMPLES = 1000


class Frontier(msgspec.Struct, frozen=True, kw_only=True):
    """How far a prefix was listed, and how often a key would have been missed by listing from the
    last one.
    """

    prefix: str
    start_after: str
    """Listings go on above this key: the last one, less the overlap."""
    last: str
    seen: int
    late: int

    @property
    def share_late(self) -> float:
        return self.late / max(self.seen, 1)


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """What the last whole listing showed, and how far listings came since."""

    listed: int
    """Objects in the last whole listing."""
    whole: Frontier
    """The source as one prefix."""
    folders: list[Frontier] = []
    """The folders right below it, if they are few and all there is."""

    def grown(self, *, always: bool) -> list[Frontier]:
        """Where to list from the last key on; empty if nowhere. `always`: whatever
        listings showed.
        """
        if not always and self.listed < LISTED_MIN:
            return []
        if _grows(self.whole):
            return [self.whole]
        folders = self.folders if always else [folder for folder in self.folders if _grows(folder)]
        return folders or ([self.whole] if always else [])


def explained(growth: Growth, listing: str) -> str:
    """One line for people: what passes between two whole listings list, and why."""
    if listing == "whole":
        return 'listed whole each time: listing="whole"'
    found = growth.grown(always=listing == "growing")
    if found:
        names = ", ".join(repr(frontier.prefix) for frontier in found)
        why = f"{_late_of_seen(found)} objects came below a key of {OVERLAP_S} s before"
        return f"between two whole listings only from the last key on below {names}: {why}"
    if growth.listed < LISTED_MIN:
        return f"listed whole each time: below {LISTED_MIN:,} objects that is cheap"
    return (
        f"listed whole each time: {growth.whole.share_late:.1%} of {growth.listed:,} objects came"
        " below a key that was there before"
    )


def _late_of_seen(found: Sequence[Frontier]) -> str:
    return f"{sum(f.late for f in found):,} of {sum(f.seen for f in found):,}"


def _grows(frontier: Frontier) -> bool:
    return bool(frontier.last) and frontier.share_late <= LATE_MAX


class Stretch(NamedTuple):
    """A part of the key space to list: keys with `prefix` above `start_after`; it covers (after,
    upto].
    """

    prefix: str
    start_after: str
    after: str
    upto: str | None


def stretch_of(frontier: Frontier, source: str) -> Stretch:
    """The stretch from a frontier to the end of its prefix."""
    if frontier.prefix == source:
        return Stretch(source, frontier.start_after, frontier.start_after, None)
    # what sorts between its neighbours and itself is no key that anybody would use
    folder = frontier.prefix[:-1]
    below, above = folder + chr(ord("/") - 1) + chr(0x10FFFF), folder + chr(ord("/") + 1)
    return Stretch(frontier.prefix, frontier.start_after, frontier.start_after or below, above)


class Survey:
    """Watches pages of one listing go by, in key order."""

    def __init__(self, source: str, before: Growth | None = None) -> None:
        self._source = source
        self._before = before
        self._whole = _Tally()
        self._folders: dict[str, _Tally] | None = {}

    def note(self, page: Page) -> None:
        """Take in the next page of the listing."""
        if page.keys:
            self._whole.add(page.keys, page.modified_us)
        start = 0
        while self._folders is not None and start < len(page.keys):
            folder = self._folder(page.keys[start])
            if folder is None or (
                folder not in self._folders and len(self._folders) == PREFIXES_MAX
            ):
                self._folders = None
                return
            end = bisect_left(page.keys, folder[:-1] + chr(ord("/") + 1), start)
            self._folders.setdefault(folder, _Tally()).add(
                page.keys[start:end], page.modified_us[start:end]
            )
            start = end

    def _folder(self, key: str) -> str | None:
        """The folder right below the source, None for a key that is in none."""
        name, slash, _ = key[len(self._source) :].partition("/")
        return self._source + name + slash if slash else None

    def growth(self) -> Growth:
        """What a whole listing showed."""
        folders = [tally.frontier(prefix) for prefix, tally in (self._folders or {}).items()]
        return Growth(
            listed=self._whole.seen, whole=self._whole.frontier(self._source), folders=folders
        )

    def further(self, listed: Sequence[Frontier]) -> Growth | None:
        """How far listings came now that what `listed` says was listed from there on."""
        if self._before is None:
            return None
        names = {frontier.prefix for frontier in listed}
        before, tallies = self._before, self._folders or {}
        whole = self._whole.further(before.whole) if before.whole.prefix in names else before.whole
        folders = [
            tallies[f.prefix].further(f) if f.prefix in names and f.prefix in tallies else f
            for f in before.folders
        ]
        return msgspec.structs.replace(before, whole=whole, folders=folders)


@dataclass(slots=True)
class _Tally:
    """Counts of one prefix.

    What is late is judged on samples within a page, and on pages against each other.
    """

    seen: int = 0
    last: str = ""
    newest_us: int = 0
    pages: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(earliest, latest, keys, late keys) of each page."""
    marks: deque[tuple[str, int]] = field(default_factory=lambda: deque(maxlen=_MARKS))

    def add(self, keys: Sequence[str], modified_us: Sequence[int]) -> None:
        step = max(1, len(keys) // _SAMPLES)
        late, earliest = 0, modified_us[-1]
        for when in reversed(modified_us[::step]):
            late += when > earliest + OVERLAP_S * 1_000_000
            earliest = min(earliest, when)
        self.pages.append((earliest, max(modified_us), len(keys), late * step))
        self.marks.extend((keys[i], modified_us[i]) for i in range(0, len(keys), MARK_KEYS))
        self.seen += len(keys)
        self.last, self.newest_us = keys[-1], max(self.newest_us, self.pages[-1][1])

    def _late(self) -> int:
        """Keys below one that is older by more than the overlap."""
        late, earliest_after = 0, None
        for earliest, latest, n, within in reversed(self.pages):
            limit = None if earliest_after is None else earliest_after + OVERLAP_S * 1_000_000
            late += n if limit is not None and latest > limit else within
            earliest_after = earliest if earliest_after is None else min(earliest, earliest_after)
        return late

    def _start_after(self, otherwise: str) -> str:
        limit = self.newest_us - OVERLAP_S * 1_000_000
        return next((key for key, when in reversed(self.marks) if when <= limit), otherwise)

    def frontier(self, prefix: str) -> Frontier:
        first = self.marks[0][0] if len(self.marks) == _MARKS else ""
        return Frontier(
            prefix=prefix,
            start_after=self._start_after(first),
            last=self.last,
            seen=self.seen,
            late=self._late(),
        )

    def further(self, before: Frontier) -> Frontier:
        if self.last <= before.last:
            return before
        return msgspec.structs.replace(
            before, start_after=self._start_after(before.start_after), last=self.last
        )
