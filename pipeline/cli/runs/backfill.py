"""`tidemill backfill`: process objects again that were processed before."""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Literal

import click

from pipeline.cli.options import Target, on_bucket, on_engine, on_limits
from pipeline.cli.parameter_types import Moment
from pipeline.cli.runs.passes import shown
from pipeline.discover.backfill_selection import Selection
from pipeline.discover.request import Limits, Request
from pipeline.discover.router import Router
from pipeline.errors import SettingsError, nearest
from pipeline.model.commit import Generations
from pipeline.model.pass_report import PassReport
from pipeline.model.settings import PipelineSettings
from pipeline.passes.runner import Pass
from pipeline.runtime.engines import Engine
from pipeline.runtime.runtime import Runtime
from pipeline.state.generations import Change
from pipeline.state.state import State

Uploads = Literal["both", "live", "new"]


@click.command(
    "backfill",
    epilog=(
        "Example:  tidemill backfill flows.py --since yesterday --until today --bucket ./bucket"
    ),
)
@on_bucket
@on_engine
@on_limits
@click.option("--prefix", default="", help="only keys that begin so, after the source prefix")
@click.option(
    "--since",
    type=Moment(),
    help="only objects that changed at or after this time (36h, 7d, yesterday, 2026-11-23)",
)
@click.option("--until", type=Moment(), help="only objects that changed before this time")
@click.option("--transform", help="only objects that this transform takes")
@click.option(
    "--outdated",
    is_flag=True,
    help="only objects whose rows were made by another version of the code",
)
@click.option(
    "--new-generation",
    is_flag=True,
    help="fill a new generation beside the live one, to compare and publish",
)
@click.option(
    "--sample",
    type=click.IntRange(1),
    help="with --new-generation: only so many files, spread over all, to look at",
)
@click.option(
    "--uploads",
    type=click.Choice(["both", "live", "new"]),
    help=(
        "with --new-generation: where runs of this code put new uploads until it is published"
        " [default: new]"
    ),
)
@click.option(
    "--resume",
    "resume",
    type=click.IntRange(1),
    metavar="COMMIT",
    help="go on with the backfill that began there",
)
def backfill_command(  # noqa: PLR0917
    target: Target,
    engine: Engine,
    limits: Limits,
    prefix: str,
    since: datetime | None,
    until: datetime | None,
    transform: str | None,
    outdated: bool,
    new_generation: bool,
    sample: int | None,
    uploads: Uploads | None,
    resume: int | None,
) -> int:
    """Process objects again that were processed before, say after the code has changed.

    New objects are processed too.

    The old rows of a file count until its new ones are committed, and stay if the new code fails.
    --resume goes on with a backfill that was broken off: it leaves out what was committed since.

    With --new-generation the live rows stay as they are: all objects are processed into a
    generation beside them. Stop it as you like, the same command goes on. Then  tidemill diff,
    publish, and rollback if need be.
    """
    chosen = Chosen(prefix, since, until, transform, outdated, resume)
    if new_generation:
        chosen.check_takes_all(target, sampled=sample is not None)
        work = partial(
            _fill,
            limits=limits,
            sample=sample,
            prefix=prefix,
            uploads=uploads,
            quiet=target.as_json,
        )
    elif sample or uploads:
        raise click.UsageError("--sample and --uploads go with --new-generation")
    else:
        chosen.check(target)
        work = partial(_process_again, chosen=chosen, limits=limits, quiet=target.as_json)
    return asyncio.run(shown(target, engine, work=work, usd=limits.usd, fills_empty=new_generation))


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which objects are processed again, as the options say it."""

    prefix: str
    since: datetime | None
    until: datetime | None
    transform: str | None
    outdated: bool
    resume: int | None

    def check_takes_all(self, target: Target, *, sampled: bool) -> None:
        """Refuse what chooses some objects for a new generation; a sample may have a prefix."""
        target.only()
        chooses = self.since or self.until or self.transform or self.outdated or self.resume
        if chooses or (self.prefix and not sampled):
            raise click.UsageError(
                "--new-generation takes all objects: it goes with no selection but --sample (and"
                " with that --prefix)"
            )

    def check(self, target: Target) -> None:
        """Refuse what can choose nothing."""
        names = [t.settings.name for p in target.pipelines for t in p.transforms]
        if self.transform is not None and self.transform not in names:
            raise SettingsError(
                f"{target.file} declares no transform"
                f" {self.transform!r}{nearest(self.transform, names)}"
            )
        since, until = self.since, self.until
        if since is not None and until is not None and since >= until:
            raise click.UsageError(
                f"nothing lies between --since {since:%Y-%m-%dT%H:%M:%S} and --until"
                f" {until:%Y-%m-%dT%H:%M:%S}"
            )

    def check_commit(self, pipeline: str, newest: int) -> None:
        """Refuse to go on with a backfill that cannot have begun yet."""
        if self.resume is not None and self.resume > newest:
            raise SettingsError(
                f"--resume {self.resume}: {pipeline} has no such commit yet, the newest is {newest}"
            )

    def selection(self, settings: PipelineSettings) -> Selection:
        """The same for one pipeline."""
        return Selection(
            settings=settings,
            prefix=settings.source + self.prefix,
            since_us=_us(self.since),
            until_us=_us(self.until),
            transform=self.transform,
            outdated=self.outdated,
            committed_upto=self.resume,
        )


async def _process_again(
    runtime: Runtime, *, chosen: Chosen, limits: Limits, quiet: bool
) -> tuple[PassReport, State]:
    runtime = runtime.filled(await runtime.generations())[0]
    settings, before = runtime.settings, await runtime.log().load()
    chosen.check_commit(settings.name, before.sequence)
    if not quiet:
        click.echo(
            f"{settings.name}: backfill from commit {before.sequence} (--resume {before.sequence})",
            err=True,
        )
    again = chosen.selection(settings).again(Router(settings))
    return await runtime.run(before, request=Request(limits=limits, again=again))


async def _fill(
    runtime: Runtime,
    *,
    limits: Limits,
    sample: int | None,
    prefix: str,
    uploads: Uploads | None,
    quiet: bool,
) -> tuple[PassReport, State]:
    """Fill the new generation: begin it, or go on with it."""
    known = await _begun(runtime, sample, uploads)
    one = runtime.of_generation(known.candidate or 0)
    await one.open()
    if not quiet:
        click.echo(
            f"{runtime.settings.name}: filling generation {known.candidate} beside generation"
            f" {known.live}",
            err=True,
        )
    names = None
    if sample is not None:
        live = runtime.of_generation(known.live)
        names = await sampled(live, sample, runtime.settings.source + prefix)
    return await one.run(request=Request(limits=limits, names=names))


async def _begun(runtime: Runtime, sample: int | None, uploads: Uploads | None) -> Generations:
    """The generations with the new one: it may have been begun before."""
    versions = runtime.settings.versions
    change = Change(kind="begin", versions=versions, sample=sample, uploads=uploads)
    return await Pass(runtime.context()).change_generations(change)


async def sampled(live: Runtime, n: int, prefix: str) -> list[str]:
    """Keys of so many committed objects, spread over all, and the same ones each time: those whose
    hashes are smallest.
    """
    log, best = live.log(), list[tuple[int, str]]()
    async for some in log.all_committed(await log.load()):
        for key in some.column("key").to_pylist():
            if key.startswith(prefix):
                one = (-_hash(key), key)
                heapq.heappushpop(best, one) if len(best) >= n else heapq.heappush(best, one)
    return sorted(key for _, key in best)


def _hash(key: str) -> int:
    return int.from_bytes(sha256(key.encode()).digest()[:8])


def _us(when: datetime | None) -> int | None:
    return None if when is None else int(when.timestamp() * 1e6)
