"""Passes over the pipelines of a file on one engine: until nothing is new, or, watching, until they
are stopped. What happens is said to a listener.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from pipeline.declare.pipeline import Pipeline
from pipeline.discover.listing import grown
from pipeline.discover.request import Request
from pipeline.errors import CommitConflict, CommitUnknown, ObjectNotFound, StoreUnavailable
from pipeline.executors.local.spawner import SpawnerGone
from pipeline.model.backoff import backoff
from pipeline.model.events import (
    AnyEvent,
    ColumnsChanged,
    Listener,
    Looked,
    PassBegan,
    PassEnded,
    Progressed,
    Refused,
    Remark,
    Retrying,
    WatchBegan,
    nobody,
)
from pipeline.model.pass_report import PassReport
from pipeline.notices.sqs import NoticeQueue, Notices, in_background
from pipeline.ports import Store
from pipeline.runtime import missing_sources
from pipeline.runtime.engines import Engine
from pipeline.runtime.feasibility import Foresight
from pipeline.runtime.publish import AfterPasses
from pipeline.runtime.runtime import Runtime
from pipeline.state.state import State
from pipeline.wording import count
from pipeline.work.worker import CodeBroken

WATCH_BACKOFF_MAX_S = 60.0
SWEEP_S = 3600.0
WHOLE_PAUSE = 20
"""How many times longer than it took the pause after a whole listing is, where passes in between
list from the last key on.
"""

_LATER = (StoreUnavailable, ObjectNotFound, CommitConflict, CommitUnknown)
"""What a later pass may find to be over: watching goes on."""

Work = Callable[[Runtime], Awaitable[tuple[PassReport, State]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """How to go on after the first look. sweep_s: between whole listings, where not each look is
    one; by default up to SWEEP_S.
    """

    interval_s: float = 5.0
    sweep_s: float | None = None
    notices: NoticeQueue | None = None
    """What it names is not listed."""


@dataclass(slots=True)
class Outcome:
    """What passes came to."""

    found_problems: bool = False
    """Files were set aside or put off, keys that were named are not there, or a sink failed."""
    failed: list[str] = field(default_factory=list)
    """Why aggregates could not be computed, or code not be loaded."""
    in_quarantine: dict[str, int] = field(default_factory=dict)
    """Files in quarantine, also of earlier runs, by pipeline and generation."""
    stopped: bool = False


class Passes:
    """Passes over each pipeline on one engine, which is closed in the end.

    Make the engine before anything in this process starts a thread.

    work: what to do with each pipeline in place of passes until nothing is new. fills_empty: it
    fills a table that has no columns yet. named: keys to look up in place of a listing, once;
    those that are no objects are said.
    """

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        store: Store,
        engine: Engine,
        *,
        listener: Listener = nobody,
        watching: Watching | None = None,
        request: Request | None = None,
        usd: float | None = None,
        work: Work | None = None,
        fills_empty: bool = False,
        named: Sequence[str] | None = None,
    ) -> None:
        self.pipelines = pipelines
        self.store = store
        self.engine = engine
        self.listener = listener
        self.watching = watching
        self.request = request
        self.usd = usd
        self.outcome: Outcome = Outcome()
        self.states: dict[str, State] = {}
        self.whole_due_s: dict[str, float] = {}
        """When each pipeline's next whole listing is due, where passes before it may list from the
        last key on.
        """
        self._runs = work is None
        self._work = work or self._run
        self._fills_empty = fills_empty
        self._named = named
        self._noticed = Notices(keys=list(named)) if named is not None else None
        """What the next turn looks up; None for a full listing."""
        self._broken: set[str] = set()
        """Pipelines whose code cannot be loaded: they have stopped."""
        self._swept_s = 0.0
        self._warming = False
        self._sinks = AfterPasses(self.listener)
        self._stopped = asyncio.Event()
        self._main: asyncio.Task[object] | None = None

    async def run(self) -> Outcome:
        """Do it. What is stopped goes on with the next run.

        Raises SettingsError for what cannot work, before anything runs.
        """
        self._main = asyncio.current_task()
        try:
            if self.watching is not None and self.watching.notices is not None:
                await in_background(self.watching.notices.check)
            runtimes = [self.engine.runtime(p, self.store, self.usd) for p in self.pipelines]
            for runtime in runtimes:
                runtime.stopping = self._stopped.is_set
                await runtime.open()
            foresight = Foresight(self.listener, detached=self.engine.detached)
            for runtime in runtimes:
                await self._foresee(runtime, foresight)
                runtime.listener = partial(self._hear, runtime, foresight)
            if self._named is not None:
                await self._say_absent(runtimes, self._named)
            await self._loop(runtimes)
        except asyncio.CancelledError:
            if not self._stopped.is_set():
                raise
        finally:
            await self.engine.close()
        self.outcome.stopped = self._stopped.is_set()
        return self.outcome

    def stop(self) -> None:
        """End soon, and leave what is under way to the next run. For the event loop's thread."""
        self._stopped.set()
        # cancelled by itself, a task would end so after all, closing the engine included
        if self._main is not None and self._main is not asyncio.current_task():
            self._main.cancel()

    # -- before anything runs ----------------------------------------------------------------------

    async def _foresee(self, runtime: Runtime, foresight: Foresight) -> None:
        """Refuse what cannot work, and warn of what may not."""
        if not foresight.is_needed(runtime):
            return
        state = State(runtime.settings.name)  # of a new generation: nothing is committed there
        if not self._fills_empty:
            state = await runtime.log().load()
            if self._runs:
                self.states[runtime.label] = state
        await foresight.foresee(runtime, state)

    async def _say_absent(self, runtimes: Sequence[Runtime], names: Sequence[str]) -> None:
        """Name the keys that no object has and nobody knew; where all are such, nothing is done."""
        unknown = await missing_sources.unknown_keys(runtimes, names)
        for name in unknown:
            self._remark(await missing_sources.said_absent(self.store, name))
        self.outcome.found_problems |= len(unknown) == len(names)

    # -- what passes say ---------------------------------------------------------------------------

    def _hear(self, runtime: Runtime, foresight: Foresight, event: AnyEvent) -> None:
        if isinstance(event, ColumnsChanged):
            foresight.columns_came(runtime, event.schema)
        if isinstance(event, Progressed):
            self._warm(runtime, event.report)
        self.listener(event)

    def _warm(self, runtime: Runtime, report: PassReport) -> None:
        """While the workers work: the aggregates' library takes a moment to load."""
        if report.planned and runtime.settings.aggregates and not self._warming:
            self._warming = True
            for name in ("sinks.aggregates.compute", "duckdb"):
                asyncio.get_running_loop().run_in_executor(None, importlib.import_module, name)

    # -- turn by turn ------------------------------------------------------------------------------

    async def _loop(self, runtimes: Sequence[Runtime]) -> None:
        interval_s = self.watching.interval_s if self.watching is not None else 0.0
        queue = self.watching.notices if self.watching is not None else None
        patience = partial(backoff, interval_s, WATCH_BACKOFF_MAX_S)
        waits_s = patience()
        if self.watching is not None:
            self.listener(WatchBegan())
        while True:
            pause_s = interval_s
            try:
                await self._turn(runtimes)
                if queue is not None and not self._stopped.is_set():
                    await self._next_notices(queue)
                    waits_s = patience()
                    continue
                waits_s = patience()
            except _LATER as error:
                if self.watching is None or isinstance(error, SpawnerGone):
                    raise
                pause_s = next(waits_s)
                self.listener(Retrying(reason=str(error), after_s=pause_s))
            if self.watching is None or self._stopped.is_set():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), pause_s)
            # Python 3.11's wait_for swallows a cancellation that comes with the event
            if self._stopped.is_set():
                return

    async def _turn(self, runtimes: Sequence[Runtime]) -> None:
        """A pass of each pipeline; then the notices it was about are done with, unless files were
        put off: then they come again.
        """
        began_s, left, commits = time.monotonic(), 0, 0
        for runtime in runtimes:
            request = self._request(runtime)
            if runtime.label in self._broken or (request is not None and request.names == []):
                continue
            for report in await self._passes(runtime):
                left += report.unread + report.over_budget + report.held_back
                commits += report.commits
        if self.watching is not None and not self._stopped.is_set():
            self.listener(Looked(found=commits > 0))
        queue = self.watching.notices if self.watching is not None else None
        if self._noticed is None:
            self._swept_s = began_s
        elif queue is not None and not left and not self._stopped.is_set():
            await queue.done(self._noticed)
            self._noticed = Notices()

    @property
    def _sweep_s(self) -> float | None:
        return self.watching.sweep_s if self.watching is not None else None

    async def _next_notices(self, queue: NoticeQueue) -> None:
        """Wait until there are notices, or a full listing is due."""
        while (left_s := self._swept_s + (self._sweep_s or SWEEP_S) - time.monotonic()) > 0:
            found = await queue.receive(left_s)
            if found.odd:
                fate = "left to its dead-letter queue" if queue.sets_aside else "deleted"
                ids = ", ".join(found.odd[:5])
                self._remark(
                    f"{count(len(found.odd), 'message')} in the queue, no notice of uploads: {fate}"
                    f" ({ids})"
                )
            if found:
                self._noticed = found
                return
        self._noticed = None

    # -- one pipeline ------------------------------------------------------------------------------

    async def _run(self, runtime: Runtime) -> tuple[PassReport, State]:
        return await runtime.run(self.states.get(runtime.label), request=self._request(runtime))

    def _request(self, runtime: Runtime) -> Request | None:
        # nobody gives notice of a table's rows
        if self._noticed is None or runtime.pipeline.upstream is not None:
            if self._grows(runtime):
                return replace(self.request or Request(), growing=True)
            return self.request
        return Request(names=missing_sources.below(runtime, self._noticed.keys))

    def _grows(self, runtime: Runtime) -> bool:
        """Whether this look need not list everything: keys grow there, and the next whole listing
        is not due yet.

        Never with a queue: there a listing is what makes lost notices good, so it is whole.
        """
        if self.watching is None or self.watching.notices is not None:
            return False
        if self.request is not None and self.request.is_once:
            return False
        state = self.states.get(runtime.label)
        is_due = time.monotonic() >= self.whole_due_s.get(runtime.label, 0.0)
        return state is not None and not is_due and bool(grown(state, runtime.settings))

    def _note_listing(self, name: str, report: PassReport, seconds: float) -> None:
        """Whole listings may take a twentieth of the time; after an outage the next one is due at
        once.
        """
        if report.unread:
            self.whole_due_s[name] = 0.0
        elif report.complete:
            pause_s = self._sweep_s or min(WHOLE_PAUSE * seconds, SWEEP_S)
            self.whole_due_s[name] = time.monotonic() + pause_s

    async def _passes(self, runtime: Runtime) -> list[PassReport]:
        """A pass of each generation that this code fills; most pipelines have but one.

        None for code that cannot be loaded.
        """
        try:
            return await self._of_each_generation(runtime)
        except CodeBroken as error:
            self._broken.add(runtime.label)
            self.outcome.failed.append(str(error))
            name = runtime.settings.name
            self.listener(Refused(pipeline=name, what="code", name="", reason=str(error)))
            if self.watching is not None and len(self._broken) == len(self.pipelines):
                raise
            goes_on = "; the other pipelines go on" if self.watching is not None else ""
            self._remark(f"{error}{goes_on}")
            return []

    async def _of_each_generation(self, runtime: Runtime) -> list[PassReport]:
        reports = [await self._pass(runtime)]
        known = self.states[runtime.label].generations if self._runs else None
        for one in runtime.filled(known):
            if one.settings.generation:
                await one.open()
                reports.append(await self._pass(one))
        return reports

    async def _pass(self, runtime: Runtime) -> PassReport:
        started = time.monotonic()
        self.listener(PassBegan(**runtime.named))
        report, self.states[runtime.label] = await self._work(runtime)
        seconds = time.monotonic() - started
        self._note_listing(runtime.label, report, seconds)
        self._note_problems(report)
        is_first = self._say_ended(runtime, report, seconds)
        if is_first and missing_sources.is_empty(runtime, report):
            self._remark(await missing_sources.empty_source(runtime))
        await self._publish(runtime, report)
        return report

    def _note_problems(self, report: PassReport) -> None:
        self.outcome.found_problems |= report.quarantined > 0 or report.unread > 0

    def _say_ended(self, runtime: Runtime, report: PassReport, seconds: float) -> bool:
        """Whether it was the first pass of a generation that is filled."""
        state, counts = self.states[runtime.label], self.outcome.in_quarantine
        takes_part, is_first = self._takes_part(runtime), runtime.label not in counts
        counts[runtime.label] = in_quarantine = _in_quarantine(state) if takes_part else 0
        is_news = takes_part and (self.watching is None or (is_first and bool(in_quarantine)))
        self.listener(
            PassEnded(
                **runtime.named,
                report=report,
                sequence=state.sequence,
                seconds=seconds,
                in_quarantine=in_quarantine,
                shown=report.commits > 0 or is_news,
            )
        )
        return takes_part and is_first

    async def _publish(self, runtime: Runtime, report: PassReport) -> None:
        if not self.engine.detached and not self._stopped.is_set():
            good = await self._sinks.publish(runtime, committed=report.commits > 0)
            self.outcome.found_problems |= not good
        if report.aggregates_failed and report.aggregates_failed not in self.outcome.failed:
            self.outcome.failed.append(report.aggregates_failed)
            self._remark(report.aggregates_failed)

    def _takes_part(self, runtime: Runtime) -> bool:
        """Whether this generation is filled: of the first one only the log is looked at, where
        others are filled.
        """
        filled = runtime.filled(self.states[runtime.label].generations)
        return runtime.settings.generation > 0 or any(
            one.settings.generation == 0 for one in filled
        )

    def _remark(self, text: str) -> None:
        self.listener(Remark(text=text))


def _in_quarantine(state: State) -> int:
    """Quarantined files that no task has in hand again."""
    return sum(key not in state.wanted for key in state.quarantine)
