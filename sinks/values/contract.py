"""The value contract: what a table does with each Arrow type, at every depth. docs/TYPES.md is made
from this table.

A type is kept as it is, kept in a stated form, or refused with the column's path, its type and the
way out. What is not known yet (no value but nulls, empty lists, objects without a field) is no type
of its own: it becomes what the first value brings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

ZONE = "UTC"
"""Times with a zone are instants: whatever zone they came with, they are stored in this one."""
DECIMAL_DIGITS = 38

TypeCheck = Callable[["pa.DataType"], bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of the types that `holds` says yes to. plain: the type in the table, None for a
    type that is refused.
    """

    types: str
    form: str
    holds: TypeCheck
    plain: Callable[[pa.DataType], pa.DataType | None]


def _same(kind: pa.DataType) -> pa.DataType:
    return kind


def _refused(_: pa.DataType) -> None:
    return None


@functools.cache
def rules() -> tuple[Rule, ...]:
    """The table of leaf types, in the order they are tried.

    Lists, structs and maps are `plain_type`'s: their leaves are here.
    """
    import pyarrow as pa
    import pyarrow.types as pt

    def is_text(kind: pa.DataType) -> bool:
        return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))

    def is_bytes(kind: pa.DataType) -> bool:
        return bool(
            pt.is_binary(kind)
            or pt.is_large_binary(kind)
            or pt.is_fixed_size_binary(kind)
            or pt.is_binary_view(kind)
        )

    def named(name: str) -> TypeCheck:
        return lambda kind: getattr(kind, "extension_name", "") == name

    def is_extension(kind: pa.DataType) -> bool:
        return isinstance(kind, pa.BaseExtensionType)

    seconds = "convert it to a number of seconds, or to text"
    return (
        Rule("null", "not known yet: takes the type of the first value", pt.is_null, _same),
        Rule("uuid", "text, as 8-4-4-4-12 digits", named("arrow.uuid"), lambda _: pa.string()),
        Rule("json", "text", named("arrow.json"), lambda _: pa.string()),
        Rule("bool8", "bool", named("arrow.bool8"), lambda _: pa.bool_()),
        Rule(
            "fixed_shape_tensor",
            "its list",
            named("arrow.fixed_shape_tensor"),
            lambda k: plain_type(k.storage_type),
        ),
        Rule(
            "other extension types", "convert it to a type of Arrow's own", is_extension, _refused
        ),
        Rule("dictionary", "its values", pt.is_dictionary, lambda k: plain_type(k.value_type)),
        Rule(
            "run_end_encoded",
            "its values",
            pt.is_run_end_encoded,
            lambda k: plain_type(k.value_type),
        ),
        Rule("bool", "as it is", pt.is_boolean, _same),
        Rule(
            "int8, int16, int32, int64, uint8, uint16, uint32, uint64",
            "as it is",
            pt.is_integer,
            _same,
        ),
        Rule("float16", "float", pt.is_float16, lambda _: pa.float32()),
        Rule("float, double", "as it is", pt.is_floating, _same),
        Rule(
            "decimal32, decimal64, decimal128, decimal256",
            "decimal128 of at most 38 digits",
            pt.is_decimal,
            _plain_decimal,
        ),
        Rule("string, large_string, string_view", "string", is_text, lambda _: pa.string()),
        Rule(
            "binary, large_binary, fixed_size_binary, binary_view",
            "binary",
            is_bytes,
            lambda _: pa.binary(),
        ),
        Rule("date32, date64", "date32", pt.is_date, lambda _: pa.date32()),
        Rule(
            "time32, time64",
            "time64[us]; time64[ns] where a value has nanoseconds",
            pt.is_time,
            _plain_time,
        ),
        Rule(
            "timestamp without a zone",
            "timestamp[us]; timestamp[ns] where a value has nanoseconds",
            lambda k: pt.is_timestamp(k) and k.tz is None,
            _plain_timestamp,
        ),
        Rule(
            "timestamp with a zone",
            "the same, as an instant: its zone is UTC",
            pt.is_timestamp,
            _plain_timestamp,
        ),
        Rule("duration", seconds, pt.is_duration, _refused),
        Rule("month_day_nano_interval", seconds, pt.is_interval, _refused),
        Rule(
            "sparse_union, dense_union", "convert it to a struct, or to text", pt.is_union, _refused
        ),
    )


def _plain_decimal(kind: pa.DataType) -> pa.DataType | None:
    import pyarrow as pa

    precision, scale = kind.precision, kind.scale
    if scale < 0:  # as in 12E+3
        precision, scale = precision - scale, 0
    precision = max(precision, scale)
    return pa.decimal128(precision, scale) if precision <= DECIMAL_DIGITS else None


