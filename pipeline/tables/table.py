"""A pipeline's committed rows for programs: `Pipeline.table()` gives a DuckDB relation, Arrow
batches, pandas and Polars frames.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import SettingsError, nearest
from pipeline.executors.none import NoExecutor
from pipeline.model.policy import Policy
from pipeline.runtime.bucket import Bucket
from pipeline.runtime.runtime import Runtime
from pipeline.sql import quoting
from pipeline.state.state import State
from pipeline.tables.points_in_time import When, when
from pipeline.tables.time_travel import state_at
from pipeline.tables.views import add_tables
from sinks.query.object_files import files_of
from sinks.query.views import ROWS_AT_ONCE
from sinks.query.warehouse import Warehouse
from sinks.results.pandas_frames import pandas_frame

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from pipeline.declare.pipeline import Pipeline

T = TypeVar("T")

_open: set[Table] = set()
"""Tables that nobody closed: what was got from one may be in use when the table itself is out of
sight.
"""


def open_table(
    pipeline: Pipeline,
    bucket: str | None,
    *,
    at: int | str | datetime | None,
    endpoint_url: str | None,
    region: str | None,
) -> Table:
    """See `Pipeline.table`."""
    wanted = _when(at)
    store = _bucket(bucket, endpoint_url, region).open()
    runtime = Runtime(pipeline, pipeline.settings(), store, Policy(), NoExecutor())
    return Table(runtime, _finished(_loaded(runtime, wanted)))


def _bucket(bucket: str | None, endpoint_url: str | None, region: str | None) -> Bucket:
    """What is not given is from the environment."""
    url = bucket or os.environ.get("TIDEMILL_BUCKET")
    if not url:
        raise SettingsError(
            'no bucket: give bucket="s3://bucket/prefix" (or a directory), or set TIDEMILL_BUCKET'
        )
    endpoints = ("TIDEMILL_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    endpoint_url = endpoint_url or next(
        (os.environ[name] for name in endpoints if os.environ.get(name)), None
    )
    region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return Bucket(url=url, endpoint_url=endpoint_url, region=region)


def _when(at: int | str | datetime | None) -> When | None:
    """What `at` names. Raises SettingsError where that is no commit and no time."""
    found = when(at, datetime.now(UTC)) if isinstance(at, str) else at
    if at is not None and found is None:
        raise SettingsError(
            f'at={at!r} is no commit and no time: write 7, "g1:7" (of generation 1), "36h" or a'
            " datetime"
        )
    return found


async def _loaded(runtime: Runtime, at: When | None) -> State:
    await runtime.store.check(runtime.settings.source)
    _, state = await state_at(await runtime.live(), at)
    if not state.sequence:
        raise SettingsError(
            f"pipeline {runtime.settings.name} has committed nothing in {runtime.store.url} yet:"
            " run it first"
        )
    return state


def _finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of asynchronous work, also where a loop runs already, as it does in notebooks."""
    with ThreadPoolExecutor(1, thread_name_prefix="tidemill-table") as thread:
        return thread.submit(asyncio.run, work).result()


class Table:
    """One pipeline's live rows and aggregates as they were at one commit, `sequence`, whatever is
    committed meanwhile. Read only.

    Open until `close()`, the end of a `with` block, or of the process. Methods that read raise
    ObjectNotFound where a vacuum took files away that this commit needs: open the table again.
    """

    def __init__(self, runtime: Runtime, state: State) -> None:
        snapshot = state.snapshot()
        self.name: str = snapshot.pipeline
        self.sequence: int = snapshot.sequence
        aggregates = runtime.settings.aggregates
        self._aggregates = [aggregate.name for aggregate in aggregates]
        self._warehouse = Warehouse(files_of(runtime.store), timezone=runtime.settings.timezone)
        try:
            _finished(add_tables(self._warehouse, runtime, state))
        except BaseException:
            self._warehouse.close()
            raise
        _open.add(self)

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Table({self.name!r}, sequence={self.sequence})"

    def close(self) -> None:
        """Release memory and scratch space. Relations and readers of this table end with it."""
        _open.discard(self)
        self._warehouse.close()

    @property
    def schema(self) -> pa.Schema:
        """The columns as they are read, provenance last."""
        reader = self._warehouse.reader(f"SELECT * FROM {quoting.name(self.name)} LIMIT 0")
        try:
            return reader.schema
        finally:
            reader.close()

    @property
    def relation(self) -> duckdb.DuckDBPyRelation:
        """The rows as a DuckDB relation: `.filter(...)`, `.aggregate(...)`, `.query("t", "SELECT
        ... FROM t")`.
        """
        return self._warehouse.cursor().view(self.name)

    def reader(self, *, batch_rows: int = ROWS_AT_ONCE) -> pa.RecordBatchReader:
        """The rows as Arrow record batches, read as they are asked for, in bounded memory.

        Several readers may be open at once.
        """
        if not isinstance(batch_rows, int) or batch_rows < 1:
            raise SettingsError(f"batch_rows={batch_rows!r} is no number of rows")
        return self._warehouse.reader(
            f"SELECT * FROM {quoting.name(self.name)}", batch_rows=batch_rows
        )

    def arrow(self) -> pa.Table:
        """All rows as an Arrow table."""
        return self.reader().read_all()

    def pandas(self) -> pd.DataFrame:
        """All rows as a pandas frame (needs pandas).

        What pandas has no type for is text: see `sinks.frames`.
        """
        return pandas_frame(self.arrow(), self._warehouse.timezone)

    def polars(self) -> pl.DataFrame:
        """All rows as a Polars frame. Raises SettingsError where Polars is not installed."""
        try:
            import polars as pl
        except ModuleNotFoundError:
            raise SettingsError(
                "polars() needs the package polars: install it, or use arrow()"
            ) from None
        return pl.from_arrow(self.arrow())

    def aggregate(self, name: str) -> pa.Table:
        """A declared aggregate's rows at this commit.

        Raises SettingsError where there is none of that name.
        """
        if name not in self._aggregates:
            raise SettingsError(
                f"pipeline {self.name} declares no aggregate"
                f" {name!r}{nearest(name, self._aggregates)}"
            )
        if name in self._warehouse.broken:
            raise SettingsError(
                f"aggregate {name} cannot be computed: {self._warehouse.broken[name]}"
            )
        if not self._warehouse.has(name):
            raise SettingsError(f"aggregate {name} is empty: no rows are committed yet")
        return self._warehouse.reader(f"SELECT * FROM {quoting.name(name)}").read_all()
