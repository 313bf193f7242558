"""Moments and commits as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click

_AGO = re.compile(r"(\d+)\s*([mhdw])\Z")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Moment(click.ParamType[datetime]):
    """A moment: `yesterday`, `36h` or `7d` ago, `2026-11-23` or `2026-11-23T08:00` (UTC unless it says otherwise)."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The moment, with a time zone."""
        if isinstance(value, datetime):
            return value
        found = moment(str(value), datetime.now(UTC))
        if found is None:
            self.fail(f"{value!r} is no time: write 36h, 7d, yesterday, 2026-11-23 or 2026-11-23T08:00", param, ctx)
        return found


def moment(text: str, now: datetime) -> datetime | None:
    """The moment that a text names, seen from `now`; None if it names none."""
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now, "today": today, "yesterday": today - timedelta(days=1)}
    if text in named:
        return named[text]
    ago = _AGO.match(text)
    try:
        found = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])}) if ago is not None else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


class At(click.ParamType["int | datetime"]):
    """A commit's number, or a moment."""

    name = "commit or time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | datetime:
        """The number, or the moment with a time zone."""
        if isinstance(value, int | datetime):
            return value
        text = str(value)
        return int(text) if text.isdigit() and len(text) < 20 else Moment().convert(text, param, ctx)
