"""Points in time as people write them: commits, and times."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

_AGO = re.compile(r"(\d+)\s*([mhdw])\Z")
_NUMBERED = re.compile(r"g(\d{1,9}):(\d{1,19})\Z", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str, now: datetime) -> datetime | None:
    """The moment that a text names, seen from `now`; None if it names none."""
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now, "today": today, "yesterday": today - timedelta(days=1)}
    if text in named:
        return named[text]
    ago = _AGO.match(text)
    try:
        found = (
            now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            if ago is not None
            else datetime.fromisoformat(text)
        )
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


class Numbered(NamedTuple):
    """A commit by its number in the log of one generation of the table: `g1:7`."""

    generation: int
    sequence: int


When = int | Numbered | datetime
"""A commit, or a moment."""


def when(text: str, now: datetime) -> When | None:
    """The commit or moment that a text names; None if it names neither."""
    if text.isascii() and text.isdigit() and len(text) < 20:
        return int(text)
    named = _NUMBERED.match(text)
    return Numbered(int(named[1]), int(named[2])) if named is not None else moment(text, now)
