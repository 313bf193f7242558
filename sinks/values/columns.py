"""Columns of Arrow tables in the types of the table they go to: exactly, or an error that names the
column.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.errors import InputRejected
from sinks.values.casting import Bent, cast_array, cast_column, conversion_errors
from sinks.values.contract import stored_type
from sinks.values.plain_values import plain_column
from sinks.values.schema import PROVENANCE, checked

if TYPE_CHECKING:
    import pyarrow as pa


def plain_table(table: pa.Table, declared: Mapping[str, pa.DataType]) -> pa.Table:
    """A user's Arrow table with declared columns in their types, the others in those that tables
    have.

    Raises InputRejected that names the column.
    """
    import pyarrow as pa

    checked(table.schema)
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        found = _converted(name, column, None)
        columns.append(_converted(name, found, declared[name]) if name in declared else found)
    return pa.Table.from_arrays(columns, names=table.column_names) if columns else table


def fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table's own columns in the types of `schema`.

    Columns it lacks are added when a file is written.
    """
    import pyarrow as pa

    if not table.num_columns:
        return table
    columns = [
        _converted(f.name, table.column(f.name), schema.field(f.name).type) for f in table.schema
    ]
    return pa.Table.from_arrays(columns, names=table.column_names)


def _converted(name: str, column: pa.ChunkedArray, kind: pa.DataType | None) -> pa.ChunkedArray:
    """A column in a type, or in its plain one. Raises InputRejected that names it."""
    try:
        return plain_column(column) if kind is None else cast_column(column, kind)
    except MemoryError:
        raise
    except conversion_errors() as error:
        reason = " ".join(str(error).split())
        if kind is None:
            raise InputRejected(
                f"column {name!r} {reason}"
                if isinstance(error, Bent)
                else f"column {name!r}: {reason}"
            ) from None
        raise InputRejected(
            f"column {name!r} is {column.type} and does not fit {kind}: {reason}"
        ) from None


def require_text(table: pa.Table) -> None:
    """Raises InputRejected where text is none: Arrow trusts whoever made a table, and one such
    value makes queries fail.
    """
    import pyarrow as pa

    try:
        table.validate(full=True)
    except pa.ArrowException as error:
        found = re.search(r"Column (\d+)", str(error))
        name = f"column {table.column_names[int(found[1])]!r}" if found else "the table"
        raise InputRejected(f"{name} is damaged: {' '.join(str(error).split())}") from None


def stored(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the stored columns of `schema`, then provenance."""
    import pyarrow as pa

    names, columns = [], []
    for wanted in schema:
        kind = stored_type(wanted.type)
        names.append(wanted.name)
        at = table.schema.get_field_index(wanted.name)
        columns.append(
            pa.nulls(table.num_rows, kind)
            if at < 0
            else _converted(wanted.name, table.column(at), kind)
        )
    for name in PROVENANCE:
        names.append(name)
        columns.append(table.column(name))
    return pa.Table.from_arrays(columns, names=names)


def as_table(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows as they are stored with the columns of a table, as queries show them, and provenance."""
    import pyarrow as pa

    names, columns = [], []
    for wanted in schema:
        at = rows.schema.get_field_index(wanted.name)
        names.append(wanted.name)
        empty = pa.chunked_array([cast_array(pa.nulls(rows.num_rows), wanted.type)])
        columns.append(empty if at < 0 else _converted(wanted.name, rows.column(at), wanted.type))
    for name in PROVENANCE:
        names.append(name)
        columns.append(rows.column(name))
    return pa.Table.from_arrays(columns, names=names)
