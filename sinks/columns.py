"""Columns of Arrow tables in the types of the table they go to: exactly, or an error that names the column."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.errors import InputRejected
from sinks.schema import PROVENANCE, stored_type

if TYPE_CHECKING:
    import pyarrow as pa


def fit(table: pa.Table, schema: pa.Schema, declared: Mapping[str, pa.DataType]) -> pa.Table:
    """The table's own columns in the types of `schema`. Columns it lacks are added when a file is written."""
    import pyarrow as pa

    if not table.num_columns:
        return table
    own = pa.schema([pa.field(f.name, declared.get(f.name, schema.field(f.name).type)) for f in table.schema])
    return table if own.equals(table.schema) else cast(table, own)


def require_text(table: pa.Table) -> None:
    """Raises InputRejected where text is none: Arrow trusts whoever made a table, and one such value makes queries fail."""
    import pyarrow as pa

    try:
        table.validate(full=True)
    except pa.ArrowException as error:
        found = re.search(r"Column (\d+)", str(error))
        name = f"column {table.column_names[int(found[1])]!r}" if found else "the table"
        raise InputRejected(f"{name} is damaged: {' '.join(str(error).split())}") from None


def cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Every column in its new type, exactly. Raises InputRejected that names the column."""
    import pyarrow as pa

    columns = []
    for wanted, column in zip(schema, table.columns, strict=True):
        try:
            columns.append(cast_column(column, wanted.type))
        except MemoryError:
            raise
        except (pa.ArrowException, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputRejected(f"column {wanted.name!r} is {column.type} and does not fit {wanted.type}: {reason}") from None
    return pa.Table.from_arrays(columns, schema=schema) if columns else table


def cast_column(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    import pyarrow as pa

    if column.type.equals(kind):
        return column
    if pa.types.is_null(kind):
        return pa.chunked_array([pa.nulls(len(column))])
    if isinstance(column.type, pa.ExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    return column.cast(kind)


def stored(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the stored columns of `schema`, then provenance."""
    import pyarrow as pa

    names, columns = [], []
    for wanted in schema:
        kind = stored_type(wanted.type)
        names.append(wanted.name)
        at = table.schema.get_field_index(wanted.name)
        columns.append(pa.nulls(table.num_rows, kind) if at < 0 else cast_column(table.column(at), kind))
    for name in PROVENANCE:
        names.append(name)
        columns.append(table.column(name))
    return pa.Table.from_arrays(columns, names=names)
