"""One schema for one table, whatever the files bring: which types fit together, and what a
contradiction is called.

Columns are only ever added, and a type changes only to one that holds all values that are
committed: wider numbers, finer times, more fields of a struct, anything in place of nulls. Integers
become floats or decimals while every committed one is exact there; anything becomes text by
declared policy alone. What the values of a column reach is kept with its type (see `extremes`).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.errors import InputRejected
from pipeline.model.settings import Widen
from sinks.values.common_type import common_type
from sinks.values.contract import inner, plain_type, refused_within
from sinks.values.extremes import Wide, is_known, wide_of, with_wide, within
from sinks.values.field_names import check_field_name, differs_in_case, folded, name_conflicts

if TYPE_CHECKING:
    import pyarrow as pa

PROVENANCE = ("_source_key", "_source_etag", "_task")
"""Columns that every file of the rows has, and that no user's column may be called."""

RESCUED = "_rescued"
"""The column of what did not fit into the others, in tables that rescue it.

In no table a user's column may be called so.
"""

NESTING_MAX = 16
"""Lists in lists, and so on.

Queries slow down exponentially with it: DuckDB 2.0 needs minutes for one row of 45 levels, and
pyarrow refuses to open files of more than 50.
"""
LEAVES_MAX = 10_000
"""Columns of a table, those inside of structs too: each costs every file of the table some 200
bytes, and every query time.
"""


NOT_MEASURED = (
    ": an older version did not note how large its integers are (`tidemill schema repair` looks,"
    " once)"
)


