"""Which type a column has in DuckDB, in Delta Lake and in Postgres: for every type that
`schema.plain_type` lets through. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.sql import quoting
from sinks.values.contract import inner, leaves, rebuilt

if TYPE_CHECKING:
    import pyarrow as pa

_DUCKDB = {
    **{
        "bool": "BOOLEAN",
        "int8": "TINYINT",
        "int16": "SMALLINT",
        "int32": "INTEGER",
        "int64": "BIGINT",
    },
    **{"uint8": "UTINYINT", "uint16": "USMALLINT", "uint32": "UINTEGER", "uint64": "UBIGINT"},
    **{
        "float": "FLOAT",
        "double": "DOUBLE",
        "string": "VARCHAR",
        "binary": "BLOB",
        "date32[day]": "DATE",
        "null": "VARCHAR",
    },
    **{
        "time64[ns]": "TIME_NS",
        "timestamp[s]": "TIMESTAMP_S",
        "timestamp[ms]": "TIMESTAMP_MS",
        "timestamp[ns]": "TIMESTAMP_NS",
    },
}
_POSTGRES = {
    **{
        "bool": "boolean",
        "int8": "smallint",
        "int16": "smallint",
        "int32": "integer",
        "int64": "bigint",
    },
    **{"uint8": "smallint", "uint16": "integer", "uint32": "bigint", "uint64": "numeric(20,0)"},
    **{
        "float": "real",
        "double": "double precision",
        "string": "text",
        "binary": "bytea",
        "date32[day]": "date",
        "null": "text",
    },
}


def duckdb_type(kind: pa.DataType) -> str:
    """DuckDB's name of the type."""
    return spelled(kind, _duckdb_leaf)


def _duckdb_leaf(kind: pa.DataType) -> str:
    import pyarrow.types as pt

    found = _DUCKDB.get(str(kind))
    if found is not None:
        return found
    if pt.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if pt.is_time(kind):
        return "TIME"
    if pt.is_timestamp(kind):
        return (
            "TIMESTAMP"
            if kind.tz is None
            else "TIMESTAMPTZ_NS"
            if kind.unit == "ns"
            else "TIMESTAMP WITH TIME ZONE"
        )
    return "VARCHAR"


def spelled(kind: pa.DataType, leaf: Callable[[pa.DataType], str]) -> str:
    """A type in DuckDB's SQL, given how its leaves are called there."""
    import pyarrow.types as pt

    children = [spelled(child, leaf) for _, child in inner(kind)]
    if not children:
        return leaf(kind)
    if pt.is_struct(kind):
        named = zip(kind, children, strict=True)
        return f"STRUCT({', '.join(f'{quoting.name(field.name)} {one}' for field, one in named)})"
    return f"MAP({', '.join(children)})" if pt.is_map(kind) else f"{children[0]}[]"


def delta_type(kind: pa.DataType) -> pa.DataType:
    """The Arrow type that the column has in Delta Lake, which knows no unsigned integers, times of
    day or nanoseconds.
    """
    import pyarrow as pa
    import pyarrow.types as pt

    wider = {
        "uint8": pa.int16(),
        "uint16": pa.int32(),
        "uint32": pa.int64(),
        "uint64": pa.decimal128(20, 0),
        "null": pa.string(),
    }

    def leaf(kind: pa.DataType) -> pa.DataType:
        if str(kind) in wider:
            return wider[str(kind)]
        if pt.is_timestamp(kind):
            return pa.timestamp("us", "UTC" if kind.tz is not None else None)
        if pt.is_decimal(kind):
            return pa.decimal128(kind.precision, kind.scale)
        return kind if str(kind) in _DUCKDB and not pt.is_time(kind) else pa.string()

    return rebuilt(kind, leaf, lambda key, item: pa.map_(_within_map(key), _within_map(item)))


def has_naive_times(kind: pa.DataType) -> bool:
    """Whether values of this type have times without a zone in them."""
    import pyarrow.types as pt

    return any(pt.is_timestamp(leaf) and leaf.tz is None for _, leaf in leaves("", kind))


def _within_map(kind: pa.DataType) -> pa.DataType:
    """Times without a zone are text there: deltalake 1.6 does not see that its table needs the
    feature for them.
    """
    import pyarrow as pa
    import pyarrow.types as pt

    def leaf(kind: pa.DataType) -> pa.DataType:
        return pa.string() if pt.is_timestamp(kind) and kind.tz is None else kind

    return rebuilt(kind, leaf)


