"""The composition root for one machine: stores, executors and sinks are joined to the protocol here and nowhere else."""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pipeline._version import __version__
from pipeline.commit_log.format_marker import Marker, open_home, require_home
from pipeline.commit_log.log import Log, Outdated
from pipeline.declare.load_file import load_pipelines
from pipeline.declare.pipeline import Pipeline
from pipeline.discover.request import Request
from pipeline.errors import SettingsError, TidemillError
from pipeline.model import keys
from pipeline.model.commit import FORMAT_VERSION, Assignment, Generations, Receipt
from pipeline.model.settings import PipelineSettings, Policy, rented_policy
from pipeline.passes.context import Parts, PassReport
from pipeline.passes.runner import Pass
from pipeline.passes.upkeep import keep_tidy
from pipeline.plan.cost import Budget
from pipeline.ports import Executor, Outbox, Store
from pipeline.state.generations import filled
from pipeline.state.state import State
from pipeline.stores import open_store
from pipeline.tracebacks import describe, place
from pipeline.work.contents import LazyContents
from pipeline.work.prefetch import PrefetchedContents
from pipeline.work.user_code import UserCode
from pipeline.work.worker import Calls, Code, CodeBroken, Contents, Worker

if TYPE_CHECKING:
    from pipeline.executors.local.executor import LocalExecutor
    from sinks.parquet.writer import TableSpec

RUN_PASSES_MAX = 20


class WallClock:
    """This machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class RandomIds:
    """96 random bits: never the same twice."""

    def nonce(self) -> str:
        return secrets.token_hex(12)


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bucket is, as given on the command line or in the environment."""

    url: str
    endpoint_url: str | None = None
    region: str | None = None

    def open(self, *, create: bool = False) -> Store:
        """A store for this process. Raises SettingsError for a URL that names no bucket."""
        return open_store(self.url, endpoint_url=self.endpoint_url, region=self.region, create=create)


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker process needs to know; crosses the process boundary as JSON."""

    file: str
    bucket: Bucket
    budget_s: float
    scratch: str
    """A directory for large outputs on their way, removed by whoever made it."""
    mounts: dict[str, str] | None = None
    """Key prefixes to directories, where the worker reaches the bucket through mounts alone."""
    engine: str = ""
    """Where the work is done, for receipts; by default host and process."""


def table_spec(pipeline: Pipeline) -> TableSpec:
    """How the pipeline's rows become Parquet."""
    from sinks.parquet.writer import TableSpec

    return TableSpec(
        name=pipeline.name,
        output=pipeline.output,
        partition_by=pipeline.partition_by,
        declared=pipeline.schema,
        widen=pipeline.widen,
        mode=pipeline.schema_mode,
        checks=tuple(pipeline.checks),
    )


class LocalAttempts:
    """Runs attempts of all pipelines of one file in this process (see `executors.local` for who calls it)."""

    def __init__(self, spec: WorkerSpec) -> None:
        from sinks.parquet.writer import AttemptWriter

        self._loop = asyncio.new_event_loop()
        calls = UserCode()
        outbox, contents = self._loop.run_until_complete(_access(spec))
        scratch = Path(spec.scratch)
        self._workers: dict[str, Worker] = {}
        with calls:
            pipelines = load_pipelines(spec.file)
        for pipeline in pipelines:
            table = table_spec(pipeline)

            def make_writer(assignment: Assignment, table: TableSpec = table) -> AttemptWriter:
                return AttemptWriter(
                    replace(table, output=keys.of_generation(table.output, assignment.task.generation)),
                    schema=assignment.schema,
                    task=assignment.task.id,
                    nonce=assignment.nonce,
                    scratch=scratch,
                )

            self._workers[pipeline.name] = Worker(
                store=outbox,
                contents=contents if pipeline.upstream is None else self._tables(spec, pipeline.upstream),
                home=keys.home(pipeline.name),
                code=loaded_on_use(pipeline, calls),
                make_writer=make_writer,
                clock=WallClock(),
                budget_s=spec.budget_s,
                engine=spec.engine or f"{socket.gethostname()}:{os.getpid()}",
                calls=calls,
            )

    def _tables(self, spec: WorkerSpec, upstream: Pipeline) -> Contents:
        from pipeline.runtime.table_source import TableContents, TableStore

        policy = Policy() if spec.mounts is None else rented_policy()
        return TableContents(TableStore(spec.bucket.open(), upstream, clock=WallClock(), policy=policy))

    def run(self, assignment: Assignment, starting: Callable[[int], None]) -> Receipt:
        """One attempt, from reading to receipt."""
        return self._loop.run_until_complete(self._workers[assignment.pipeline].run(assignment, starting))

    def run_together(self, assignments: Sequence[Assignment], starting: Callable[[int], None]) -> Sequence[Receipt | TidemillError]:
        """Attempts of one transform as one (see `Worker.run_together`)."""
        worker = self._workers[assignments[0].pipeline]
        return self._loop.run_until_complete(worker.run_together(assignments, starting))

    def load(self, pipeline: str, transform: str) -> None:
        """Load a transform's code now. Raises CodeBroken."""
        self._workers[pipeline].load(transform)


