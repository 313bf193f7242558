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
            found.guilty |= {row: reason for row in rows if row not in found.guilty}
        elif check.action == "reject":
            found.rejected |= {row: reason for row in rows if row not in found.rejected}
    return found


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

    here, declared = (
        {n.lower(): n for n in table.column_names},
        {n.lower(): n for n in schema.names},
    )
    columns: dict[str, Any] = {"_task": table.column("_task")}
    for name in dict.fromkeys(name.lower() for check in checks for name in check.columns):
        if name in here:
            columns[here[name]] = table.column(here[name])
        else:
            kind = stored_type(schema.field(declared[name]).type) if name in declared else None
            columns[declared.get(name, name)] = pa.nulls(table.num_rows, kind or pa.null())
    return pa.table(columns)


def _failing(checks: Sequence[CheckSettings], table: pa.Table, name: str) -> Iterator[list[int]]:
    """For each check, the rows for which it is false."""
    import pyarrow.compute as pc
    import pyarrow.types as pt

    for check, column in zip(checks, _computed(checks, table, name), strict=True):
        if not (pt.is_boolean(column.type) or pt.is_null(column.type)):
            raise InputRejected(
                f"check {check.name} gives {column.type}, neither true nor false: {check.sql}"
            )
        wrong = pc.invert(column) if pt.is_boolean(column.type) else None
        if wrong is None or not pc.any(wrong).as_py():
            yield []
        else:
            yield pc.indices_nonzero(wrong.fill_null(False)).to_pylist()


def _computed(checks: Sequence[CheckSettings], table: pa.Table, name: str) -> list[pa.ChunkedArray]:
    import duckdb

    connection = connection_of(os.getpid(), checks[0].timezone)
    connection.register(name, table)
    try:
        return _ask(connection, checks, name)
    except duckdb.OutOfMemoryException as error:
        raise MemoryError from error
    except duckdb.Error:
        for check in checks:
            try:
                _ask(connection, [check], name)
            except duckdb.Error as error:
                text = " ".join(
                    str(error).partition("\n\nLINE ")[0].partition("Candidate ")[0].split()
                )
                raise InputRejected(
                    f"check {check.name} cannot be computed ({check.sql}): {text}"
                ) from None
        raise
    finally:
        connection.unregister(name)


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
