"""Declared checks, asked of converted rows: which rows break which, and what becomes of them.

DuckDB computes the conditions over a whole Arrow table at a time. Nothing else is done where no row
breaks one.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputRejected
from pipeline.model.settings import CheckSettings
from pipeline.sql import quoting
from pipeline.sql.connection import UTC, connect_without_threads
from sinks.values.contract import stored_type
from sinks.values.json_text import json_of, value_of
from sinks.values.schema import PROVENANCE

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(slots=True)
class Verdict:
    """What the checks say of some rows. Row numbers count from 0."""

    broken: dict[str, int] = field(default_factory=dict)
    """Rows that break each check, whatever its action."""
    guilty: dict[int, str] = field(default_factory=dict)
    """Rows for which their file is set aside, with the first reason."""
    rejected: dict[int, str] = field(default_factory=dict)
    """Rows that are rejected, with the first reason."""


def verdict(
    checks: Sequence[CheckSettings], table: pa.Table, schema: pa.Schema, name: str
) -> Verdict:
    """Ask the checks.

    `schema`: the columns of the whole table; one that these rows lack is null in them.

    Raises InputRejected where a check cannot be computed, or says neither true nor false.
    """
    found = Verdict()
    for check, rows in zip(
        checks, _failing(checks, _visible(checks, table, schema), name), strict=True
    ):
        if not rows:
            continue
        found.broken[check.name] = len(rows)
        reason = f"check {check.name}: {check.sql}"
        if check.action == "quarantine":
            _note_first(found.guilty, rows, reason)
        elif check.action == "reject":
            _note_first(found.rejected, rows, reason)
    return found


def _note_first(reasons: dict[int, str], rows: Sequence[int], reason: str) -> None:
    reasons |= {row: reason for row in rows if row not in reasons}


def row_text(table: pa.Table, row: int) -> str:
    """A row as JSON, without provenance."""
    return json_of(
        {
            name: value_of(table.column(name)[row])
            for name in table.column_names
            if name not in PROVENANCE
        }
    )


def _visible(checks: Sequence[CheckSettings], table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns that the checks name, and one that is always there."""
    import pyarrow as pa

    here = {name.lower(): name for name in table.column_names}
    columns: dict[str, Any] = {"_task": table.column("_task")}
    for name in dict.fromkeys(name.lower() for check in checks for name in check.columns):
        if name in here:
            columns[here[name]] = table.column(here[name])
        else:
            own, kind = _declared(schema, name)
            columns[own] = pa.nulls(table.num_rows, kind)
    return pa.table(columns)


def _declared(schema: pa.Schema, name: str) -> tuple[str, pa.DataType]:
    """A column of the table as its files have it. name: in lower case."""
    import pyarrow as pa

    for column in schema:
        if column.name.lower() == name:
            return column.name, stored_type(column.type) or pa.null()
    return name, pa.null()


def _failing(checks: Sequence[CheckSettings], table: pa.Table, name: str) -> Iterator[list[int]]:
    """For each check, the rows for which it is false."""
    import pyarrow.compute as pc
    import pyarrow.types as pt

    for check, column in zip(checks, _computed(checks, table, name), strict=True):
        if pt.is_null(column.type):
            yield []
            continue
        if not pt.is_boolean(column.type):
            raise InputRejected(
                f"check {check.name} gives {column.type}, neither true nor false: {check.sql}"
            )
        wrong = pc.invert(column)
        if pc.any(wrong).as_py():
            yield pc.indices_nonzero(wrong.fill_null(False)).to_pylist()
        else:
            yield []


def _computed(checks: Sequence[CheckSettings], table: pa.Table, name: str) -> list[pa.ChunkedArray]:
    import duckdb

    connection = connection_of(os.getpid(), checks[0].timezone)
    connection.register(name, table)
    try:
        return _ask(connection, checks, name)
    except duckdb.OutOfMemoryException as error:
        raise MemoryError from error
    except duckdb.Error:
        _reject_by_the_first_that_fails(connection, checks, name)
        raise
    finally:
        connection.unregister(name)


def _reject_by_the_first_that_fails(
    connection: duckdb.DuckDBPyConnection, checks: Sequence[CheckSettings], name: str
) -> None:
    import duckdb

    for check in checks:
        try:
            _ask(connection, [check], name)
        except duckdb.Error as error:
            text = " ".join(str(error).partition("\n\nLINE ")[0].partition("Candidate ")[0].split())
            raise InputRejected(
                f"check {check.name} cannot be computed ({check.sql}): {text}"
            ) from None


def _ask(
    connection: duckdb.DuckDBPyConnection, checks: Sequence[CheckSettings], name: str
) -> list[pa.ChunkedArray]:
    asked = ", ".join(f"(\n{check.sql}\n) AS c{i}" for i, check in enumerate(checks))
    answer = connection.sql(f"SELECT {asked} FROM {quoting.name(name)}").to_arrow_table()
    return list(answer.columns)


@functools.cache
def connection_of(process: int, timezone: str = UTC) -> duckdb.DuckDBPyConnection:
    """One for each process: a child must not use its parent's."""
    return connect_without_threads(timezone)