def loaded_on_use(pipeline: Pipeline, calls: Calls) -> Callable[[str], Code | None]:
    """The pipeline's code by transform name; each is loaded when the first task asks for it, once. Raises CodeBroken."""
    declared = {t.settings.name: t for t in pipeline.transforms}

    @functools.cache
    def code(name: str) -> Code | None:
        transform = declared.get(name)
        if transform is None:
            return None
        try:
            settings = transform.settings
            with calls:
                loaded = transform.load(calls.settled)
            return Code(call=loaded, batch_size=settings.batch_size, safe_to_rerun=settings.safe_to_rerun)
        except (Exception, SystemExit) as error:
            why = f"{place(error)}{describe(error)}"
            raise CodeBroken(f"transform {name} of {pipeline.name} cannot be loaded: {why}") from error

    return code


async def _access(spec: WorkerSpec) -> tuple[Outbox, Contents]:
    """How a worker writes and reads: through mounts where it is given some, else by the store."""
    if spec.mounts is not None:
        from pipeline.stores.mount import MountContents, MountOutbox, Mounts

        mounts = Mounts(spec.mounts)
        return MountOutbox(mounts), MountContents(mounts)
    store = spec.bucket.open()
    return store, LazyContents(store) if store.url.startswith("file:") else PrefetchedContents(store)


def preload() -> None:
    """Import what attempts need; run once in the process that workers are forked from."""
    import pyarrow as pa
    import pyarrow.parquet

    from sinks.parquet import writer  # noqa: F401

    pa.array([1])  # finishes pyarrow's own imports


def local_attempts(spec: bytes) -> LocalAttempts:
    """The entry point of worker processes."""
    return LocalAttempts(msgspec.json.decode(spec, type=WorkerSpec))


