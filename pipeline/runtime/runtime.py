"""The composition root for one machine: stores, executors and sinks are joined to the protocol here
and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline._version import __version__
from pipeline.commit_log.format_marker import Marker, open_home, require_home
from pipeline.commit_log.log import Log, Outdated
from pipeline.declare.pipeline import Pipeline
from pipeline.discover.request import Request
from pipeline.errors import SettingsError
from pipeline.model import keys
from pipeline.model.commit import FORMAT_VERSION, Generations
from pipeline.model.events import AnyEvent, Listener, Progressed, nobody
from pipeline.model.pass_report import SUMS, PassReport, combine
from pipeline.model.policy import Policy
from pipeline.model.settings import PipelineSettings
from pipeline.passes.context import PassContext
from pipeline.passes.runner import Pass
from pipeline.passes.upkeep import keep_tidy
from pipeline.plan.cost import Budget
from pipeline.ports import Executor, Store
from pipeline.runtime.system import RandomIds, WallClock
from pipeline.runtime.worker_process import table_spec
from pipeline.state.generations import filled, kept_numbers
from pipeline.state.state import State

RUN_PASSES_MAX = 20


@dataclass(slots=True)
class Runtime:
    """One pipeline on one bucket with one executor."""

    pipeline: Pipeline
    settings: PipelineSettings
    store: Store
    policy: Policy
    executor: Executor
    budget: Budget | None = None
    aggregates: bool = True
    """Whether passes bring the aggregates up to date."""
    listener: Listener = nobody
    stopping: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        from pipeline.runtime.table_source import TableStore

        upstream = self.pipeline.upstream
        if upstream is not None and not isinstance(self.store, TableStore):
            self.store = TableStore(self.store, upstream, clock=WallClock(), policy=self.policy)

    def context(self) -> PassContext:
        """The pass's parts."""
        from pipeline.runtime.aggregator import WarehouseAggregator
        from sinks.parquet.rewriter import ParquetRewriter
        from sinks.parquet.schema_mode import columns_of

        return PassContext(
            settings=self.settings,
            policy=self.policy,
            store=self.store,
            executor=self.executor,
            clock=WallClock(),
            ids=RandomIds(),
            writer=f"tidemill/{__version__} {self.executor.owner}",
            unify=columns_of(table_spec(self.pipeline)).settled,
            aggregator=(
                WarehouseAggregator(self.store, self.settings)
                if self.settings.aggregates and self.aggregates
                else None
            ),
            rewriter=ParquetRewriter(self.store, self.settings.output, self.settings.order_by),
            budget=self.budget,
            listener=self.listener,
            stopping=self.stopping,
        )

    async def open(self) -> None:
        """Check the bucket and make or check the pipeline's home."""
        s = self.settings
        await self.store.check(s.source)
        marker = Marker(
            format=FORMAT_VERSION,
            pipeline=s.name,
            source=s.source,
            output=s.output,
            generation=s.generation,
        )
        await open_home(self.store, marker, RandomIds())

    async def run(
        self, state: State | None = None, *, request: Request | None = None
    ) -> tuple[PassReport, State]:
        """Passes until nothing that the first one could see is left to do.

        Returns the sum, and the state to carry over.

        Of the pipeline's first generation, where others take the uploads by now, only the state is
        brought up to date: what it says of generations tells which others are to be run (`filled`).
        """
        total = PassReport()
        if state is not None:
            await require_home(self.store, self.settings.home)
        for _ in range(RUN_PASSES_MAX):
            running = Pass(replace(self.context(), listener=partial(self._hear, total)), state)
            try:
                if await self._is_filled_by_others(running):
                    return total, running.state
                report = await running.run(request)
                await keep_tidy(running)
            except Outdated:
                state = None
                continue
            state = running.state
            total = combine(total, report)
            if self._is_last(report, request):
                break
        if state is None:
            raise SettingsError(
                f"the log of {self.settings.name} is being collected faster than it can be read;"
                " run again"
            )
        return total, state

    def _is_last(self, report: PassReport, request: Request | None) -> bool:
        return not report.changed or self.stopping() or (request is not None and request.is_once)

    async def _is_filled_by_others(self, running: Pass) -> bool:
        """Whether other generations take the uploads of this first one."""
        if self.settings.generation:
            return False
        await running.open()
        return 0 not in filled(running.state.generations, self.settings.versions)

    def _hear(self, before: PassReport, event: AnyEvent) -> None:
        """Shows the passes so far as one: what a later pass sees to again was planned by an earlier
        one, and given back.
        """
        if isinstance(event, Progressed):
            sums = {n: getattr(before, n) + getattr(event.report, n) for n in SUMS}
            event = replace(event, report=replace(event.report, **sums))
        self.listener(event)

    def aggregates_are_behind(self, state: State) -> bool:
        """Whether the declared aggregates do not follow from this state."""
        from sinks.aggregates.compute import definitions, is_behind

        if not self.settings.aggregates:
            return False
        as_computed = {name: file.definition for name, file in state.aggregates.items()}
        wanted = (
            definitions(self.settings.aggregates, {})
            if not self.settings.dimensions
            else as_computed
        )
        # a dimension that changed is noticed by the next computation
        return is_behind(state, wanted)

    def log(self) -> Log:
        """The pipeline's log."""
        s = self.settings
        return Log(
            self.store, s.name, clock=WallClock(), policy=self.policy, generation=s.generation
        )

    def of_generation(self, generation: int) -> Runtime:
        """The same on another generation of the table."""
        return replace(self, settings=self.settings.of_generation(generation))

    @property
    def label(self) -> str:
        """The pipeline's name, with the generation where that is not the first."""
        s = self.settings
        return f"{s.name}, generation {s.generation}" if s.generation else s.name

    @property
    def named(self) -> dict[str, Any]:
        """The pipeline and the generation, as events have them."""
        return {"pipeline": self.settings.name, "generation": self.settings.generation}

    async def generations(self) -> Generations | None:
        """Which generations the table has; None where there is but one, which is the usual case and
        costs one request.
        """
        async for page in self.store.list(keys.generations_prefix(keys.home(self.settings.name))):
            if page.keys:
                return (await self.of_generation(0).log().load()).generations
        return None

    async def kept(self) -> list[Runtime]:
        """The same on each generation that the table still has."""
        known = await self.generations()
        return (
            [self]
            if known is None
            else [self.of_generation(number) for number in kept_numbers(known)]
        )

    async def live(self) -> Runtime:
        """The same on the generation that readers see."""
        known = await self.generations()
        return self.of_generation(known.live if known is not None else 0)

    def filled(self, known: Generations | None) -> list[Runtime]:
        """The same on each generation that a run of this code brings up to date."""
        return [self.of_generation(number) for number in filled(known, self.settings.versions)]
