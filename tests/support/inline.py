"""A pipeline whose code runs in this very process, on a local directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import Pipeline
from pipeline.executors.local.process_owner import this_process
from pipeline.model import keys
from pipeline.model.policy import Policy
from pipeline.runtime.runtime import Runtime
from pipeline.runtime.system import WallClock
from pipeline.runtime.table_source import TableContents, TableStore
from pipeline.runtime.worker_process import loaded_on_use, table_spec
from pipeline.stores.local.store import LocalStore
from pipeline.testing.inline_executor import InlineExecutor
from pipeline.work.contents import LazyContents
from pipeline.work.user_code import UserCode
from pipeline.work.worker import Worker
from sinks.parquet.writer import AttemptWriter


def inline_runtime(p: Pipeline, folder: Path, *, aggregates: bool = True, **policy: Any) -> Runtime:
    """What `p.settings()` says over the bucket in `folder`; `policy` are fields of `Policy`."""
    store, spec = LocalStore(folder), table_spec(p)
    calls = UserCode()
    worker = Worker(
        store=store,
        contents=LazyContents(store) if p.upstream is None else _tables(store, p.upstream),
        home=keys.home(p.name),
        code=loaded_on_use(p, calls),
        make_writer=lambda a: AttemptWriter(
            spec, schema=a.schema, task=a.task.id, nonce=a.nonce, scratch=folder
        ),
        clock=WallClock(),
        budget_s=30.0,
        calls=calls,
    )
    executor = InlineExecutor(worker, owner=this_process())
    return Runtime(p, p.settings(), store, Policy(**policy), executor, aggregates=aggregates)


def _tables(store: LocalStore, upstream: Pipeline) -> TableContents:
    return TableContents(TableStore(store, upstream, clock=WallClock(), policy=Policy()))
