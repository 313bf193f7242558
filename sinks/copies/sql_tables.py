"""One transaction on a database with SQL: the same steps on DuckDB and on Postgres, which differ in
types and in how rows go in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.errors import SettingsError
from pipeline.sql import quoting
from sinks.copies.change import Change, Mark
from sinks.copies.change_rows import Rows

if TYPE_CHECKING:
    import pyarrow as pa

MARKS = "_tidemill_marks"
"""The table of marks: what the database holds of each pipeline."""


class Database(Protocol):
    """An open connection, as `bring` needs it."""

    def transaction(self) -> AbstractContextManager[object]:
        """Commits at its end, or nothing happened.

        No other transaction that writes marks runs beside it.
        """
        ...

    def execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement; its rows, if it has any. `?` stands for a value."""
        ...

    def table(self, name: str) -> str:
        """A table's quoted name, with its schema."""
        ...

    def columns(self, name: str) -> dict[str, str] | None:
        """A table's columns with the types that `type_of` gives; None where there is
        no such table.
        """
        ...

    def type_of(self, kind: pa.DataType) -> str:
        """What a column of this Arrow type is in the database."""
        ...

    def text_of(self, column: str, kind: pa.DataType) -> str:
        """What is asked of DuckDB, so that `insert` can hand the column on."""
        ...

    def retype(self, name: str, column: str, kind: str, *, empty: bool) -> None:
        """Change a column's type. empty: the table has no rows."""
        ...

    def insert(self, name: str, batches: pa.RecordBatchReader) -> None:
        """Add rows, batch by batch."""
        ...

    def remove(self, name: str, pairs: pa.RecordBatchReader) -> None:
        """Delete the rows with these values of `_task` and `_source_key`."""
        ...

    def created(self, name: str) -> None:
        """The main table was made just now."""
        ...


def mark_in(database: Database, pipeline: str) -> tuple[Mark, list[str]] | None:
    """What the database holds of a pipeline, and in which tables; None for nothing."""
    if database.columns(MARKS) is None:
        return None
    found = database.execute(
        f"SELECT generation, sequence, tables FROM {database.table(MARKS)} WHERE pipeline = ?",
        pipeline,
    )
    return (Mark(found[0][0], found[0][1]), json.loads(found[0][2])) if found else None


def bring(database: Database, change: Change, rows: Rows) -> bool:
    """See `Sink.publish`."""
    with database.transaction():
        mark, tables = mark_in(database, change.pipeline) or (None, [])
        if mark != change.over:
            return False
        _refuse_foreign(database, [change.pipeline, *change.aggregates], tables)
        if change.whole:
            fresh = rows.fresh(_selected(database, change.schema))
            _replace(database, change.pipeline, change.schema, fresh, main=True)
        else:
            _follow(database, change, rows)
        _replace_aggregates(database, change, rows)
        _set_mark(database, change, _tables_left(database, change, tables))
    return True


def _replace_aggregates(database: Database, change: Change, rows: Rows) -> None:
    for name in change.aggregates:
        schema = rows.aggregate_schema(name)
        _replace(database, name, schema, rows.aggregate(name, _selected(database, schema)))


def _tables_left(database: Database, change: Change, tables: list[str]) -> list[str]:
    """Drop those of the pipeline's tables that are not wanted any more; the others."""
    wanted = {change.pipeline, *change.aggregates}
    dropped = (
        [name for name in tables if name not in wanted] if change.whole else list(change.dropped)
    )
    for name in dropped:
        database.execute(f"DROP TABLE IF EXISTS {database.table(name)}")
    return sorted({*tables, *wanted} - set(dropped))


def _refuse_foreign(database: Database, wanted: list[str], ours: list[str]) -> None:
    """Tables that somebody else made are not touched."""
    for name in wanted:
        if name not in ours and database.columns(name) is not None:
            raise SettingsError(
                f"there is a table {name} that Tidemill did not make: choose another schema or"
                " file, or rename it"
            )


def _selected(database: Database, schema: pa.Schema) -> str:
    return ", ".join(database.text_of(field.name, field.type) for field in schema)


def _replace(
    database: Database,
    name: str,
    schema: pa.Schema,
    batches: pa.RecordBatchReader,
    *,
    main: bool = False,
) -> None:
    """The table with exactly these columns and rows.

    An existing one stays the same table, with its grants and indexes.
    """
    wanted = {field.name: database.type_of(field.type) for field in schema}
    have = database.columns(name)
    if have is None:
        columns = ", ".join(f"{quoting.name(column)} {kind}" for column, kind in wanted.items())
        database.execute(f"CREATE TABLE {database.table(name)} ({columns})")
        if main:
            database.created(name)
    else:
        _empty_and_alter(database, name, have, wanted)
    database.insert(name, batches)


def _empty_and_alter(
    database: Database, name: str, have: Mapping[str, str], wanted: Mapping[str, str]
) -> None:
    table = database.table(name)
    database.execute(f"DELETE FROM {table}")
    for column, kind in wanted.items():
        if column not in have:
            database.execute(f"ALTER TABLE {table} ADD COLUMN {quoting.name(column)} {kind}")
        elif have[column] != kind:
            database.retype(name, column, kind, empty=True)
    for column in have:
        if column not in wanted:
            database.execute(f"ALTER TABLE {table} DROP COLUMN {quoting.name(column)}")


def _follow(database: Database, change: Change, rows: Rows) -> None:
    """Columns first, then the rows that went, then those that came."""
    name, types = change.pipeline, {field.name: field.type for field in change.schema}
    _change_columns(database, change)
    if rows.has_gone():
        pairs = ", ".join(
            database.text_of(column, types[column]) for column in ("_task", "_source_key")
        )
        database.remove(name, rows.gone(pairs))
    if change.added:
        database.insert(name, rows.fresh(_selected(database, change.schema)))


def _change_columns(database: Database, change: Change) -> None:
    name, types = change.pipeline, {field.name: field.type for field in change.schema}
    for column in change.new_columns:
        kind = database.type_of(types[column])
        database.execute(
            f"ALTER TABLE {database.table(name)} ADD COLUMN {quoting.name(column)} {kind}"
        )
    for column, (before, after) in change.retyped.items():
        if database.type_of(before) != database.type_of(after):
            database.retype(name, column, database.type_of(after), empty=False)


def _set_mark(database: Database, change: Change, tables: list[str]) -> None:
    marks = database.table(MARKS)
    kinds = "pipeline VARCHAR(63) PRIMARY KEY, generation BIGINT, sequence BIGINT, tables VARCHAR"
    database.execute(f"CREATE TABLE IF NOT EXISTS {marks} ({kinds})")
    values = (change.mark.generation, change.mark.sequence, json.dumps(tables), change.pipeline)
    if change.over is None:
        database.execute(
            f"INSERT INTO {marks} (generation, sequence, tables, pipeline) VALUES (?, ?, ?, ?)",
            *values,
        )
    else:
        database.execute(
            f"UPDATE {marks} SET generation = ?, sequence = ?, tables = ? WHERE pipeline = ?",
            *values,
        )
