"""A whole pipeline in this very process: for tests, notebooks and debuggers."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.declare.pipeline import Pipeline
from pipeline.errors import SettingsError
from pipeline.executors.local.process_owner import this_process
from pipeline.model import keys
from pipeline.model.policy import Policy
from pipeline.runtime.runtime import Runtime
from pipeline.runtime.system import WallClock
from pipeline.runtime.table_source import TableContents, TableStore
from pipeline.runtime.worker_process import loaded_on_use, table_spec
from pipeline.state.state import State
from pipeline.stores.local.store import LocalStore
from pipeline.tables.table import Table
from pipeline.testing.inline_executor import InlineExecutor
from pipeline.work.contents import LazyContents
from pipeline.work.user_code import UserCode
from pipeline.work.worker import Worker
from sinks.parquet.writer import AttemptWriter
from sinks.values.schema import PROVENANCE


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of some files."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """The committed rows, without the columns that say where they come from."""
    failed: dict[str, str] = field(default_factory=dict)
    """Keys in quarantine, each with the reason."""
    aggregates: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The rows of each declared aggregate."""


def run_inline(pipeline: Pipeline, files: Mapping[str, bytes | str]) -> Ran:
    """Process these files as `tidemill run` would, in this process, and say what came of it.

    files: whole keys, below the pipeline's source, to their bytes or text. Everything is as in a
    run but for the worker processes: transforms, checks, schema, commits, aggregates. A file that
    fails is in `failed`; what the code raises is not raised here.

    Raises SettingsError for a key that the pipeline does not read, and for a declaration that
    cannot work.
    """
    for key in files:
        if not key.startswith(pipeline.source):
            raise SettingsError(
                f"{key!r} is not below the source {pipeline.source!r} of pipeline {pipeline.name}"
            )
    with tempfile.TemporaryDirectory(prefix="tidemill-inline-") as folder:
        for key, body in files.items():
            path = Path(folder, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body.encode() if isinstance(body, str) else body)
        runtime = inline_runtime(pipeline, Path(folder))
        with ThreadPoolExecutor(1) as thread:  # a loop may run in this one, as in notebooks
            state = thread.submit(asyncio.run, _state_after(runtime)).result()
        return _seen(runtime, state)


async def _state_after(runtime: Runtime) -> State:
    await runtime.open()
    _, state = await runtime.run()
    await runtime.log().load_outputs(state)
    return state


def _seen(runtime: Runtime, state: State) -> Ran:
    failed = {key: entry.reason for key, entry in state.quarantine.items()}
    if state.schema is None:
        return Ran(failed=failed)
    with Table(runtime, state) as table:
        rows = table.arrow()
        shown = [name for name in rows.column_names if name not in PROVENANCE]
        names = [aggregate.name for aggregate in runtime.settings.aggregates]
        aggregates = {name: table.aggregate(name).to_pylist() for name in names}
        return Ran(rows.select(shown).to_pylist(), failed, aggregates)


def inline_runtime(
    pipeline: Pipeline, folder: Path, *, aggregates: bool = True, **policy: Any
) -> Runtime:
    """The pipeline on the bucket in `folder`, without worker processes.

    policy: fields of `Policy`.
    """
    store, spec, calls = LocalStore(folder), table_spec(pipeline), UserCode()
    upstream = pipeline.upstream
    worker = Worker(
        store=store,
        contents=LazyContents(store) if upstream is None else _tables(store, upstream),
        home=keys.home(pipeline.name),
        code=loaded_on_use(pipeline, calls),
        make_writer=lambda a: AttemptWriter(
            spec, schema=a.schema, task=a.task.id, nonce=a.nonce, scratch=folder
        ),
        clock=WallClock(),
        budget_s=30.0,
        calls=calls,
    )
    executor = InlineExecutor(worker, owner=this_process())
    settings, bounds = pipeline.settings(), Policy(**policy)
    return Runtime(pipeline, settings, store, bounds, executor, aggregates=aggregates)


def _tables(store: LocalStore, upstream: Pipeline) -> TableContents:
    return TableContents(TableStore(store, upstream, clock=WallClock(), policy=Policy()))
