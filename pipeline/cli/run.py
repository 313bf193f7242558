"""`tidemill run`: passes until nothing is new; with --watch, until interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import click

from pipeline.arrow import keep_arrow_light
from pipeline.assembly import Runtime
from pipeline.cli import EXIT_PROBLEMS
from pipeline.cli.options import Target, on_bucket, on_engine, on_limits, priority_of
from pipeline.cli.progress import Progress
from pipeline.cli.render import count, duration, printable
from pipeline.cli.sinks import AfterPasses
from pipeline.cli.summaries import handed_over, summary
from pipeline.engines import Engine
from pipeline.errors import CommitConflict, CommitUnknown, ObjectNotFound, SettingsError, StoreUnavailable
from pipeline.executors.spawn import SpawnerGone
from pipeline.listing import grown
from pipeline.notices import NoticeQueue, Notices, in_background
from pipeline.parts import Limits, PassReport, Request
from pipeline.state import State
from pipeline.stores import open_store, s3_address
from sinks.aggregate_sql import check_aggregates

WATCH_BACKOFF_MAX_S = 60.0
SWEEP_S = 3600.0
WHOLE_PAUSE = 20
"""How many times longer than it took the pause after a whole listing is, where passes in between list from the last key on."""
_LATER = (StoreUnavailable, ObjectNotFound, CommitConflict, CommitUnknown)
"""What a later pass may find to be over: a watching run goes on."""


@click.command("run", epilog="Example:  tidemill run pipeline.py --bucket ./bucket --watch")
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
@click.option("--interval", "interval_s", type=click.FloatRange(0.1, 86400), default=5.0, help="--watch: seconds between looks")
@click.option("--queue", "queue_url", metavar="URL", help="--watch: an SQS queue of upload notices; what they name is not listed")
@click.option(
    "--sweep",
    "sweep_s",
    type=click.FloatRange(1, 604800),
    help=f"--watch: seconds between whole listings, where not each look is one [default: up to {SWEEP_S:g}]",
)
@click.option("--inventory", metavar="URL", help="an S3 Inventory's manifest.json: process what it names and is not known yet")
@click.option("--job", "job", help="process the files of this job only (see  tidemill submit)")
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
) -> int:
    """Process every new and changed object of FILE's pipelines; commit the rows; forget deleted objects.

    On this machine, or with --engine modal on the containers of a deployed app: there the command hands the work over and
    leaves, unless --wait. Exit code 1 if files were quarantined or put off. What is left when a run is killed is picked up by
    the next one.
    """
    if job is not None and (watch or limits or words):
        raise click.UsageError("--job goes with neither --watch nor --limit nor --priority: it runs the job's files, once")
    if (queue_url and (not watch or limits)) or (sweep_s and not watch):
        raise click.UsageError("--queue needs --watch, and goes with no --limit; --sweep needs --watch")
    if inventory is not None and (watch or job):
        raise click.UsageError("--inventory goes with neither --watch nor --job: it is a listing, and read once")
    if job is not None:
        return asyncio.run(Run(target, engine, work=partial(_job, job, alone=len(target.pipelines) == 1)).go())
    request = Request(limits=limits, priority=priority_of(words))
    if inventory is not None:
        return asyncio.run(Run(target, engine, work=partial(_inventory, target, inventory, request), usd=limits.usd).go())
    run = Run(target, engine, watch=watch, interval_s=interval_s, request=request, usd=limits.usd)
    run.sweep_s = sweep_s
    if queue_url is not None:
        if not target.bucket.url.startswith("s3://"):
            raise click.UsageError(f"--queue is for notices of an S3 bucket, and {target.bucket.url} is none")
        name, prefix = s3_address(target.bucket.url)
        run.notices = NoticeQueue(queue_url, bucket=name, prefix=prefix, region=target.bucket.region)
    return asyncio.run(run.go())


@click.command("hint", epilog="Example:  tidemill hint pipeline.py up/a.csv s3://bucket/up/b.csv --bucket s3://bucket")
@on_bucket
@on_engine
@click.argument("names", metavar="KEY...", nargs=-1, required=True)
def hint_command(target: Target, engine: Engine, names: tuple[str, ...]) -> int:
    """Process the objects of these KEYs now if they are new or changed, and forget those that are gone, without a listing.

    KEY is a key of the bucket, or its s3:// address. Exit code 1 if files were quarantined or put off.
    """
    found = [_key(target, name) for name in names]
    for name, key in zip(names, found, strict=True):
        if not any(key.startswith(p.source) and key != p.source for p in target.pipelines):
            sources = ", ".join(repr(p.source) for p in target.pipelines)
            raise click.UsageError(f"{printable(name)} is below no pipeline's source ({sources})")
    run = Run(target, engine)
    run.noticed = Notices(keys=list(dict.fromkeys(found)))
    return asyncio.run(run.go())


def _key(target: Target, name: str) -> str:
    url = target.bucket.url
    base = url if url.endswith("/") else url + "/"
    return name.removeprefix(base) if name.startswith("s3://") else name


async def _inventory(target: Target, url: str, request: Request, runtime: Runtime) -> tuple[PassReport, State]:
    """What an inventory names, where nothing is known of it."""
    from pipeline.inventory import Inventory

    for what, named in (("--inventory", url), ("--bucket", target.bucket.url)):
        if not named.startswith("s3://"):
            raise SettingsError(f"{what} {named!r} is not on S3: an inventory is a file that S3 wrote about a bucket of its own")
    where, _, key = url.removeprefix("s3://").partition("/")
    store = open_store(f"s3://{where}", endpoint_url=target.bucket.endpoint_url, region=target.bucket.region)
    name, prefix = s3_address(target.bucket.url)
    inventory = Inventory(store, key, bucket=name, prefix=prefix)
    await inventory.open()
    first = runtime.filled(await runtime.generations())[0]
    return await first.run(request=replace(request, listing=inventory.pages))


async def _job(job: str, runtime: Runtime, *, alone: bool) -> tuple[PassReport, State]:
    """A job's files, and nothing else. alone: no other pipeline of the file can be the job's."""
    from pipeline import submission

    runtime = runtime.filled(await runtime.generations())[0]
    record = await submission.read(runtime, job)
    if record is None and alone:
        raise SettingsError(f"there is no job {job!r} of pipeline {runtime.settings.name} in this bucket")
    if record is None:
        return PassReport(), await runtime.log().load()
    return await submission.run(runtime, record)


class Run:
    """One call of `run` or `backfill`: passes over each pipeline on one engine, shown as they go."""

    def __init__(
        self,
        target: Target,
        engine: Engine,
        *,
        watch: bool = False,
        interval_s: float = 5.0,
        request: Request | None = None,
        usd: float | None = None,
        work: Callable[[Runtime], Awaitable[tuple[PassReport, State]]] | None = None,
    ) -> None:
        self.target = target
        self.engine = engine
        self.watch = watch
        self.interval_s = interval_s
        self.request = request
        self.usd = usd
        self.work = work or self._run
        self.states: dict[str, State] = {}
        self.found_problems = False
        self.failed: list[str] = []
        """Why aggregates could not be computed."""
        self.notices: NoticeQueue | None = None
        self.sweep_s: float | None = None
        self.swept_s = 0.0
        self.whole_due_s: dict[str, float] = {}
        """When each pipeline's next whole listing is due, where passes before it may list from the last key on."""
        self.noticed: Notices | None = None
        """What the next turn looks up; None for a full listing."""
        self.checking: asyncio.Future[None] | None = None
        """Whether the aggregates' SQL is any, while the workers work: its library takes a moment to load."""
        self.main: asyncio.Task[Any] | None = None
        self.refused: BaseException | None = None
        self.sinks = AfterPasses(self._say)
        self.stopped = asyncio.Event()

    async def go(self) -> int:
        """Do it; the exit code."""
        keep_arrow_light()  # the workers' process was forked before
        loop, main = asyncio.get_running_loop(), asyncio.current_task()
        self.main = main
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, main)
        try:
            if self.notices is not None:
                await in_background(self.notices.check)
            store = self.target.bucket.open()
            runtimes = [self.engine.runtime(p, store, self.usd) for p in self.target.pipelines]
            for runtime in runtimes:
                runtime.stopping = self.stopped.is_set
                await runtime.open()
            await self._loop(runtimes)
            if self.checking is not None:
                await self.checking
        except asyncio.CancelledError:
            if self.refused is not None:
                raise self.refused from None
            # else by `_stop`
        finally:
            await self.engine.close()
        if self.stopped.is_set():
            self._say("stopped; the next run goes on from here")
            return 0 if self.watch else 130
        if self.failed and not self.watch:
            raise SettingsError("; ".join(self.failed))  # after all other work: rows, stages and sinks do not wait for an aggregate
        return EXIT_PROBLEMS if self.found_problems and not self.watch else 0

    async def _run(self, runtime: Runtime) -> tuple[PassReport, State]:
        return await runtime.run(self.states.get(runtime.label), request=self._request(runtime))

    def _request(self, runtime: Runtime) -> Request | None:
        if self.noticed is None or runtime.pipeline.upstream is not None:  # nobody gives notice of a table's rows
            return replace(self.request or Request(), growing=True) if self._grows(runtime) else self.request
        source = runtime.settings.source
        return Request(names=[key for key in self.noticed.keys if key.startswith(source) and key != source])

    def _grows(self, runtime: Runtime) -> bool:
        """Whether this look need not list everything: keys grow there, and the next whole listing is not due yet.

        Never with a queue: there a listing is what makes lost notices good, so it is whole.
        """
        name = runtime.label
        state, due_s = self.states.get(name), self.whole_due_s.get(name, 0.0)
        may_grow = self.watch and self.notices is None and (self.request is None or not self.request.is_once)
        return may_grow and state is not None and time.monotonic() < due_s and bool(grown(state, runtime.settings))

    def _note_listing(self, name: str, report: PassReport, seconds: float) -> None:
        """Whole listings may take a twentieth of the time; after an outage the next one is due at once."""
        if report.unread:
            self.whole_due_s[name] = 0.0
        elif report.complete:
            pause_s = self.sweep_s or min(WHOLE_PAUSE * seconds, SWEEP_S)
            self.whole_due_s[name] = time.monotonic() + pause_s

    def _stop(self, main: asyncio.Task[Any] | None) -> None:
        self.stopped.set()
        if main is not None:
            main.cancel()

    async def _loop(self, runtimes: list[Runtime]) -> None:
        backoff_s = self.interval_s
        while True:
            try:
                await self._turn(runtimes)
                if self.notices is not None and not self.stopped.is_set():
                    await self._next_notices(self.notices)
                    backoff_s = self.interval_s
                    continue
                backoff_s = self.interval_s
            except _LATER as error:
                if not self.watch or isinstance(error, SpawnerGone):
                    raise
                self._say(f"{error}; trying again in {duration(backoff_s)}")
                backoff_s = min(2 * backoff_s, WATCH_BACKOFF_MAX_S)
            if not self.watch or self.stopped.is_set():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), backoff_s)
            if self.stopped.is_set():  # Python 3.11's wait_for swallows a cancellation that comes with the event
                return

    async def _turn(self, runtimes: list[Runtime]) -> None:
        """A pass of each pipeline; then the notices it was about are done with, unless files were put off: then they come again."""
        began_s, left = time.monotonic(), 0
        for runtime in runtimes:
            request = self._request(runtime)
            if request is None or request.names is None or request.names:
                for report in await self._passes(runtime):
                    left += report.unread + report.over_budget + report.held_back
        if self.noticed is None:
            self.swept_s = began_s
        elif self.notices is not None and not left and not self.stopped.is_set():
            await self.notices.done(self.noticed)
            self.noticed = Notices()

    async def _next_notices(self, queue: NoticeQueue) -> None:
        """Wait until there are notices, or a full listing is due."""
        while (left_s := self.swept_s + (self.sweep_s or SWEEP_S) - time.monotonic()) > 0:
            found = await queue.receive(left_s)
            if found.odd:
                fate = "left to its dead-letter queue" if queue.sets_aside else "deleted"
                ids = ", ".join(found.odd[:5])
                self._say(f"{count(len(found.odd), 'message')} in the queue, no notice of uploads: {fate} ({ids})")
            if found:
                self.noticed = found
                return
        self.noticed = None

    async def _passes(self, runtime: Runtime) -> list[PassReport]:
        """A pass of each generation that this code fills; most pipelines have but one."""
        reports = [await self._pass(runtime)]
        known = self.states[runtime.label].generations if self.work == self._run else None
        for one in runtime.filled(known):
            if one.settings.generation:
                await one.open()
                reports.append(await self._pass(one))
        return reports

    async def _pass(self, runtime: Runtime) -> PassReport:
        started, name = time.monotonic(), runtime.label
        with Progress(name, quiet=self.target.as_json) as progress:
            runtime.on_progress = lambda report: self._progressed(progress, runtime, report)
            following = asyncio.create_task(progress.follow(lambda: self.engine.under_way))
            try:
                report, self.states[name] = await self.work(runtime)
            finally:
                following.cancel()
        self._note_listing(name, report, time.monotonic() - started)
        self.found_problems |= report.quarantined > 0 or report.unread > 0
        if report.commits or (not self.watch and self._takes_part(runtime)):
            self._show(runtime, report, time.monotonic() - started)
        if not self.engine.detached and not self.stopped.is_set():
            self.found_problems |= not await self.sinks.publish(runtime, committed=report.commits > 0)
        if report.aggregates_failed and report.aggregates_failed not in self.failed:
            self.failed.append(report.aggregates_failed)
            if self.watch:
                self._say(report.aggregates_failed)
        return report

    def _takes_part(self, runtime: Runtime) -> bool:
        """Whether a run fills this generation: of the first one only the log is looked at, where others are filled."""
        generation = runtime.settings.generation
        return generation > 0 or any(one.settings.generation == 0 for one in runtime.filled(self.states[runtime.label].generations))

    def _progressed(self, progress: Progress, runtime: Runtime, report: PassReport) -> None:
        progress.update(report)
        if report.planned and runtime.settings.aggregates and self.checking is None:
            asyncio.get_running_loop().run_in_executor(None, importlib.import_module, "sinks.aggregates")
            self.checking = asyncio.get_running_loop().run_in_executor(None, check_aggregates, self.target.pipelines)
            self.checking.add_done_callback(self._checked)

    def _checked(self, checking: asyncio.Future[None]) -> None:
        """What can never be an aggregate ends the run at once, not when all files are done."""
        if not checking.cancelled() and checking.exception() is not None and self.main is not None:
            self.refused = checking.exception()
            self.main.cancel()

    def _show(self, runtime: Runtime, report: PassReport, seconds: float) -> None:
        name = runtime.label
        if self.target.as_json:
            import json

            head = {
                "pipeline": runtime.settings.name,
                "generation": runtime.settings.generation,
                "sequence": self.states[name].sequence,
                "seconds": round(seconds, 3),
            }
            click.echo(json.dumps({**head, **asdict(report)}))
            return
        for line in handed_over(name, report) if self.engine.detached else summary(name, report, seconds):
            click.echo(line)
        if report.quarantined:
            click.echo(f"  see them:  tidemill quarantine list {self.target.file} --bucket {self.target.bucket.url}")

    def _say(self, text: str) -> None:
        click.echo(f"tidemill: {text}", err=True)
        sys.stderr.flush()
