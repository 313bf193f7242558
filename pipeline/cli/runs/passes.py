"""One call of `run`, `hint` or `backfill`: passes over each pipeline on one engine, shown as they
go.
"""

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

from pipeline.cli import EXIT_BAD_INPUT, EXIT_PROBLEMS, missing_sources
from pipeline.cli.options import Target
from pipeline.cli.pasted_commands import pasted
from pipeline.cli.render import count, duration
from pipeline.cli.runs.progress import Progress
from pipeline.cli.runs.run_summary import handed_over, summary
from pipeline.cli.runs.watching import Watch, what
from pipeline.cli.tables.sinks import AfterPasses
from pipeline.discover.listing import grown
from pipeline.discover.request import Request
from pipeline.errors import CommitConflict, CommitUnknown, ObjectNotFound, StoreUnavailable
from pipeline.executors.local.spawner import SpawnerGone
from pipeline.notices.sqs import NoticeQueue, Notices, in_background
from pipeline.passes.report import PassReport
from pipeline.runtime.arrow_memory import keep_arrow_light
from pipeline.runtime.engines import Engine
from pipeline.runtime.runtime import Runtime
from pipeline.state.state import State
from pipeline.work.worker import CodeBroken

WATCH_BACKOFF_MAX_S = 60.0
SWEEP_S = 3600.0
WHOLE_PAUSE = 20
"""How many times longer than it took the pause after a whole listing is, where passes in between
list from the last key on.
"""
AGGREGATES_AFTER_S = 5.0
"""How long a run goes on after its first rows before it is said that an aggregate cannot be
computed over them.
"""
_LATER = (StoreUnavailable, ObjectNotFound, CommitConflict, CommitUnknown)
"""What a later pass may find to be over: a watching run goes on."""