def _plain_time(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return pa.time64("ns" if kind.unit == "ns" else "us")


def _plain_timestamp(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return pa.timestamp("ns" if kind.unit == "ns" else "us", None if kind.tz is None else ZONE)


def rule_of(kind: pa.DataType) -> Rule | None:
    """The rule of a leaf type; None for one that no rule knows, and for lists, structs and maps."""
    return next((rule for rule in rules() if rule.holds(kind)), None)


def is_list(kind: pa.DataType) -> bool:
    """Whether this is one of Arrow's five types of lists."""
    import pyarrow.types as pt

    kinds = (
        pt.is_list,
        pt.is_large_list,
        pt.is_fixed_size_list,
        pt.is_list_view,
        pt.is_large_list_view,
    )
    return any(is_kind(kind) for is_kind in kinds)


@functools.lru_cache(4096)
def plain_type(kind: pa.DataType) -> pa.DataType | None:
    """The type that a table has for values of this one.

    None where it holds no such values (`refused_within` says which).
    """
    return rebuilt(kind, _plain_leaf)


def _plain_leaf(kind: pa.DataType) -> pa.DataType | None:
    rule = rule_of(kind)
    return kind if is_hollow(kind) else rule.plain(kind) if rule is not None else None


def rebuilt(
    kind: pa.DataType,
    leaf: Callable[[pa.DataType], pa.DataType | None],
    map_of: Callable[[pa.DataType, pa.DataType], pa.DataType] | None = None,
) -> pa.DataType | None:
    """The same lists, structs and maps around other leaves; None where one of them becomes None.

    A struct of which no field is known is a leaf, too. Lists of all kinds become plain lists.
    map_of: makes maps of rebuilt keys and items.
    """
    import pyarrow as pa
    import pyarrow.types as pt

    if not inner(kind):
        return leaf(kind)
    children = [rebuilt(child, leaf, map_of) for _, child in inner(kind)]
    if any(child is None for child in children):
        return None
    if pt.is_struct(kind):
        named = zip(kind, children, strict=True)
        return pa.struct([pa.field(field.name, child) for field, child in named])
    return (map_of or pa.map_)(*children) if pt.is_map(kind) else pa.list_(*children)


def refused_within(path: str, kind: pa.DataType) -> tuple[str, str, str] | None:
    """The first leaf that no table holds: its path, its type and the way out."""
    for where, leaf in leaves(path, kind):
        rule = rule_of(leaf)
        if rule is None:
            return where, str(leaf), "convert it first"
        if rule.plain(leaf) is None:
            way_out = (
                f"a table's decimals have at most {DECIMAL_DIGITS} digits"
                if "decimal" in rule.types
                else rule.form
            )
            return where, _named(leaf), way_out
    return None


def _named(kind: pa.DataType) -> str:
    return str(getattr(kind, "extension_name", "")) or str(kind)


def leaves(path: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """Every leaf with its path: `a.b` in a struct, `a[]` in a list, `a{key}` and `a{}` in a map."""
    children = inner(kind)
    if not children:
        yield path, kind
    for step, child in children:
        yield from leaves(path + step, child)


def inner(kind: pa.DataType) -> list[tuple[str, pa.DataType]]:
    """What a type is made of, with the steps of the path; nothing for leaves and for a struct
    without fields.
    """
    import pyarrow.types as pt

    if pt.is_struct(kind):
        return [("." + field.name, field.type) for field in kind]
    if pt.is_map(kind):
        return [("{key}", kind.key_type), ("{}", kind.item_type)]
    return [("[]", kind.value_type)] if is_list(kind) else []


def is_hollow(kind: pa.DataType) -> bool:
    """Whether this is a struct of which no field is known yet."""
    import pyarrow.types as pt

    return bool(pt.is_struct(kind)) and kind.num_fields == 0


def stored_type(kind: pa.DataType) -> pa.DataType | None:
    """The type in a Parquet file; None for a column that has no values at all yet.

    Parquet has no type for what is not known yet. Within lists and structs nulls are stored as
    text; an object without a field as `true`, so that it differs from a missing one.
    """
    import pyarrow as pa
    import pyarrow.types as pt

    return None if pt.is_null(kind) else _filled(kind, pa.bool_())


def outside_type(kind: pa.DataType) -> pa.DataType:
    """The type that a database or a table of another format gets: what is not known yet is text
    there.
    """
    import pyarrow as pa

    return _filled(kind, pa.string())


def _filled(kind: pa.DataType, hollow: pa.DataType) -> pa.DataType:
    import pyarrow as pa
    import pyarrow.types as pt

    def leaf(kind: pa.DataType) -> pa.DataType:
        return pa.string() if pt.is_null(kind) else hollow if is_hollow(kind) else kind

    return rebuilt(kind, leaf)
