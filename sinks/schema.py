"""One schema for one table, whatever the files bring: which types fit together, and what a contradiction is called.

Columns are only ever added. Lossless changes within a kind happen by themselves (int32 to int64, float to double, finer
timestamps, more struct fields, null to anything); integers become floats, or anything becomes text, only by declared policy.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pipeline.errors import InputRejected

if TYPE_CHECKING:
    import pyarrow as pa

Widen = Literal["none", "float", "string"]

PROVENANCE = ("_source_key", "_source_etag", "_task")
"""Columns that every file of the rows has, and that no user's column may be called."""

RESCUED = "_rescued"
"""The column of what did not fit into the others, in tables that rescue it. In no table a user's column may be called so."""

NESTING_MAX = 16
"""Lists in lists, and so on. Queries slow down exponentially with it: DuckDB 2.0 needs minutes for one row of 45 levels, and
pyarrow refuses to open files of more than 50."""
LEAVES_MAX = 10_000
"""Columns of a table, those inside of structs too: each costs every file of the table some 200 bytes, and every query time."""

_UNITS = ("s", "ms", "us", "ns")


def encode(schema: pa.Schema) -> str:
    """A schema as text for commits and receipts."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def decode(text: str) -> pa.Schema:
    """The schema that `encode` wrote."""
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def fingerprint(schema: pa.Schema) -> str:
    """Equal for equal schemas: files with the same one can be scanned together."""
    return hashlib.sha256(schema.serialize().to_pybytes()).hexdigest()[:16]


def unify_encoded(before: str | None, new: str, *, widen: Widen, table: str) -> str:
    """`unify` on encoded schemas. Raises InputRejected, too, where `new` is none: receipts may be damaged, or somebody else's."""
    import pyarrow as pa

    if before == new:
        return new
    try:
        found = decode(new)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise InputRejected(f"what a receipt says about the columns of table {table} cannot be read: {error}") from None
    return new if before is None else encode(unify(decode(before), found, widen=widen, table=table))


def unify(before: pa.Schema, new: pa.Schema, *, widen: Widen, table: str) -> pa.Schema:
    """The smallest schema that holds the rows of both; columns of `before` keep their places.

    Raises InputRejected that names the column and both types where they contradict each other.
    """
    import pyarrow as pa

    if before.equals(new):
        return before
    fields = {field.name: field.type for field in before}
    folded = {name.lower(): name for name in fields}
    for field in new:
        known = fields.get(field.name)
        if known is None:
            other = folded.setdefault(field.name.lower(), field.name)
            if other != field.name:
                raise InputRejected(f"column {field.name!r} differs only in case from column {other!r} of table {table}")
            fields[field.name] = field.type
            continue
        both = common_type(known, field.type, widen)
        if both is None:
            advice = _advice(known, field.type)
            raise InputRejected(f"column {field.name!r} is {field.type}, but in table {table} it is {known}{advice}")
        fields[field.name] = both
    _measured(fields, f"table {table} would have")
    return pa.schema([pa.field(name, kind) for name, kind in fields.items()])


def _measured(fields: Mapping[str, pa.DataType], what: str) -> None:
    """Raises InputRejected where the columns are too many or too deep for queries. No recursion: types may be deeper than calls."""
    leaves, waiting = 0, [(name, 1, kind) for name, kind in fields.items()]
    while waiting:
        name, depth, kind = waiting.pop()
        if depth > NESTING_MAX:
            raise InputRejected(f"column {name!r} is nested more than {NESTING_MAX} levels deep: flatten it, or store it as text")
        inner = [kind.field(i).type for i in range(kind.num_fields)]
        leaves += not inner
        if leaves + len(waiting) > LEAVES_MAX:
            raise InputRejected(f"{what} more than {LEAVES_MAX:,} columns: store some as rows, or as text")
        waiting += [(name, depth + 1, one) for one in inner]


def _advice(known: pa.DataType, new: pa.DataType) -> str:
    import pyarrow.types as pt

    if pt.is_integer(known) and pt.is_floating(new):
        return ' (widen="float" lets integers become floats)'
    return ' (widen="string" lets both become text)' if not pt.is_nested(known) and not pt.is_nested(new) else ""


def common_type(a: pa.DataType, b: pa.DataType, widen: Widen) -> pa.DataType | None:
    """The type that holds values of both, None where only the policy's change could make one."""
    import pyarrow as pa
    import pyarrow.types as pt

    if a.equals(b) or pt.is_null(b):
        return a
    if pt.is_null(a):
        return b
    if pt.is_nested(a) or pt.is_nested(b):
        return _common_nested(a, b, widen)
    found = _common_number(a, b, widen)
    if found is None and pt.is_timestamp(a) and pt.is_timestamp(b) and a.tz == b.tz:
        found = pa.timestamp(_UNITS[max(_UNITS.index(a.unit), _UNITS.index(b.unit))], a.tz)
    if found is None and widen == "string":
        found = pa.string() if not (pt.is_binary(a) or pt.is_binary(b)) else None
    return found


