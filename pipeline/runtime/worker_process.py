"""What runs in a worker process: the user's code loaded once, and attempts with it; and the
executor that starts such processes.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pipeline.declare.load_file import load_pipelines
from pipeline.declare.pipeline import Pipeline
from pipeline.declare.transform import Transform
from pipeline.errors import TidemillError
from pipeline.model import keys
from pipeline.model.policy import Policy, deployed_policy
from pipeline.model.receipt import Receipt
from pipeline.model.task import Assignment
from pipeline.ports import Outbox
from pipeline.runtime.bucket import Bucket
from pipeline.runtime.system import WallClock
from pipeline.tracebacks import describe, place
from pipeline.work.contents import LazyContents
from pipeline.work.prefetch import PrefetchedContents
from pipeline.work.user_code import UserCode
from pipeline.work.worker import Calls, Code, CodeBroken, Contents, Worker

if TYPE_CHECKING:
    from pipeline.executors.local.executor import LocalExecutor
    from sinks.parquet.table_spec import TableSpec
    from sinks.parquet.writer import AttemptWriter


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
    from sinks.parquet.table_spec import TableSpec

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
    """Runs attempts of all pipelines of one file in this process (see `executors.local` for who
    calls it).
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._loop = asyncio.new_event_loop()
        calls = UserCode()
        outbox, contents = self._loop.run_until_complete(_access(spec))
        self._workers: dict[str, Worker] = {}
        with calls:
            pipelines = load_pipelines(spec.file)
        for pipeline in pipelines:
            self._workers[pipeline.name] = self._worker(spec, pipeline, outbox, contents, calls)

    def _worker(
        self,
        spec: WorkerSpec,
        pipeline: Pipeline,
        outbox: Outbox,
        contents: Contents,
        calls: UserCode,
    ) -> Worker:
        return Worker(
            store=outbox,
            contents=contents
            if pipeline.upstream is None
            else self._tables(spec, pipeline.upstream),
            home=keys.home(pipeline.name),
            code=loaded_on_use(pipeline, calls),
            make_writer=_writers(table_spec(pipeline), Path(spec.scratch)),
            clock=WallClock(),
            budget_s=spec.budget_s,
            engine=spec.engine or f"{socket.gethostname()}:{os.getpid()}",
            calls=calls,
        )

    def _tables(self, spec: WorkerSpec, upstream: Pipeline) -> Contents:
        from pipeline.runtime.table_source import TableContents, TableStore

        policy = Policy() if spec.mounts is None else deployed_policy()
        return TableContents(
            TableStore(spec.bucket.open(), upstream, clock=WallClock(), policy=policy)
        )

    def run(self, assignment: Assignment, starting: Callable[[int], None]) -> Receipt:
        """One attempt, from reading to receipt."""
        return self._loop.run_until_complete(
            self._workers[assignment.pipeline].run(assignment, starting)
        )

    def run_together(
        self, assignments: Sequence[Assignment], starting: Callable[[int], None]
    ) -> Sequence[Receipt | TidemillError]:
        """Attempts of one transform as one (see `Worker.run_together`)."""
        worker = self._workers[assignments[0].pipeline]
        return self._loop.run_until_complete(worker.run_together(assignments, starting))

    def load(self, pipeline: str, transform: str) -> None:
        """Load a transform's code now. Raises CodeBroken."""
        self._workers[pipeline].load(transform)


def loaded_on_use(pipeline: Pipeline, calls: Calls) -> Callable[[str], Code | None]:
    """The pipeline's code by transform name; each is loaded when the first task asks for it, once.
    Raises CodeBroken.
    """
    declared = {t.settings.name: t for t in pipeline.transforms}

    @functools.cache
    def code(name: str) -> Code | None:
        transform = declared.get(name)
        if transform is None:
            return None
        try:
            return _loaded(transform, calls)
        except (Exception, SystemExit) as error:
            why = f"{place(error)}{describe(error)}"
            raise CodeBroken(
                f"transform {name} of {pipeline.name} cannot be loaded: {why}"
            ) from error

    return code


async def _access(spec: WorkerSpec) -> tuple[Outbox, Contents]:
    """How a worker writes and reads: through mounts where it is given some, else by the store."""
    if spec.mounts is not None:
        from pipeline.stores.mount import MountContents, MountOutbox, Mounts

        mounts = Mounts(spec.mounts)
        return MountOutbox(mounts), MountContents(mounts)
    store = spec.bucket.open()
    return store, LazyContents(store) if store.traits.opens_cheaply else PrefetchedContents(store)


def preload() -> None:
    """Import what attempts need; run once in the process that workers are forked from."""
    import pyarrow as pa
    import pyarrow.parquet

    from sinks.parquet import writer  # noqa: F401

    pa.array([1])  # finishes pyarrow's own imports


def local_attempts(spec: bytes) -> LocalAttempts:
    """The entry point of worker processes."""
    return LocalAttempts(msgspec.json.decode(spec, type=WorkerSpec))


def local_executor(
    file: str, pipelines: Sequence[Pipeline], bucket: Bucket, workers: int | None, policy: Policy
) -> LocalExecutor:
    """Worker processes for these pipelines.

    Call it before anything in this process starts a thread.
    """
    from pipeline.executors.local.executor import Limits, LocalExecutor

    limits = {
        f"{p.name}/{t.settings.name}": Limits(
            timeout_s=t.settings.timeout_s, memory_mb=t.settings.memory_mb
        )
        for p in pipelines
        for t in p.transforms
    }
    scratch = tempfile.mkdtemp(prefix="tidemill-")
    spec = WorkerSpec(file=file, bucket=bucket, budget_s=policy.attempt_budget_s, scratch=scratch)
    return LocalExecutor(
        entry="pipeline.runtime.worker_process:local_attempts",
        spec=msgspec.json.encode(spec),
        workers=workers,
        limits=limits,
        folder=scratch,
    )


def _loaded(transform: Transform, calls: Calls) -> Code:
    settings = transform.settings
    with calls:
        loaded = transform.load(calls.settled)
    return Code(call=loaded, batch_size=settings.batch_size, safe_to_rerun=settings.safe_to_rerun)


def _writers(table: TableSpec, scratch: Path) -> Callable[[Assignment], AttemptWriter]:
    from sinks.parquet.writer import AttemptWriter

    def make_writer(assignment: Assignment) -> AttemptWriter:
        return AttemptWriter(
            replace(table, output=keys.of_generation(table.output, assignment.task.generation)),
            schema=assignment.schema,
            task=assignment.task.id,
            nonce=assignment.nonce,
            scratch=scratch,
        )

    return make_writer
