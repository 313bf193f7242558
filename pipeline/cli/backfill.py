"""`tidemill backfill`: process objects again that were processed before."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

import click

from pipeline.assembly import Runtime
from pipeline.cli.options import Target, on_bucket, on_engine, on_limits
from pipeline.cli.run import Run
from pipeline.discovery import Router
from pipeline.engines import Engine
from pipeline.errors import SettingsError, nearest
from pipeline.parts import Limits, PassReport, Request
from pipeline.selection import Selection
from pipeline.state import State

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


@click.command("backfill", epilog="Example:  tidemill backfill pipeline.py --since yesterday --until today --bucket ./bucket")
@on_bucket
@on_engine
@on_limits
@click.option("--prefix", default="", help="only keys that begin so, after the source prefix")
@click.option("--since", type=Moment(), help="only objects that changed at or after this time (36h, 7d, yesterday, 2026-11-23)")
@click.option("--until", type=Moment(), help="only objects that changed before this time")
@click.option("--transform", help="only objects that this transform takes")
@click.option("--outdated", is_flag=True, help="only objects whose rows were made by another version of the code")
@click.option("--resume", "resume", type=click.IntRange(1), metavar="COMMIT", help="go on with the backfill that began there")
def backfill_command(  # noqa: PLR0917
    target: Target,
    engine: Engine,
    limits: Limits,
    prefix: str,
    since: datetime | None,
    until: datetime | None,
    transform: str | None,
    outdated: bool,
    resume: int | None,
) -> int:
    """Process objects again that were processed before, say after the code has changed. New objects are processed too.

    The old rows of a file count until its new ones are committed, and stay if the new code fails. --resume goes on with a backfill
    that was broken off: it leaves out what was committed since.
    """
    names = [t.settings.name for p in target.pipelines for t in p.transforms]
    if transform is not None and transform not in names:
        raise SettingsError(f"{target.file} declares no transform {transform!r}{nearest(transform, names)}")

    if since is not None and until is not None and since >= until:
        raise click.UsageError(f"nothing lies between --since {since:%Y-%m-%dT%H:%M:%S} and --until {until:%Y-%m-%dT%H:%M:%S}")

    async def work(runtime: Runtime) -> tuple[PassReport, State]:
        before = await runtime.log().load()
        if not target.as_json:
            click.echo(f"{runtime.settings.name}: backfill from commit {before.sequence} (--resume {before.sequence})", err=True)
        selected = Selection(
            settings=runtime.settings,
            prefix=runtime.settings.source + prefix,
            since_us=_us(since),
            until_us=_us(until),
            transform=transform,
            outdated=outdated,
            committed_upto=resume,
        )
        return await runtime.run(before, request=Request(limits=limits, again=selected.again(Router(runtime.settings))))

    return asyncio.run(Run(target, engine, work=work, usd=limits.usd).go())


def _us(when: datetime | None) -> int | None:
    return None if when is None else int(when.timestamp() * 1e6)
