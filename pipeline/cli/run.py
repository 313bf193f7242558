"""`tidemill run`: passes on this machine until nothing is new; with --watch, until interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import signal
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pipeline.arrow import keep_arrow_light
from pipeline.assembly import Runtime, local_executor
from pipeline.cli import EXIT_PROBLEMS
from pipeline.cli.options import Target, on_bucket
from pipeline.cli.progress import Progress
from pipeline.cli.render import count, duration, printable, size
from pipeline.errors import StoreUnavailable
from pipeline.parts import PassReport, Request
from pipeline.settings import Policy
from pipeline.state import State

if TYPE_CHECKING:
    from pipeline.executors.local import LocalExecutor

WATCH_BACKOFF_MAX_S = 60.0


@click.command("run", epilog="Example:  tidemill run pipeline.py --bucket ./bucket --watch")
@on_bucket
@click.option("--watch", is_flag=True, help="go on until interrupted (Ctrl-C stops cleanly)")
@click.option("--interval", "interval_s", type=click.FloatRange(0.1, 86400), default=5.0, help="--watch: seconds between looks")
@click.option("--limit", type=click.IntRange(1), help="process at most so many files, then stop")
@click.option("--workers", type=click.IntRange(1, 1024), help="worker processes [default: one for each core]")
def run_command(target: Target, watch: bool, interval_s: float, limit: int | None, workers: int | None) -> int:
    """Process every new and changed object of FILE's pipelines on this machine; commit the rows; forget deleted objects.

    Exit code 1 if files were quarantined. What is left when a run is killed is picked up by the next one.
    """
    policy = Policy()
    executor = local_executor(target.file, target.pipelines, target.bucket, workers, policy)
    return asyncio.run(_Run(target, executor, policy, watch=watch, interval_s=interval_s, limit=limit).go())


class _Run:
    def __init__(
        self, target: Target, executor: LocalExecutor, policy: Policy, *, watch: bool, interval_s: float, limit: int | None
    ) -> None:
        self.target = target
        self.executor = executor
        self.policy = policy
        self.watch = watch
        self.interval_s = interval_s
        self.limit = limit
        self.states: dict[str, State] = {}
        self.found_problems = False
        self.warming = False
        self.stopped = asyncio.Event()

    async def go(self) -> int:
        keep_arrow_light()  # the workers' process was forked before
        loop, main = asyncio.get_running_loop(), asyncio.current_task()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, main)
        try:
            store = self.target.bucket.open()
            runtimes = [Runtime(p, p.settings(), store, self.policy, self.executor) for p in self.target.pipelines]
            for runtime in runtimes:
                runtime.stopping = self.stopped.is_set
                await runtime.open()
            await self._loop(runtimes)
        except asyncio.CancelledError:
            pass  # by `_stop`
        finally:
            await self.executor.close()
        if self.stopped.is_set():
            self._say("stopped; the next run goes on from here")
            return 0 if self.watch else 130
        return EXIT_PROBLEMS if self.found_problems and not self.watch else 0

    def _stop(self, main: asyncio.Task[Any] | None) -> None:
        self.stopped.set()
        if main is not None:
            main.cancel()

    async def _loop(self, runtimes: list[Runtime]) -> None:
        backoff_s = self.interval_s
        while True:
            try:
                for runtime in runtimes:
                    await self._pass(runtime)
                backoff_s = self.interval_s
            except StoreUnavailable as error:
                if not self.watch:
                    raise
                self._say(f"{error}; trying again in {duration(backoff_s)}")
                backoff_s = min(2 * backoff_s, WATCH_BACKOFF_MAX_S)
            if not self.watch or self.stopped.is_set():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), backoff_s)

    async def _pass(self, runtime: Runtime) -> None:
        started, name = time.monotonic(), runtime.settings.name
        with Progress(name, quiet=self.target.as_json) as progress:
            runtime.on_progress = lambda report: self._progressed(progress, runtime, report)
            following = asyncio.create_task(progress.follow(lambda: self.executor.under_way))
            try:
                request = Request(limit=self.limit) if self.limit else None
                report, self.states[name] = await runtime.run(self.states.get(name), request=request)
            finally:
                following.cancel()
        self.found_problems |= report.quarantined > 0
        if report.commits or not self.watch:
            self._show(runtime, report, time.monotonic() - started)

    def _progressed(self, progress: Progress, runtime: Runtime, report: PassReport) -> None:
        progress.update(report)
        if report.planned and runtime.settings.aggregates and not self.warming:
            self.warming = True  # while the workers work: the aggregates' library takes a moment to load
            asyncio.get_running_loop().run_in_executor(None, importlib.import_module, "sinks.aggregates")
            asyncio.get_running_loop().run_in_executor(None, importlib.import_module, "duckdb")

    def _show(self, runtime: Runtime, report: PassReport, seconds: float) -> None:
        name = runtime.settings.name
        if self.target.as_json:
            import json

            head = {"pipeline": name, "sequence": self.states[name].sequence, "seconds": round(seconds, 3)}
            click.echo(json.dumps({**head, **asdict(report)}))
            return
        for line in summary(name, report, seconds):
            click.echo(line)
        if report.quarantined:
            click.echo(f"  see them:  tidemill quarantine list {self.target.file} --bucket {self.target.bucket.url}")

    def _say(self, text: str) -> None:
        click.echo(f"tidemill: {text}", err=True)
        sys.stderr.flush()


def summary(name: str, report: PassReport, seconds: float) -> list[str]:
    """What a run did, for people."""
    if not report.commits and not report.elsewhere:
        return [f"{name}: nothing new in {count(report.listed, 'object')} ({duration(seconds)})", *_unmatched(report)]
    rate = f", {size(report.committed_bytes / max(seconds, 1e-3))}/s" if report.committed else ""
    lines = [f"{name}: {count(report.committed, 'file')} committed, {count(report.rows, 'row')} ({duration(seconds)}{rate})"]
    for n, text in (
        (report.rejected, "rejected"),
        (report.quarantined, "quarantined"),
        (report.deleted, "deleted in the bucket, their rows are gone"),
        (report.elsewhere, "in progress in another run"),
    ):
        if n:
            lines.append(f"  {count(n, 'row' if text == 'rejected' else 'file')} {text}")
    if report.aggregates:
        lines.append(f"  {count(report.aggregates, 'aggregate')} brought up to date")
    return lines + _unmatched(report)


def _unmatched(report: PassReport) -> list[str]:
    if not report.unmatched:
        return []
    return [f"  {count(report.unmatched, 'file')} matched by no transform, such as {printable(report.unmatched_sample[0])}"]
