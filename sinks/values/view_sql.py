"""SQL that shows a file's column as the table's column: the same values in the table's type, at any
depth. Pure.

What is not known yet is DuckDB's own type of nulls, which goes with any other: `sum` of such a
column is null, not an error. An object of which no field is known yet is an empty map, so that it
differs from a missing one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.sql import quoting
from sinks.values.column_types import duckdb_type, spelled
from sinks.values.common_type import common_type
from sinks.values.contract import is_hollow
from sinks.values.text_form import text_sql

if TYPE_CHECKING:
    import pyarrow as pa

NOTHING = '"NULL"'
HOLLOW = f"MAP(VARCHAR, {NOTHING})"


def view_type(kind: pa.DataType) -> str:
    """DuckDB's type of a table's column."""
    return spelled(kind, _view_leaf)


def _view_leaf(kind: pa.DataType) -> str:
    import pyarrow.types as pt

    return NOTHING if pt.is_null(kind) else HOLLOW if is_hollow(kind) else duckdb_type(kind)


def missing(kind: pa.DataType) -> str:
    """A null of the table's type."""
    import pyarrow.types as pt

    return "NULL" if pt.is_null(kind) else f"CAST(NULL AS {view_type(kind)})"


def shown(value: str, have: pa.DataType, want: pa.DataType, depth: int = 0) -> str:
    """An expression: the value, which has this type in its file, in the table's type. value: an
    expression too.
    """
    import pyarrow.types as pt

    if pt.is_null(want):
        return "NULL"
    if is_hollow(want):
        return _hollow(value) if pt.is_boolean(have) else missing(want)
    if pt.is_nested(want):
        return _nested(value, have, want, depth)
    if pt.is_nested(have):
        return missing(want)
    if _is_same(have, want):
        return value
    if pt.is_string(want):
        return text_sql(value, have)
    if pt.is_string(have):  # nulls that had no type yet
        return missing(want)
    return _cast(value, have, want)


def _cast(value: str, have: pa.DataType, want: pa.DataType) -> str:
    # a file may have rows, which do not count, of a source that was set aside after it had changed
    # the column: they must not fail
    cast = "CAST" if common_type(want, have, "float") == want else "TRY_CAST"
    return f"{cast}({value} AS {duckdb_type(want)})"


def _hollow(is_there: str) -> str:
    return f"CASE WHEN {is_there} THEN CAST(MAP {{}} AS {HOLLOW}) END"


def _nested(value: str, have: pa.DataType, want: pa.DataType, depth: int) -> str:
    import pyarrow.types as pt

    if pt.is_struct(want) and pt.is_boolean(have):
        return _empty_struct(value, want)
    if pt.is_struct(want) and pt.is_struct(have):
        return _struct(value, have, want, depth)
    if pt.is_list(want) and pt.is_list(have):
        return _list(value, have, want, depth)
    if pt.is_map(want) and pt.is_map(have):
        return _map(value, have, want, depth)
    return missing(want)  # only nulls were there


def _empty_struct(is_there: str, want: pa.DataType) -> str:
    """An object from when no field was known."""
    fields = ", ".join(f"{quoting.name(f.name)} := {missing(f.type)}" for f in want)
    return f"CASE WHEN {is_there} THEN struct_pack({fields}) END"


def _list(value: str, have: pa.DataType, want: pa.DataType, depth: int) -> str:
    one = f"v{depth}"
    changed = shown(one, have.value_type, want.value_type, depth + 1)
    return value if changed == one else f"list_transform({value}, lambda {one}: {changed})"


def _map(value: str, have: pa.DataType, want: pa.DataType, depth: int) -> str:
    one = f"v{depth}"
    key = shown(f"{one}.key", have.key_type, want.key_type, depth + 1)
    item = shown(f"{one}.value", have.item_type, want.item_type, depth + 1)
    if (key, item) == (f"{one}.key", f"{one}.value"):
        return value
    entry = f"struct_pack(key := {key}, value := {item})"
    return f"map_from_entries(list_transform(map_entries({value}), lambda {one}: {entry}))"


def _struct(value: str, have: pa.DataType, want: pa.DataType, depth: int) -> str:
    came = {f.name: f.type for f in have}
    fields, same = [], [f.name for f in have] == [f.name for f in want]
    for field in want:
        name = quoting.name(field.name)
        at = f"{value}.{name}"
        kind = came.get(field.name)
        changed = missing(field.type) if kind is None else shown(at, kind, field.type, depth)
        same = same and changed == at
        fields.append(f"{name} := {changed}")
    if same:
        return value
    return f"CASE WHEN {value} IS NOT NULL THEN struct_pack({', '.join(fields)}) END"


def _is_same(have: pa.DataType, want: pa.DataType) -> bool:
    import pyarrow.types as pt

    if pt.is_timestamp(have) and pt.is_timestamp(want):  # the zone is the connection's
        return have.unit == want.unit and (have.tz is None) == (want.tz is None)
    return bool(have.equals(want))