def local_executor(file: str, pipelines: Sequence[Pipeline], bucket: Bucket, workers: int | None, policy: Policy) -> LocalExecutor:
    """Worker processes for these pipelines. Call it before anything in this process starts a thread."""
    from pipeline.executors.local.executor import Limits, LocalExecutor

    limits = {
        f"{p.name}/{t.settings.name}": Limits(timeout_s=t.settings.timeout_s, memory_mb=t.settings.memory_mb)
        for p in pipelines
        for t in p.transforms
    }
    scratch = tempfile.mkdtemp(prefix="tidemill-")
    spec = WorkerSpec(file=file, bucket=bucket, budget_s=policy.attempt_budget_s, scratch=scratch)
    return LocalExecutor(
        entry="pipeline.runtime.runtime:local_attempts",
        spec=msgspec.json.encode(spec),
        workers=workers,
        limits=limits,
        folder=scratch,
    )


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
    on_progress: Callable[[PassReport], None] = lambda report: None
    on_columns: Callable[[str], None] = lambda schema: None
    stopping: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        from pipeline.runtime.table_source import TableStore

        upstream = self.pipeline.upstream
        if upstream is not None and not isinstance(self.store, TableStore):
            self.store = TableStore(self.store, upstream, clock=WallClock(), policy=self.policy)

    def parts(self) -> Parts:
        """The pass's parts."""
        from pipeline.runtime.aggregator import WarehouseAggregator
        from sinks.parquet.rewriter import ParquetRewriter

        return Parts(
            settings=self.settings,
            policy=self.policy,
            store=self.store,
            executor=self.executor,
            clock=WallClock(),
            ids=RandomIds(),
            writer=f"tidemill/{__version__} {self.executor.owner}",
            unify=table_spec(self.pipeline).rules.settled,
            aggregator=WarehouseAggregator(self.store, self.settings) if self.settings.aggregates and self.aggregates else None,
            rewriter=ParquetRewriter(self.store, self.settings.output, self.settings.order_by),
            budget=self.budget,
            on_progress=self.on_progress,
            on_columns=self.on_columns,
            stopping=self.stopping,
        )

    async def open(self) -> None:
        """Check the bucket and make or check the pipeline's home."""
        s = self.settings
        await self.store.check(s.source)
        marker = Marker(format=FORMAT_VERSION, pipeline=s.name, source=s.source, output=s.output, generation=s.generation)
        await open_home(self.store, marker, RandomIds())

    async def run(self, state: State | None = None, *, request: Request | None = None) -> tuple[PassReport, State]:
        """Passes until nothing that the first one could see is left to do. Returns the sum, and the state to carry over.

        Of the pipeline's first generation, where others take the uploads by now, only the state is brought up to date: what it says
        of generations tells which others are to be run (`filled`).
        """
        total = PassReport()
        if state is not None:
            await require_home(self.store, self.settings.home)
        for _ in range(RUN_PASSES_MAX):
            running = Pass(replace(self.parts(), on_progress=partial(self._progressed, total)), state)
            try:
                if self.settings.generation == 0:
                    await running.open()
                    if 0 not in filled(running.state.generations, self.settings.versions):
                        return total, running.state
                report = await running.run(request)
                await keep_tidy(running)
            except Outdated:
                state = None
                continue
            state = running.state
            total = combine(total, report)
            if not report.changed or self.stopping() or (request is not None and request.is_once):
                break
        if state is None:
            raise SettingsError(f"the log of {self.settings.name} is being collected faster than it can be read; run again")
        return total, state

    def _progressed(self, before: PassReport, report: PassReport) -> None:
        """Shows the passes so far as one: what a later pass sees to again was planned by an earlier one, and given back."""
        self.on_progress(replace(report, **{name: getattr(before, name) + getattr(report, name) for name in _SUMS}))

    def aggregates_are_behind(self, state: State) -> bool:
        """Whether the declared aggregates do not follow from this state."""
        from sinks.aggregates.compute import definitions, is_behind

        if not self.settings.aggregates:
            return False
        as_computed = {name: file.definition for name, file in state.aggregates.items()}
        wanted = definitions(self.settings.aggregates, {}) if not self.settings.dimensions else as_computed
        return is_behind(state, wanted)  # a dimension that changed is noticed by the next computation

    def log(self) -> Log:
        """The pipeline's log."""
        s = self.settings
        return Log(self.store, s.name, clock=WallClock(), policy=self.policy, generation=s.generation)

    def of_generation(self, generation: int) -> Runtime:
        """The same on another generation of the table."""
        return replace(self, settings=self.settings.of_generation(generation))

    @property
    def label(self) -> str:
        """The pipeline's name, with the generation where that is not the first."""
        s = self.settings
        return f"{s.name}, generation {s.generation}" if s.generation else s.name

    async def generations(self) -> Generations | None:
        """Which generations the table has; None where there is but one, which is the usual case and costs one request."""
        async for page in self.store.list(keys.generations_prefix(keys.home(self.settings.name))):
            if page.keys:
                return (await self.of_generation(0).log().load()).generations
        return None

    async def live(self) -> Runtime:
        """The same on the generation that readers see."""
        known = await self.generations()
        return self.of_generation(known.live if known is not None else 0)

    def filled(self, known: Generations | None) -> list[Runtime]:
        """The same on each generation that a run of this code brings up to date."""
        return [self.of_generation(number) for number in filled(known, self.settings.versions)]


_SUMS = (
    *("planned", "planned_bytes", "committed", "committed_bytes", "rows", "rejected", "quarantined", "deleted", "changed"),
    *("respawned", "commits", "aggregates"),
)


def combine(total: PassReport, report: PassReport) -> PassReport:
    """Two passes as one: counts of work add up, counts of what is there are the newer ones."""
    for name in _SUMS:
        setattr(report, name, getattr(total, name) + getattr(report, name))
    return report
