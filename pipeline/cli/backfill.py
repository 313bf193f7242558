"""`tidemill backfill`: process objects again that were processed before."""

from __future__ import annotations

import asyncio
from datetime import datetime

import click

from pipeline.assembly import Runtime
from pipeline.cli.moments import Moment
from pipeline.cli.options import Target, on_bucket, on_engine, on_limits
from pipeline.cli.run import Run
from pipeline.discovery import Router
from pipeline.engines import Engine
from pipeline.errors import SettingsError, nearest
from pipeline.parts import Limits, PassReport, Request
from pipeline.selection import Selection
from pipeline.state import State


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