def postgres_type(kind: pa.DataType) -> str:
    """Postgres' own name of the type, as `format_type` says it.

    Lists, structs and maps are `jsonb`.
    """
    import pyarrow.types as pt

    found = _POSTGRES.get(str(kind))
    if found is not None:
        return found
    if pt.is_decimal(kind):
        return f"numeric({kind.precision},{kind.scale})"
    if pt.is_time(kind):
        return "time without time zone"
    if pt.is_timestamp(kind):
        return f"timestamp {'without' if kind.tz is None else 'with'} time zone"
    return "jsonb" if pt.is_nested(kind) else "text"


def keeps_values(before: pa.DataType, after: pa.DataType) -> bool:
    """Whether a database that turns a column of one type into one of the other has what a query
    over the files says.

    Not where it becomes text (1 in a file, a float meanwhile, is "1.0" then), nor inside of lists,
    structs and maps.
    """
    import pyarrow.types as pt

    return not pt.is_string(after) and not pt.is_nested(after)


_AS_THEY_ARE = frozenset(("boolean", "smallint", "integer", "bigint", "real", "double precision"))


def postgres_text(column: str, kind: pa.DataType) -> str:
    """An expression for DuckDB: the column's value as something that Arrow writes into CSV as
    Postgres reads it.
    """
    target = postgres_type(kind)
    name = quoting.name(column)
    if target in _AS_THEY_ARE:
        return f"{name} AS {name}"
    if target == "bytea":
        return f"'\\x' || hex({name}) AS {name}"
    if target == "text":
        return f"replace(CAST({name} AS VARCHAR), chr(0), {_REPLACEMENT}) AS {name}"
    if target == "jsonb":
        return _json_text(name, kind)
    if target == "date":
        return _moment_text(name, "")
    if target.startswith("timestamp"):
        return _moment_text(name, "::TIMESTAMP" if kind.tz is None else "::TIMESTAMPTZ")
    return f"CAST({name}{'::TIME' if target.startswith('time') else ''} AS VARCHAR) AS {name}"


def _moment_text(name: str, cast: str) -> str:
    return f"replace(CAST({name}{cast} AS VARCHAR), ' (BC)', ' BC') AS {name}"


def _json_text(name: str, kind: pa.DataType) -> str:
    # a NUL is \u0000 in JSON, which jsonb refuses; chr(1) stands for a backslash meanwhile: JSON
    # has no such character
    held = f"replace(CAST(to_json({_finite(name, kind)}) AS VARCHAR), '\\\\', chr(1))"
    return f"replace(replace({held}, '\\u0000', '\\ufffd'), chr(1), '\\\\') AS {name}"


def _finite(value: str, kind: pa.DataType, depth: int = 0) -> str:
    """An expression for DuckDB: the value with null for floats that JSON cannot write (NaN,
    infinity), however deep inside.
    """
    import pyarrow.types as pt

    if not _has_floats(kind):
        return value
    one = f"v{depth}"
    if pt.is_list(kind):
        return f"list_transform({value}, lambda {one}: {_finite(one, kind.value_type, depth + 1)})"
    if pt.is_struct(kind):
        return _finite_struct(value, kind, depth)
    if pt.is_map(kind):
        return _finite_map(value, kind, depth)
    return f"CASE WHEN isfinite({value}) THEN {value} END"


def _finite_map(value: str, kind: pa.DataType, depth: int) -> str:
    one = f"v{depth}"
    item = _finite(f"{one}.value", kind.item_type, depth + 1)
    entry = f"struct_pack(key := {one}.key, value := {item})"
    return f"map_from_entries(list_transform(map_entries({value}), lambda {one}: {entry}))"


def _finite_struct(value: str, kind: pa.DataType, depth: int) -> str:
    fields = ", ".join(
        f"{quoting.name(f.name)} := {_finite(f'{value}.{quoting.name(f.name)}', f.type, depth)}"
        for f in kind
    )
    return f"CASE WHEN {value} IS NOT NULL THEN struct_pack({fields}) END"


def _has_floats(kind: pa.DataType) -> bool:
    import pyarrow.types as pt

    if pt.is_map(kind):
        return _has_floats(kind.item_type)  # keys are text in JSON
    return pt.is_floating(kind) or any(
        _has_floats(kind.field(i).type) for i in range(kind.num_fields)
    )


_REPLACEMENT = "chr(65533)"
"""Postgres' text holds no NUL character: U+FFFD stands in for it."""
