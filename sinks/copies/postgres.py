"""Postgres: rows go in by COPY, batch by batch, in one transaction with the mark.

Any server from version 12 on.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import SettingsError
from pipeline.sql import quoting
from sinks.copies.change import Change, Mark
from sinks.copies.change_rows import Rows
from sinks.copies.port import SinkFailed
from sinks.copies.postgres_limits import lasting, refuse_columns
from sinks.copies.sql_tables import MARKS, bring, mark_in
from sinks.values.column_types import keeps_values, postgres_text, postgres_type

if TYPE_CHECKING:
    import psycopg
    import pyarrow as pa

CONNECT_TIMEOUT_S = 10
_SESSION = "SET TIME ZONE 'UTC'; SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'"
"""Whatever this machine's environment (PGTZ, PGDATESTYLE) or the role's own settings are."""


class PostgresSink:
    """See `port.Sink`. dsn_env: the environment variable that holds the connection string; schema:
    where the tables are.
    """

    def __init__(self, dsn_env: str, schema: str) -> None:
        self.dsn_env = dsn_env
        self.schema = schema
        self._connection: psycopg.Connection[Any] | None = None

    async def mark(self, pipeline: str) -> Mark | None:
        with self._used() as connection, connection.transaction():
            held = mark_in(_Session(connection, self.schema), pipeline)
        return held[0] if held else None

    async def follows(self, change: Change) -> bool:
        if not all(keeps_values(before, after) for before, after in change.retyped.values()):
            return False
        with self._used() as connection, connection.transaction():
            return _Session(connection, self.schema).columns(change.pipeline) is not None

    async def publish(self, change: Change, rows: Rows) -> bool:
        refuse_columns(change.pipeline, change.schema.names)
        for name in change.aggregates:
            refuse_columns(name, rows.aggregate_schema(name).names)
        with self._used() as connection:
            return bring(_Session(connection, self.schema), change, rows)

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    @contextmanager
    def _used(self) -> Iterator[psycopg.Connection[Any]]:
        """The connection; after an error another one is made.

        Raises SettingsError without its driver or connection string.
        """
        try:
            import psycopg
            from psycopg.conninfo import conninfo_to_dict
        except ImportError:
            raise SettingsError(
                "the Postgres sink needs psycopg: pip install 'tidemill[postgres]'"
            ) from None
        dsn = os.environ.get(self.dsn_env)
        if not dsn:
            raise SettingsError(
                f"set {self.dsn_env} to the connection string of Postgres, like"
                " postgresql://user@host/database"
            )
        if self._connection is not None and self._connection.closed:
            self._connection = None
        try:
            options: dict[str, Any] = {
                "connect_timeout": CONNECT_TIMEOUT_S,
                "application_name": "tidemill",
                **conninfo_to_dict(dsn),
                "client_encoding": "UTF8",
            }
        except psycopg.Error:  # its message repeats a part of the string, perhaps the password
            raise SettingsError(
                f"{self.dsn_env} is no connection string of Postgres, like"
                " postgresql://user@host/database"
            ) from None
        try:
            if self._connection is None:
                self._connection = psycopg.connect(autocommit=True, **options)
                self._connection.execute(_SESSION)
            yield self._connection
        except psycopg.Error as error:  # the lines after the first may show rows
            forever = lasting(error.sqlstate, str(error), error.diag.context)
            if forever:
                raise SettingsError(forever) from error
            raise SinkFailed(
                f"Postgres: {(str(error).splitlines() or [type(error).__name__])[0]}"
            ) from error


class _Session:
    """See `sql_tables.Database`."""

    def __init__(self, connection: psycopg.Connection[Any], schema: str) -> None:
        self._connection = connection
        self._schema = schema

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._connection.transaction():
            # one publisher at a time; readers are not held up. The lock ends with the transaction,
            # however that ends
            self.execute("SELECT pg_advisory_xact_lock(hashtext(?))", f"tidemill {self._schema}")
            if not self.execute("SELECT 1 FROM pg_namespace WHERE nspname = ?", self._schema):
                self.execute(f"CREATE SCHEMA {quoting.name(self._schema)}")
            yield

    def execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        if values:
            statement = statement.replace("%", "%%").replace("?", "%s")
        cursor = self._connection.execute(statement, values or None)
        return cursor.fetchall() if cursor.description is not None else []

    def table(self, name: str) -> str:
        return f"{quoting.name(self._schema)}.{quoting.name(name)}"

    def columns(self, name: str) -> dict[str, str] | None:
        listed = (
            "SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a JOIN"
            " pg_class c ON c.oid = a.attrelid"
        )
        where = (
            "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ? AND c.relname = ?"
        )
        found = self.execute(
            f"{listed} {where} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            self._schema,
            name,
        )
        return dict(found) if found else None

    def type_of(self, kind: pa.DataType) -> str:
        return postgres_type(kind)

    def text_of(self, column: str, kind: pa.DataType) -> str:
        return postgres_text(column, kind)

    def retype(self, name: str, column: str, kind: str, *, empty: bool) -> None:
        quoted = quoting.name(column)
        value = "NULL" if empty else quoted
        self.execute(
            f"ALTER TABLE {self.table(name)} ALTER COLUMN {quoted} TYPE {kind} USING"
            f" {value}::{kind}"
        )

    def insert(self, name: str, batches: pa.RecordBatchReader) -> None:
        columns = ", ".join(quoting.name(column) for column in batches.schema.names)
        self._copy(f"{self.table(name)} ({columns})", batches)

    def remove(self, name: str, pairs: pa.RecordBatchReader) -> None:
        self.execute("CREATE TEMPORARY TABLE _gone (_task text, _source_key text) ON COMMIT DROP")
        self._copy("_gone (_task, _source_key)", pairs)
        self.execute("ANALYZE _gone")
        same = "g._task = t._task AND g._source_key = t._source_key"
        self.execute(f"DELETE FROM {self.table(name)} t USING _gone g WHERE {same}")

    def _copy(self, target: str, batches: pa.RecordBatchReader) -> None:
        from pyarrow import csv

        plain = csv.WriteOptions(include_header=False)
        with (
            self._connection.cursor() as cursor,
            cursor.copy(f"COPY {target} FROM STDIN (FORMAT csv)") as copy,
        ):
            for batch in batches:
                out = io.BytesIO()
                csv.write_csv(batch, out, plain)
                copy.write(out.getbuffer())

    def created(self, name: str) -> None:
        """An index to find the rows of a file that changed."""
        if name != MARKS:
            self.execute(f"CREATE INDEX ON {self.table(name)} (_source_key, _task)")
