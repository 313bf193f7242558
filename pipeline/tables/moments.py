"""Moments and commits as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import click

_AGO = re.compile(r"(\d+)\s*([mhdw])\Z")
_NUMBERED = re.compile(r"g(\d{1,9}):(\d{1,19})\Z", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Moment(click.ParamType[datetime]):
    """A moment: `yesterday`, `36h` or `7d` ago, `2026-11-23` or `2026-11-23T08:00` (UTC unless it
    says otherwise).
    """

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """The moment, with a time zone."""
        if isinstance(value, datetime):
            return value
        found = moment(str(value), datetime.now(UTC))
        if found is None:
            self.fail(
                f"{value!r} is no time: write 36h, 7d, yesterday, 2026-11-23 or 2026-11-23T08:00",
                param,
                ctx,
            )
        return found


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


class At(click.ParamType["When"]):
    """A commit's number, with its generation where the table has several (`g1:7`), or a moment."""

    name = "commit or time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> When:
        """The commit, or the moment with a time zone."""
        if isinstance(value, int | datetime | Numbered):
            return value
        found = when(str(value), datetime.now(UTC))
        return Moment().convert(value, param, ctx) if found is None else found


def when(text: str, now: datetime) -> When | None:
    """The commit or moment that a text names; None if it names neither."""
    if text.isascii() and text.isdigit() and len(text) < 20:
        return int(text)
    named = _NUMBERED.match(text)
    return Numbered(int(named[1]), int(named[2])) if named is not None else moment(text, now)