def _common_number(a: pa.DataType, b: pa.DataType, widen: Widen) -> pa.DataType | None:
    import pyarrow as pa
    import pyarrow.types as pt

    if pt.is_integer(a) and pt.is_integer(b):
        if pt.is_signed_integer(a) == pt.is_signed_integer(b):
            return a if a.bit_width >= b.bit_width else b
        return pa.int64() if "uint64" not in (str(a), str(b)) else None
    if pt.is_floating(a) and pt.is_floating(b):
        return a if a.bit_width >= b.bit_width else b
    if pt.is_floating(a) and pt.is_integer(b):
        return pa.float64()  # the column is one of floats already: a file of whole numbers fits
    if pt.is_integer(a) and pt.is_floating(b):
        return pa.float64() if widen in ("float", "string") else None
    if pt.is_decimal(a) and pt.is_decimal(b):
        scale = max(a.scale, b.scale)
        precision = max(a.precision - a.scale, b.precision - b.scale) + scale
        return pa.decimal128(precision, scale) if precision <= 38 else None
    return None


def _common_nested(a: pa.DataType, b: pa.DataType, widen: Widen) -> pa.DataType | None:
    import pyarrow as pa
    import pyarrow.types as pt

    if pt.is_list(a) and pt.is_list(b):
        value = common_type(a.value_type, b.value_type, widen)
        return None if value is None else pa.list_(value)
    if pt.is_struct(a) and pt.is_struct(b):
        fields = {field.name: field.type for field in a}
        for field in b:
            both = common_type(fields[field.name], field.type, widen) if field.name in fields else field.type
            if both is None:
                return None
            fields[field.name] = both
        return pa.struct([pa.field(name, kind) for name, kind in fields.items()])
    if pt.is_map(a) and pt.is_map(b):
        key, item = common_type(a.key_type, b.key_type, widen), common_type(a.item_type, b.item_type, widen)
        return None if key is None or item is None else pa.map_(key, item)
    return None


def plain_type(kind: pa.DataType) -> pa.DataType | None:
    """The type a column is stored with: encodings and large offsets are dropped. None for types that tables do not hold."""
    import pyarrow as pa
    import pyarrow.types as pt

    if isinstance(kind, pa.ExtensionType):
        return plain_type(kind.storage_type)
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return pa.string()
    if pt.is_large_binary(kind) or pt.is_fixed_size_binary(kind) or pt.is_binary_view(kind):
        return pa.binary()
    if pt.is_float16(kind):
        return pa.float32()
    if pt.is_date64(kind):
        return pa.date32()
    if pt.is_nested(kind):
        return _plain_nested(kind)
    bad = pt.is_interval(kind) or pt.is_duration(kind) or pt.is_decimal256(kind)
    return None if bad else kind


def _plain_nested(kind: pa.DataType) -> pa.DataType | None:
    import pyarrow as pa
    import pyarrow.types as pt

    if pt.is_struct(kind):
        inner = [(field.name, plain_type(field.type)) for field in kind]
        if any(t is None for _, t in inner):
            return None
        return pa.struct([pa.field(name, t) for name, t in inner]) if inner else pa.null()
    if pt.is_map(kind):
        key, item = plain_type(kind.key_type), plain_type(kind.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    lists = (pt.is_list, pt.is_large_list, pt.is_fixed_size_list, pt.is_list_view, pt.is_large_list_view)
    if any(is_kind(kind) for is_kind in lists):
        value = plain_type(kind.value_type)
        return None if value is None else pa.list_(value)
    return None


def stored_type(kind: pa.DataType) -> pa.DataType | None:
    """The type in a Parquet file: nulls inside a list become text; None for a column that has no values at all yet."""
    import pyarrow as pa
    import pyarrow.types as pt

    if pt.is_null(kind):
        return None
    if pt.is_list(kind):
        return pa.list_(stored_type(kind.value_type) or pa.string())
    if pt.is_struct(kind):
        return pa.struct([pa.field(f.name, stored_type(f.type) or pa.string()) for f in kind])
    if pt.is_map(kind):
        return pa.map_(stored_type(kind.key_type) or pa.string(), stored_type(kind.item_type) or pa.string())
    return kind


def check_name(name: str) -> None:
    """Raises InputRejected for a name that no column may have."""
    if not name or name.lower() in (*PROVENANCE, RESCUED):
        what = "without a name" if not name else f"named {name!r}, which is Tidemill's own"
        raise InputRejected(f"there is a column {what}: rename it")


def checked(schema: pa.Schema) -> pa.Schema:
    """The schema with plain types. Raises InputRejected for names and types that a table cannot hold."""
    import pyarrow as pa

    seen: dict[str, str] = {}
    fields: list[pa.Field] = []
    if len(schema) > LEAVES_MAX:
        raise InputRejected(
            f"there are {len(schema):,} columns, more than the {LEAVES_MAX:,} of a table: store some as rows, or as text"
        )
    _measured({field.name: field.type for field in schema}, "there are")
    for field in schema:
        check_name(field.name)
        other = seen.setdefault(field.name.lower(), field.name)
        if other != field.name or len(seen) <= len(fields):
            raise InputRejected(f"columns {other!r} and {field.name!r} have the same name (names ignore case): rename one")
        kind = plain_type(field.type)
        if kind is None:
            raise InputRejected(f"column {field.name!r} has type {field.type}, which tables do not hold: convert it first")
        fields.append(pa.field(field.name, kind))
    return pa.schema(fields)