def encode(schema: pa.Schema) -> str:
    """A schema as text for commits and receipts."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def decode(text: str) -> pa.Schema:
    """The schema that `encode` wrote."""
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def fingerprint(schema: pa.Schema) -> str:
    """Equal for equal schemas: files with the same one can be scanned together."""
    return hashlib.sha256(schema.remove_metadata().serialize().to_pybytes()).hexdigest()[:16]


def unify_encoded(before: str | None, new: str, *, widen: Widen, table: str) -> str:
    """`unify` on encoded schemas.

    Raises InputRejected, too, where `new` is none: receipts may be damaged, or somebody else's.
    """
    import pyarrow as pa

    if before == new:
        return new
    try:
        found = decode(new)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise InputRejected(
            f"what a receipt says about the columns of table {table} cannot be read: {error}"
        ) from None
    if before is None:
        check_names(found)
        return new
    return encode(unify(decode(before), found, widen=widen, table=table))


def unify(before: pa.Schema, new: pa.Schema, *, widen: Widen, table: str) -> pa.Schema:
    """The smallest schema that holds the rows of both; columns of `before` keep their places.

    Raises InputRejected that names the column and both types where they contradict each other.
    """
    import pyarrow as pa

    if before.equals(new, check_metadata=True):
        return before
    known_wide, new_wide = wide_of(before), wide_of(new)
    fields = {field.name: field.type for field in before}
    names = {folded(name): name for name in fields}
    for field in new:
        known = fields.get(field.name)
        if known is None:
            _require_other_name(names.setdefault(folded(field.name), field.name), field.name, table)
            fields[field.name] = field.type
            continue
        wide = within(known_wide, field.name), within(new_wide, field.name)
        both = common_type(known, field.type, widen, *wide)
        if both is None:
            why = contradiction(field.name, known, field.type, widen, *wide, table=table)
            raise InputRejected(why if is_known(before) else _if_not_measured(why))
        fields[field.name] = both
    _measured(fields, f"table {table} would have")
    return with_wide(
        pa.schema([pa.field(name, kind) for name, kind in fields.items()]), known_wide | new_wide
    )


def _require_other_name(known: str, name: str, table: str) -> None:
    """known: the column that is the same to SQL, perhaps this very one."""
    if known != name:
        raise InputRejected(
            f"column {name!r} differs only in case from column {known!r} of table {table}"
        )


def _if_not_measured(why: str) -> str:
    """What is said of a table of which nobody knows how large its integers are."""
    return why.partition(": ")[0] + NOT_MEASURED if "2**53" in why else why


def _measured(fields: Mapping[str, pa.DataType], what: str) -> None:
    """Raises InputRejected where the columns are too many or too deep for queries.

    No recursion: types may be deeper than calls.
    """
    leaves, waiting = 0, [(name, 1, kind) for name, kind in fields.items()]
    while waiting:
        name, depth, kind = waiting.pop()
        if depth > NESTING_MAX:
            raise _too_deep(name)
        inner = [kind.field(i).type for i in range(kind.num_fields)]
        leaves += not inner
        if leaves + len(waiting) > LEAVES_MAX:
            raise InputRejected(
                f"{what} more than {LEAVES_MAX:,} columns: store some as rows, or as text"
            )
        waiting += [(name, depth + 1, one) for one in inner]


def _too_deep(column: str) -> InputRejected:
    return InputRejected(
        f"column {column!r} is nested more than {NESTING_MAX} levels deep: flatten it, or store it"
        " as text"
    )


def contradiction(  # noqa: PLR0917
    path: str,
    known: pa.DataType,
    new: pa.DataType,
    widen: Widen,
    known_wide: Wide,
    new_wide: Wide,
    *,
    table: str,
) -> str:
    """Why these types have none in common: the place, both types, the way out."""
    import pyarrow.types as pt

    if pt.is_struct(known) and pt.is_struct(new):
        fields, names = {f.name: f.type for f in known}, {folded(f.name): f.name for f in known}
        for field in new:
            other = names.get(folded(field.name), field.name)
            if other != field.name:
                return f"{differs_in_case(path, other, field.name)}: rename one"
            wide = within(known_wide, field.name), within(new_wide, field.name)
            if (
                field.name in fields
                and common_type(fields[field.name], field.type, widen, *wide) is None
            ):
                return contradiction(
                    f"{path}.{field.name}",
                    fields[field.name],
                    field.type,
                    widen,
                    *wide,
                    table=table,
                )
    for (step, a), (other_step, b) in zip(inner(known), inner(new), strict=False):
        same = type(known) is type(new) and step == other_step and not pt.is_struct(known)
        if (
            same
            and common_type(
                a, b, widen, *(wide := (within(known_wide, step), within(new_wide, step)))
            )
            is None
        ):
            return contradiction(path + step, a, b, widen, *wide, table=table)
    return (
        f"column {path!r} is {new}, but in table {table} it is"
        f" {known}{_advice(known, new, widen, known_wide | new_wide)}"
    )


_BEYOND_FLOATS = (
    ": it has integers beyond 2**53, which no float holds (declare a decimal, or let both be text:"
    ' widen="string")'
)


def _advice(known: pa.DataType, new: pa.DataType, widen: Widen, wide: Wide) -> str:
    import pyarrow.types as pt

    number = pt.is_integer(known) or pt.is_integer(new)
    if number and (pt.is_floating(known) or pt.is_floating(new)):
        if widen == "none":
            return ' (widen="float" lets integers become floats)'
        if () in wide:
            return _BEYOND_FLOATS
    if pt.is_timestamp(known) and pt.is_timestamp(new):
        if (known.tz is None) != (new.tz is None):
            return ": give all of them a zone, or none"
        return ": times outside of the years 1678 to 2261 have no nanoseconds"
    may_be_text = not any(pt.is_nested(kind) or pt.is_binary(kind) for kind in (known, new))
    return (
        ' (widen="string" lets both become text)'
        if may_be_text and widen != "string"
        else ": make them one kind, or two columns"
    )


def check_name(name: str) -> None:
    """Raises InputRejected for a name that no column may have."""
    if name.lower() in (*PROVENANCE, RESCUED):
        raise InputRejected(f"there is a column named {name!r}, which is Tidemill's own: rename it")
    check_field_name(name, "a column")


def check_names(schema: pa.Schema) -> None:
    """Raises InputRejected for names that SQL cannot tell apart or cannot say, at any depth.

    Tidemill's own are let through.
    """
    for why, way_out in name_conflicts(schema).values():
        raise InputRejected(f"{why}: {way_out}")


def checked(schema: pa.Schema) -> pa.Schema:
    """The schema with plain types.

    Raises InputRejected for names and types that a table cannot hold.
    """
    import pyarrow as pa

    if len(schema) > LEAVES_MAX:
        raise InputRejected(
            f"there are {len(schema):,} columns, more than the {LEAVES_MAX:,} of a table: store"
            " some as rows, or as text"
        )
    _measured({field.name: field.type for field in schema}, "there are")
    for field in schema:
        check_name(field.name)
    check_names(schema)
    fields: list[pa.Field] = []
    for field in schema:
        kind = plain_type(field.type)
        if kind is None:
            raise _refused(field)
        fields.append(pa.field(field.name, kind))
    return pa.schema(fields)


def _refused(field: pa.Field) -> InputRejected:
    where, named, way_out = refused_within(field.name, field.type) or (
        field.name,
        str(field.type),
        "convert it first",
    )
    return InputRejected(f"column {where!r} has type {named}, which tables do not hold: {way_out}")