class Run:
    """One call of `run` or `backfill`: passes over each pipeline on one engine, shown
    as they go.
    """

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
        anew: bool = False,
    ) -> None:
        """anew: the work fills a table that has no columns yet."""
        self.anew = anew
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
        """Why aggregates could not be computed, or code not be loaded."""
        self.broken: set[str] = set()
        """Pipelines whose code cannot be loaded: they have stopped."""
        self.fail_on: str | None = None
        self.tells_absent = False
        """Whether it is said which of the named keys are no objects."""
        self.in_quarantine: dict[str, int] = {}
        self.said: set[str] = set()
        """Warnings: each is said once."""
        self.trials: dict[str, asyncio.TimerHandle] = {}
        """When aggregates are tried over columns that came in this run."""
        self.watching: Watch | None = None
        self.notices: NoticeQueue | None = None
        self.sweep_s: float | None = None
        self.swept_s = 0.0
        self.whole_due_s: dict[str, float] = {}
        """When each pipeline's next whole listing is due, where passes before it may list from the
        last key on.
        """
        self.noticed: Notices | None = None
        """What the next turn looks up; None for a full listing."""
        self.warming = False
        self.sinks = AfterPasses(self._say)
        self.stopped = asyncio.Event()

    async def go(self) -> int:
        """Do it; the exit code."""
        keep_arrow_light()  # the workers' process was forked before
        loop, main = asyncio.get_running_loop(), asyncio.current_task()
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
            for runtime in runtimes:
                await self._foresee(runtime)
            if self.tells_absent:
                await self._tell_absent(runtimes)
            await self._loop(runtimes)
        except asyncio.CancelledError:
            pass  # by `_stop`
        finally:
            await self.engine.close()
        fails = self.fail_on is not None and any(self.in_quarantine.values())
        if self.stopped.is_set():
            self._say("stopped; the next run goes on from here")
            return (EXIT_PROBLEMS if fails else 0) if self.watch else 130
        if self.failed and not self.watch:
            return EXIT_BAD_INPUT  # only now: rows, stages and sinks do not wait for an aggregate
        return EXIT_PROBLEMS if fails or (self.found_problems and not self.watch) else 0

    async def _foresee(self, runtime: Runtime) -> None:
        """Refuse what cannot work before anything runs, and warn of what may not."""
        from pipeline.runtime import feasibility

        if not feasibility.is_needed(runtime.pipeline):
            return
        state = State(runtime.settings.name)  # of a new generation: nothing is committed there
        if not self.anew:
            state = await runtime.log().load()
            if self.work == self._run:
                self.states[runtime.label] = state
        found = await feasibility.foresee(runtime, state)
        found.require()
        for line in found.warnings:
            self._warn(line)
        runtime.on_columns = partial(self._columns_came, runtime)

    def _columns_came(self, runtime: Runtime, schema: str) -> None:
        """What could not be known before the first rows: names in checks; and in a run that goes
        on, aggregates.
        """
        from pipeline.runtime import feasibility

        found = feasibility.of_columns(runtime.pipeline, schema)
        for line in (*found.refused, *found.warnings):
            self._warn(line)
        if (
            runtime.settings.aggregates
            and not runtime.settings.dimensions
            and not self.engine.detached
        ):
            before = self.trials.pop(runtime.label, None)
            if before is not None:
                before.cancel()  # the columns changed again
            later = asyncio.get_running_loop().call_later(
                AGGREGATES_AFTER_S, self._try_aggregates, runtime, schema
            )
            self.trials[runtime.label] = later

    def _try_aggregates(self, runtime: Runtime, schema: str) -> None:
        from pipeline.runtime import feasibility

        def bind() -> None:
            for name, reason in feasibility.unbound(runtime, schema):
                self._warn(feasibility.warning(runtime.settings.name, name, reason))

        asyncio.get_running_loop().run_in_executor(None, bind)

    async def _tell_absent(self, runtimes: list[Runtime]) -> None:
        """Name the keys that no object has and nobody knew; where all are such,
        nothing was done.
        """
        names = self.noticed.keys if self.noticed is not None else []
        unknown = await missing_sources.unknown_keys(runtimes, names)
        for name in unknown:
            self._say(await missing_sources.told_absent(runtimes[0].store, name))
        self.found_problems |= len(unknown) == len(names)

    async def _run(self, runtime: Runtime) -> tuple[PassReport, State]:
        return await runtime.run(self.states.get(runtime.label), request=self._request(runtime))

    def _request(self, runtime: Runtime) -> Request | None:
        # nobody gives notice of a table's rows
        if self.noticed is None or runtime.pipeline.upstream is not None:
            return (
                replace(self.request or Request(), growing=True)
                if self._grows(runtime)
                else self.request
            )
        return Request(names=missing_sources.below(runtime, self.noticed.keys))

    def _grows(self, runtime: Runtime) -> bool:
        """Whether this look need not list everything: keys grow there, and the next whole listing
        is not due yet.

        Never with a queue: there a listing is what makes lost notices good, so it is whole.
        """
        name = runtime.label
        state, due_s = self.states.get(name), self.whole_due_s.get(name, 0.0)
        may_grow = (
            self.watch
            and self.notices is None
            and (self.request is None or not self.request.is_once)
        )
        return (
            may_grow
            and state is not None
            and time.monotonic() < due_s
            and bool(grown(state, runtime.settings))
        )

    def _note_listing(self, name: str, report: PassReport, seconds: float) -> None:
        """Whole listings may take a twentieth of the time; after an outage the next one is due at
        once.
        """
        if report.unread:
            self.whole_due_s[name] = 0.0
        elif report.complete:
            pause_s = self.sweep_s or min(WHOLE_PAUSE * seconds, SWEEP_S)
            self.whole_due_s[name] = time.monotonic() + pause_s

    def _stop(self, main: asyncio.Task[Any] | None) -> None:
        self.stopped.set()
        if main is not None:
            main.cancel()

    def _begin_watch(self, runtimes: list[Runtime]) -> None:
        sources = [(runtime.settings.name, runtime.settings.source) for runtime in runtimes]
        queue = self.notices.url if self.notices is not None else None
        text = what(
            self.target.bucket.url,
            sources,
            interval_s=self.interval_s,
            queue=queue,
            sweep_s=self.sweep_s or SWEEP_S,
        )
        self._say(text)
        self.watching = Watch(self.target.file, self._say, quiet=self.target.as_json)

    async def _loop(self, runtimes: list[Runtime]) -> None:
        backoff_s = self.interval_s
        if self.watch:
            self._begin_watch(runtimes)
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
            # Python 3.11's wait_for swallows a cancellation that comes with the event
            if self.stopped.is_set():
                return

    async def _turn(self, runtimes: list[Runtime]) -> None:
        """A pass of each pipeline; then the notices it was about are done with, unless files were
        put off: then they come again.
        """
        began_s, left, commits = time.monotonic(), 0, 0
        if self.watching is not None:
            self.watching.clear()
        for runtime in runtimes:
            request = self._request(runtime)
            if runtime.label not in self.broken and (
                request is None or request.names is None or request.names
            ):
                for report in await self._passes(runtime):
                    left += report.unread + report.over_budget + report.held_back
                    commits += report.commits
        if self.watching is not None and not self.stopped.is_set():
            self.watching.looked(found=commits > 0)
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
                self._say(
                    f"{count(len(found.odd), 'message')} in the queue, no notice of uploads: {fate}"
                    f" ({ids})"
                )
            if found:
                self.noticed = found
                return
        self.noticed = None

    async def _passes(self, runtime: Runtime) -> list[PassReport]:
        """A pass of each generation that this code fills; most pipelines have but one.

        None for code that cannot be loaded.
        """
        try:
            return await self._of_each_generation(runtime)
        except CodeBroken as error:
            self.broken.add(runtime.label)
            self.failed.append(str(error))
            if self.watch and len(self.broken) == len(self.target.pipelines):
                raise
            self._say(f"{error}; the other pipelines go on" if self.watch else str(error))
            return []

    async def _of_each_generation(self, runtime: Runtime) -> list[PassReport]:
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
        takes_part, is_first = self._takes_part(runtime), name not in self.in_quarantine
        self.in_quarantine[name] = _in_quarantine(self.states[name]) if takes_part else 0
        if report.commits or (
            takes_part and (not self.watch or (is_first and self.in_quarantine[name]))
        ):
            self._show(runtime, report, time.monotonic() - started)
        if (
            takes_part
            and is_first
            and report.complete
            and not report.listed
            and runtime.pipeline.upstream is None
        ):
            self._say(await missing_sources.empty_source(runtime))
        if not self.engine.detached and not self.stopped.is_set():
            self.found_problems |= not await self.sinks.publish(
                runtime, committed=report.commits > 0
            )
        if report.aggregates_failed and report.aggregates_failed not in self.failed:
            self.failed.append(report.aggregates_failed)
            self._say(report.aggregates_failed)
        return report

    def _takes_part(self, runtime: Runtime) -> bool:
        """Whether a run fills this generation: of the first one only the log is looked at, where
        others are filled.
        """
        generation = runtime.settings.generation
        return generation > 0 or any(
            one.settings.generation == 0
            for one in runtime.filled(self.states[runtime.label].generations)
        )

    def _progressed(self, progress: Progress, runtime: Runtime, report: PassReport) -> None:
        progress.update(report)
        if report.planned and runtime.settings.aggregates and not self.warming:
            # while the workers work: the aggregates' library takes a moment to load
            self.warming = True
            asyncio.get_running_loop().run_in_executor(
                None, importlib.import_module, "sinks.aggregates.compute"
            )
            asyncio.get_running_loop().run_in_executor(None, importlib.import_module, "duckdb")

    def _show(self, runtime: Runtime, report: PassReport, seconds: float) -> None:
        name = runtime.label
        if self.target.as_json:
            import json

            head = {
                "pipeline": runtime.settings.name,
                "generation": runtime.settings.generation,
                "sequence": self.states[name].sequence,
                "seconds": round(seconds, 3),
                "in_quarantine": self.in_quarantine[name],
            }
            click.echo(json.dumps({**head, **asdict(report)}))
            return
        for line in (
            handed_over(name, report) if self.engine.detached else summary(name, report, seconds)
        ):
            click.echo(line)
        if self.in_quarantine[name]:
            n = count(self.in_quarantine[name], "file")
            click.echo(f"  {n} in quarantine:  {pasted(self.target, 'quarantine list')}")

    def _warn(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self._say(f"warning: {text}")

    def _say(self, text: str) -> None:
        if self.watching is not None:
            self.watching.clear()
        click.echo(f"tidemill: {text}", err=True)
        sys.stderr.flush()


def _in_quarantine(state: State) -> int:
    """Quarantined files that no task has in hand again."""
    return sum(key not in state.wanted for key in state.quarantine)
