"""Quarantined files by reason: reasons that differ only in numbers, quoted values and keys are the
same one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.errors import SettingsError
from pipeline.model.commit import Quarantined
from pipeline.wording import count, duration

NAMED_MAX = 5
_KEEP = r"\b(?:u?int|float|decimal|utf-?|sha-?|md|base|latin-?|cp|s)\d+\b"
_VARYING = re.compile(
    rf"(?P<keep>{_KEEP})"
    r"""|(?P<quoted>(?<!\w)b?'(?:[^'\\]|\\.)*(?:'(?!\w)|\Z)|(?<!\w)b?"(?:[^"\\]|\\.)*(?:"(?!\w)|\Z))"""
    r"|(?P<number>\b0[xX][0-9a-fA-F]+\b|\b(?=[0-9a-fA-F-]*\d)[0-9a-fA-F]{8,}(?:-[0-9a-fA-F]{4,})*\b"
    r"|(?<![A-Za-z_])(?:(?<![\w)])[-+])?\d+(?:[.,:]\d+)*(?:[eE][-+]?\d+)?)"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One quarantined version, with its pipeline's name."""

    pipeline: str
    quarantined: Quarantined

    @property
    def reason(self) -> str:
        """The reason without what varies from file to file."""
        return normalised(self.quarantined.reason, self.quarantined.key)

    @property
    def transform(self) -> str:
        """Pipeline and transform, as far as one is known."""
        return (
            f"{self.pipeline}.{self.quarantined.transform}"
            if self.quarantined.transform
            else self.pipeline
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Files of one kind, transform and normalised reason."""

    entries: Sequence[Entry]

    @property
    def first(self) -> Entry:
        """An example."""
        return self.entries[0]

    @property
    def reason(self) -> str:
        """In its own words where all files have the same, else normalised."""
        words = self.first.quarantined.reason
        return (
            words if all(e.quarantined.reason == words for e in self.entries) else self.first.reason
        )

    def again(self, now_ms: int) -> str:
        """When its files are tried again."""
        first = self.first.quarantined
        if first.kind != "lost":
            return _AGAIN[first.kind]
        waits_s = self._waits_s(now_ms)
        if not waits_s:
            return _AGAIN["cancelled"]
        soonest, latest = min(waits_s), max(waits_s)
        if not latest:
            return "with the next run"
        until = "" if duration(soonest) == duration(latest) else f" to {duration(latest)}"
        return f"in {duration(soonest)}{until}" if soonest else f"from now on to {duration(latest)}"

    def _waits_s(self, now_ms: int) -> list[float]:
        """Seconds until each of those files that are tried again by themselves."""
        return [
            max(0, e.quarantined.retry_at_ms - now_ms) / 1000
            for e in self.entries
            if e.quarantined.retry_at_ms
        ]


_AGAIN = {
    "failed": "when the file changes, or by retry",
    "cancelled": "by retry",
    "key": "when the file is renamed",
}


def normalised(reason: str, key: str = "") -> str:
    """The reason with numbers as `#`, quoted texts as `'...'`, and the file's own key
    as `<key>`.
    """
    for name in (key, key.rpartition("/")[2]):
        if len(name) >= 3 and not name.isdigit() and name in reason:
            reason = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<key>", reason)
    return _normalised(reason)


@functools.lru_cache(maxsize=10_000)
def _normalised(reason: str) -> str:
    return _VARYING.sub(_instead, reason)


def _instead(found: re.Match[str]) -> str:
    if found["keep"] is not None:
        return found["keep"]
    return "'...'" if found["quoted"] is not None else "#"


def grouped(entries: Iterable[Entry]) -> list[Group]:
    """By pipeline, kind, transform and normalised reason; large groups first."""
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.quarantined.kind, entry.transform, entry.reason), []).append(entry)
    return sorted((Group(found) for found in groups.values()), key=lambda g: -len(g.entries))


def matching(entries: Sequence[Entry], reason: str | None, kind: str | None) -> list[Entry]:
    """Those whose reason, raw or normalised, contains the text (in either case), and of this kind.

    Raises SettingsError where there are entries and none matches, with the reasons there are.
    """
    text = reason.casefold() if reason is not None else ""
    found = [e for e in entries if (kind is None or e.quarantined.kind == kind) and _has(e, text)]
    if found or not entries:
        return found
    wanted = " and ".join(
        [
            *([f"kind {kind}"] if kind is not None else []),
            *([f"{reason!r} in its reason"] if reason is not None else []),
        ]
    )
    raise SettingsError(f"no quarantined file has {wanted}; there is {_named(entries)}")


def _has(entry: Entry, text: str) -> bool:
    """Whether its reason, raw or normalised, contains the text, which is in lower case."""
    return (
        not text or text in entry.quarantined.reason.casefold() or text in entry.reason.casefold()
    )


def _named(entries: Sequence[Entry]) -> str:
    """The reasons that most entries have, for a message."""
    groups = grouped(entries)
    named = "; ".join(
        f"{g.first.quarantined.kind}: {g.reason[:100]} ({len(g.entries):,})"
        for g in groups[:NAMED_MAX]
    )
    more = (
        f"; and {count(len(groups) - NAMED_MAX, 'more reason')}" if len(groups) > NAMED_MAX else ""
    )
    return f"{named}{more}"
