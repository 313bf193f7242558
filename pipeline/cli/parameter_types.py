"""What options take besides texts and numbers: times, commits, sizes."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import click

from pipeline.tables.points_in_time import Numbered, When, moment, when


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


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?\Z", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class Size(click.ParamType[int]):
    """A number of bytes: `500MB`, `2GiB`, `1.5 GB`, `4096`."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The bytes; at least one."""
        if isinstance(value, int):
            return value
        found = _SIZE.match(str(value).strip())
        base = 1024 if found is not None and found[3] else 1000
        n = (
            int(float(found[1]) * base ** _POWERS[(found[2] or "").lower()])
            if found is not None
            else 0
        )
        if n < 1:
            self.fail(f"{value!r} is no size: write 500MB, 2GiB or a number of bytes", param, ctx)
        return n
