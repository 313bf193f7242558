"""A DuckDB database file on this machine: the tables themselves, not views.

One program may write it at a time.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.sql import quoting
from pipeline.sql.connection import connect
from sinks.copies.change import Change, Mark
from sinks.copies.change_rows import Rows
from sinks.copies.port import SinkFailed, failing
from sinks.copies.sql_tables import bring, mark_in
from sinks.query.query_limits import half_of_memory_mb
from sinks.values.column_types import duckdb_type, keeps_values

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

OPENINGS_MAX = 100
OPENING_PAUSE_S = 0.1


class DuckDBFileSink:
    """See `port.Sink`.

    Each call opens the file and closes it, so that others can read it in between.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    async def mark(self, pipeline: str) -> Mark | None:
        if not self.path.exists():
            return None
        connection = await self._open(read_only=True)
        try:
            held = mark_in(_File(connection), pipeline)
        finally:
            connection.close()
        return held[0] if held else None

    async def follows(self, change: Change) -> bool:
        if not all(keeps_values(before, after) for before, after in change.retyped.values()):
            return False
        connection = await self._open(read_only=True)
        try:
            return _File(connection).columns(change.pipeline) is not None
        finally:
            connection.close()

    async def publish(self, change: Change, rows: Rows) -> bool:
        import duckdb

        self._create()
        connection = await self._open()
        try:
            with failing(str(self.path), duckdb.Error):
                return bring(_File(connection), change, rows)
        finally:
            connection.close()

    async def close(self) -> None:
        pass

    def _create(self) -> None:
        """The file is there once it is a database, so that nobody finds DuckDB's first page half
        written, not even after a kill.
        """
        import duckdb

        if self.path.exists() or not self.path.parent.is_dir():
            return
        with (
            failing(str(self.path), duckdb.Error, OSError),
            tempfile.TemporaryDirectory(
                prefix=f".{self.path.name}-", dir=self.path.parent
            ) as folder,
            suppress(FileExistsError),  # another publisher was first
        ):
            made = Path(folder, self.path.name)
            connect(str(made)).close()
            os.link(made, self.path)

    async def _open(self, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
        """A connection; waits a while for another program that has the file open."""
        import duckdb

        if not self.path.parent.is_dir():
            raise SinkFailed(f"{self.path}: there is no directory {self.path.parent}")
        memory = f"{half_of_memory_mb() // 2}MiB"
        why = ""
        for _ in range(OPENINGS_MAX):
            try:
                return connect(str(self.path), read_only=read_only, memory_limit=memory)
            except duckdb.Error as error:
                why = _without_advice(error)
                if "lock" not in why:
                    break
            await asyncio.sleep(OPENING_PAUSE_S)
        raise SinkFailed(f"{self.path} cannot be opened: {why}")


def _without_advice(error: duckdb.Error) -> str:
    return " ".join(str(error).partition(". However")[0].split())


def _committed(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("COMMIT")


class _File:
    """See `sql_tables.Database`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN TRANSACTION")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        _committed(self._connection)

    def execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._connection.execute(statement, list(values)).fetchall()
        return rows

    def table(self, name: str) -> str:
        return f"main.{quoting.name(name)}"

    def columns(self, name: str) -> dict[str, str] | None:
        listed = (
            "SELECT column_name, data_type FROM duckdb_columns() WHERE schema_name = 'main' AND"
            " table_name = ? AND NOT internal"
        )
        found = self.execute(
            f"{listed} AND database_name = current_database() ORDER BY column_index", name
        )
        return dict(found) if found else None

    def type_of(self, kind: pa.DataType) -> str:
        return str(self.execute(f"SELECT typeof(CAST(NULL AS {duckdb_type(kind)}))")[0][0])

    def text_of(self, column: str, kind: pa.DataType) -> str:
        return f"CAST({quoting.name(column)} AS {duckdb_type(kind)}) AS {quoting.name(column)}"

    def retype(self, name: str, column: str, kind: str, *, empty: bool) -> None:
        # rows that this transaction deleted would be turned, too
        using = f" USING CAST(NULL AS {kind})" if empty else ""
        self.execute(
            f"ALTER TABLE {self.table(name)} ALTER {quoting.name(column)} TYPE {kind}{using}"
        )

    def insert(self, name: str, batches: pa.RecordBatchReader) -> None:
        with self._incoming(batches):
            self.execute(f"INSERT INTO {self.table(name)} BY NAME SELECT * FROM _incoming")

    def remove(self, name: str, pairs: pa.RecordBatchReader) -> None:
        with self._incoming(pairs):
            same = "g._task = t._task AND g._source_key = t._source_key"
            self.execute(f"DELETE FROM {self.table(name)} t USING _incoming g WHERE {same}")

    @contextmanager
    def _incoming(self, batches: pa.RecordBatchReader) -> Iterator[None]:
        self._connection.register("_incoming", batches)
        try:
            yield
        finally:
            self._connection.unregister("_incoming")

    def created(self, name: str) -> None:
        """No index: DuckDB finds rows by its own min-max indexes."""
