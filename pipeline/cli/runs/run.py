"""`tidemill run`: passes until nothing is new; with --watch, until interrupted.

`tidemill hint`: for keys that are named.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import click

from pipeline.cli.options import Target, on_bucket, on_engine, on_limits, priority_of
from pipeline.cli.runs.passes import shown
from pipeline.discover.request import Limits, Request
from pipeline.errors import SettingsError
from pipeline.model.pass_report import PassReport
from pipeline.notices.sqs import NoticeQueue
from pipeline.runtime.engines import Engine
from pipeline.runtime.runtime import Runtime
from pipeline.runtime.watch import SWEEP_S, Watching, Work
from pipeline.state.state import State
from pipeline.stores import open_store
from pipeline.stores.s3.address import s3_address


@click.command("run", epilog="Example:  tidemill run flows.py --bucket ./bucket --watch")
@on_bucket
@on_engine
@on_limits
@click.option(
    "--priority",
    "words",
    multiple=True,
    metavar="ORDER|PREFIX",
    help="what goes first: newest, oldest, or files below PREFIX (several)",
)
@click.option("--watch", is_flag=True, help="go on until interrupted (Ctrl-C stops cleanly)")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1, 86400),
    default=5.0,
    help="--watch: seconds between looks",
)
@click.option(
    "--queue",
    "queue_url",
    metavar="URL",
    help="--watch: an SQS queue of upload notices; what they name is not listed",
)
@click.option(
    "--sweep",
    "sweep_s",
    type=click.FloatRange(1, 604800),
    help=(
        "--watch: seconds between whole listings, where not each look is one [default: up to"
        f" {SWEEP_S:g}]"
    ),
)
@click.option(
    "--inventory",
    metavar="URL",
    help="an S3 Inventory's manifest.json: process what it names and is not known yet",
)
@click.option("--job", "job", help="process the files of this job only (see  tidemill submit)")
@click.option(
    "--fail-on",
    type=click.Choice(["quarantined"]),
    help=(
        "exit code 1 while any file is in quarantine, also of earlier runs [default: of this run"
        " alone]"
    ),
)
def run_command(  # noqa: PLR0917
    target: Target,
    engine: Engine,
    limits: Limits,
    words: tuple[str, ...],
    watch: bool,
    interval_s: float,
    queue_url: str | None,
    sweep_s: float | None,
    inventory: str | None,
    job: str | None,
    fail_on: str | None,
) -> int:
    """Process every new and changed object of FILE's pipelines; commit the rows; forget deleted
    objects.

    On this machine, or with --engine modal on the containers of a deployed app: there the command
    hands the work over and leaves, unless --wait. Exit code 1 if files were quarantined or put off,
    with --fail-on quarantined also while earlier ones are in quarantine. What is left when a run is
    killed is picked up by the next one.
    """
    _check_options(
        watch=watch,
        limited=bool(limits),
        ordered=bool(words),
        job=job,
        queue_url=queue_url,
        sweep_s=sweep_s,
        inventory=inventory,
    )
    request = Request(limits=limits, priority=priority_of(words))
    passes = partial(shown, target, engine, fail_on=fail_on)
    work = _other_work(target, request, job=job, inventory=inventory)
    if work is not None:
        return asyncio.run(passes(work=work, usd=limits.usd))
    watching = _watching(target, queue_url, interval_s, sweep_s) if watch else None
    return asyncio.run(passes(watching=watching, request=request, usd=limits.usd))


def _check_options(
    *,
    watch: bool,
    limited: bool,
    ordered: bool,
    job: str | None,
    queue_url: str | None,
    sweep_s: float | None,
    inventory: str | None,
) -> None:
    if job is not None and (watch or limited or ordered):
        raise click.UsageError(
            "--job goes with neither --watch nor --limit nor --priority: it runs the job's files,"
            " once"
        )
    if (queue_url and (not watch or limited)) or (sweep_s and not watch):
        raise click.UsageError(
            "--queue needs --watch, and goes with no --limit; --sweep needs --watch"
        )
    if inventory is not None and (watch or job):
        raise click.UsageError(
            "--inventory goes with neither --watch nor --job: it is a listing, and read once"
        )


def _other_work(
    target: Target, request: Request, *, job: str | None, inventory: str | None
) -> Work | None:
    """What to do in place of passes until nothing is new."""
    if job is not None:
        return partial(_job, job, alone=len(target.pipelines) == 1)
    if inventory is not None:
        return partial(_inventory, target, inventory, request)
    return None


def _watching(
    target: Target, queue_url: str | None, interval_s: float, sweep_s: float | None
) -> Watching:
    queue = _queue(target, queue_url) if queue_url is not None else None
    return Watching(interval_s=interval_s, sweep_s=sweep_s, notices=queue)


def _queue(target: Target, url: str) -> NoticeQueue:
    if not target.bucket.url.startswith("s3://"):
        raise click.UsageError(
            f"--queue is for notices of an S3 bucket, and {target.bucket.url} is none"
        )
    name, prefix = s3_address(target.bucket.url)
    return NoticeQueue(url, bucket=name, prefix=prefix, region=target.bucket.region)


async def _inventory(
    target: Target, url: str, request: Request, runtime: Runtime
) -> tuple[PassReport, State]:
    """What an inventory names, where nothing is known of it."""
    from pipeline.discover.inventory import Inventory

    _require_s3("--inventory", url)
    _require_s3("--bucket", target.bucket.url)
    where, _, key = url.removeprefix("s3://").partition("/")
    store = open_store(
        f"s3://{where}", endpoint_url=target.bucket.endpoint_url, region=target.bucket.region
    )
    name, prefix = s3_address(target.bucket.url)
    inventory = Inventory(store, key, bucket=name, prefix=prefix)
    await inventory.open()
    first = runtime.filled(await runtime.generations())[0]
    return await first.run(request=replace(request, listing=inventory.pages))


def _require_s3(option: str, url: str) -> None:
    if not url.startswith("s3://"):
        raise SettingsError(
            f"{option} {url!r} is not on S3: an inventory is a file that S3 wrote about a bucket of"
            " its own"
        )


async def _job(job: str, runtime: Runtime, *, alone: bool) -> tuple[PassReport, State]:
    """A job's files, and nothing else. alone: no other pipeline of the file can be the job's."""
    from pipeline.runtime import jobs

    runtime = runtime.filled(await runtime.generations())[0]
    record = await jobs.read(runtime, job)
    if record is None and alone:
        raise SettingsError(
            f"there is no job {job!r} of pipeline {runtime.settings.name} in this bucket"
        )
    if record is None:
        return PassReport(), await runtime.log().load()
    return await jobs.run(runtime, record)
