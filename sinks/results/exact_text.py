"""Values of a query's result as text: each exactly, by its type in DuckDB, a column at a time.

The columns come as `sinks.carried` has them leave DuckDB: what Arrow or Python would bend is text
already.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from json.encoder import encode_basestring as quoted
from typing import TYPE_CHECKING, Any

from sinks.results.exact_types import LONG, Kind, members, selected

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

BLOB_BYTES_SHOWN = 16
_WHOLE = frozenset(
    ("tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint", "uinteger", "ubigint")
)
_AS_WRITTEN = LONG | {"bignum"}
"""Numbers that come as text, and are numbers in JSON: of any length."""
_MOMENTS = frozenset(
    (
        "timestamp",
        "timestamp_s",
        "timestamp_ms",
        "timestamp_ns",
        "timestamp with time zone",
        "timestamptz_ns",
    ),
)
_NESTED = frozenset(("list", "array", "struct", "tuple", "map"))
# a struct of nothing comes as {}
_UNQUOTED = _WHOLE | _AS_WRITTEN | {"boolean", "decimal", "struct"}
PLAIN_SCALE_MAX = 6
"""Decimals of more places are written with an exponent by Arrow."""
NUMBERS = _WHOLE | _AS_WRITTEN | {"float", "double", "decimal"}


def jsons(kind: Kind, column: pa.Array, *, short: bool = False) -> list[str]:
    """Each value as strict JSON (RFC 8259). short: only the beginning of long blobs."""
    name = kind.id
    if name in _NESTED and not (name == "struct" and not members(kind)):
        return _of_nested(kind, column, short)
    if name in ("float", "double"):
        values = _floats(column, '"')
    elif name in _UNQUOTED:
        values = _unquoted(name, column)
    else:
        values, as_text = column.to_pylist(), _text_of(name, short)
        if as_text is not None:
            values = [v if v is None else as_text(v) for v in values]
        return ["null" if v is None else quoted(v) for v in values]
    return ["null" if v is None else v for v in values] if column.null_count else values  # type: ignore[return-value]


def texts(kind: Kind, column: pa.Array, *, short: bool = False) -> list[str | None]:
    """Each value as text that stands alone; None for NULL. What is nested is JSON."""
    name = kind.id
    if name in _NESTED:
        found = jsons(kind, column, short=short)
        return [None if v == "null" else v for v in found] if column.null_count else [*found]
    if name in ("float", "double"):
        return _floats(column)
    if name in _UNQUOTED:
        return _unquoted(name, column)
    values: list[Any] = column.to_pylist()
    if name == "blob":
        shown = _short if short else bytes.hex
        return [v if v is None else shown(v) for v in values]
    return values


def _unquoted(name: str, column: pa.Array) -> list[str | None]:
    """Whole numbers, decimals with all digits, true and false; and what is text already."""
    import pyarrow as pa

    if name == "decimal" and column.type.scale > PLAIN_SCALE_MAX:
        return [v if v is None else format(v, "f") for v in column.to_pylist()]
    return column.cast(pa.string()).to_pylist()  # type: ignore[no-any-return]


def _floats(column: pa.Array, quote: str = "") -> list[str | None]:
    """The shortest text that is read as the same number; others by name."""
    import pyarrow.compute as pc

    values = column.to_pylist()
    if not column.null_count and pc.all(pc.is_finite(column)).as_py() is not False:
        return [*map(repr, values)]
    return [
        v if v is None else repr(v) if math.isfinite(v) else f"{quote}{_named(v)}{quote}"
        for v in values
    ]


def _named(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _text_of(name: str, short: bool) -> Callable[[Any], str] | None:
    if name == "blob":
        return _short if short else bytes.hex
    return _iso if name in _MOMENTS else None


def _short(value: bytes) -> str:
    if len(value) <= BLOB_BYTES_SHOWN:
        return value.hex()
    return f"{value[:BLOB_BYTES_SHOWN].hex()}... ({len(value):,} bytes)"


def _iso(text: str) -> str:
    """DuckDB's `2026-01-05 23:30:00+00` as ISO 8601 has it.

    `infinity` and years before the first stay as they are.
    """
    if text.endswith("y") or " (BC)" in text:
        return text
    return text.replace(" ", "T", 1) + (":00" if text[-3] in "+-" else "")


def _of_nested(kind: Kind, column: pa.Array, short: bool) -> list[str]:
    if kind.id in ("struct", "tuple"):
        inner = members(kind)
        columns = [
            jsons(one, part, short=short)
            for (_, one), part in zip(inner, column.flatten(), strict=True)
        ]
        found = [*objects_of([name for name, _ in inner], columns)]
    elif kind.id == "map":
        found = _spans(
            column,
            _entries(kind, column, short),
            *("{}" if members(kind)[0][1].id in ("varchar", "null") else "[]"),
        )
    else:
        first, last = column.offsets[0].as_py(), column.offsets[len(column)].as_py()
        found = _spans(
            column,
            jsons(members(kind)[0][1], column.values.slice(first, last - first), short=short),
            "[",
            "]",
        )
    if column.null_count:
        return [
            "null" if null else v
            for v, null in zip(found, column.is_null().to_pylist(), strict=True)
        ]
    return found


def objects_of(names: Sequence[str], columns: Sequence[list[str]]) -> Iterator[str]:
    """One JSON object for each row, of columns of JSON."""
    inside = ", ".join(quoted(name).replace("%", "%%") + ": %s" for name in names)
    return map(f"{{{inside}}}".__mod__, zip(*columns, strict=True))


def rows_of(answer: duckdb.DuckDBPyRelation) -> list[dict[str, Any]]:
    """A few rows as what JSON has for their values: none is bent, or too far for Python."""
    select = selected(answer.columns, answer.types, "text")
    table = (answer.project(select) if select is not None else answer).to_arrow_table()
    return [row for batch in table.to_batches() for row in parsed_rows(answer.types, batch)]


def parsed_rows(kinds: Sequence[Kind], batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The same of one batch, which left DuckDB as text."""
    columns = [jsons(kind, column) for kind, column in zip(kinds, batch.columns, strict=True)]
    return [json.loads(row, parse_float=_parsed) for row in objects_of(batch.schema.names, columns)]


def _parsed(text: str) -> float | Decimal:
    return float(text) if repr(float(text)) == text else Decimal(text)


def _spans(column: pa.Array, inner: list[str], begin: str, end: str) -> list[str]:
    offsets = column.offsets.to_pylist()
    first = offsets[0]
    return [f"{begin}{', '.join(inner[a - first : b - first])}{end}" for a, b in pairwise(offsets)]


def _entries(kind: Kind, column: pa.Array, short: bool) -> list[str]:
    """A map with text for keys is an object, any other a list of keys and values."""
    (_, key), (_, value) = members(kind)
    first, last = column.offsets[0].as_py(), column.offsets[len(column)].as_py()
    keys = jsons(key, column.keys.slice(first, last - first), short=short)
    values = jsons(value, column.items.slice(first, last - first), short=short)
    if key.id in ("varchar", "null"):
        return [f"{k}: {v}" for k, v in zip(keys, values, strict=True)]
    return [f'{{"key": {k}, "value": {v}}}' for k, v in zip(keys, values, strict=True)]
