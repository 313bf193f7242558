"""The type that holds the values of two types, if there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.model.settings import Widen
from sinks.values.contract import DECIMAL_DIGITS, ZONE
from sinks.values.extremes import NONE_WIDE, Wide, within
from sinks.values.field_names import folded

if TYPE_CHECKING:
    import pyarrow as pa


def common_type(
    a: pa.DataType, b: pa.DataType, widen: Widen, a_wide: Wide = NONE_WIDE, b_wide: Wide = NONE_WIDE
) -> pa.DataType | None:
    """The type that holds values of both, None where there is none. a: the table's; b: what a file
    brings.

    a_wide, b_wide: the leaves whose values reach beyond what the types' other forms hold exactly
    (see `extremes`).
    """
    import pyarrow as pa
    import pyarrow.types as pt

    if pt.is_null(b) or a.equals(b):
        return a
    if pt.is_null(a):
        return b
    if pt.is_nested(a) or pt.is_nested(b):
        return _common_nested(a, b, widen, a_wide, b_wide)
    found = _common_number(a, b, widen, () in a_wide, () in b_wide)
    if found is None and pt.is_timestamp(a) and pt.is_timestamp(b):
        found = _common_timestamp(a, b, () in a_wide, () in b_wide)
    if found is None and pt.is_time(a) and pt.is_time(b):
        found = pa.time64("ns" if "ns" in (a.unit, b.unit) else "us")
    if found is None and widen == "string":
        found = pa.string() if not (pt.is_binary(a) or pt.is_binary(b)) else None
    return found


def _common_timestamp(
    a: pa.DataType, b: pa.DataType, a_wide: bool, b_wide: bool
) -> pa.DataType | None:
    """The finer unit, if the other's values are within its years."""
    import pyarrow as pa

    if (a.tz is None) != (b.tz is None):
        return None
    zone = None if a.tz is None else ZONE
    if "ns" not in (a.unit, b.unit):
        return pa.timestamp("us", zone)
    is_wide = (a.unit != "ns" and a_wide) or (b.unit != "ns" and b_wide)
    return None if is_wide else pa.timestamp("ns", zone)


def _common_number(
    a: pa.DataType, b: pa.DataType, widen: Widen, a_wide: bool, b_wide: bool
) -> pa.DataType | None:
    import pyarrow as pa
    import pyarrow.types as pt

    if pt.is_integer(a) and pt.is_integer(b):
        return _common_integer(a, b, a_wide, b_wide)
    if pt.is_floating(a) and pt.is_floating(b):
        return a if a.bit_width >= b.bit_width else b
    if pt.is_decimal(a) and pt.is_decimal(b):
        return _common_decimal((a.precision, a.scale), (b.precision, b.scale))
    if pt.is_integer(a) and widen == "none":
        return None  # a column of integers stays one
    whole, other, is_wide = (a, b, a_wide) if pt.is_integer(a) else (b, a, b_wide)
    if not pt.is_integer(whole):
        return None
    if pt.is_floating(other):
        return None if is_wide else pa.float64()
    if pt.is_decimal(other):
        return _common_decimal((digits_of(whole, is_wide), 0), (other.precision, other.scale))
    return None


def _common_integer(
    a: pa.DataType, b: pa.DataType, a_wide: bool, b_wide: bool
) -> pa.DataType | None:
    import pyarrow as pa
    import pyarrow.types as pt

    if pt.is_signed_integer(a) == pt.is_signed_integer(b):
        return a if a.bit_width >= b.bit_width else b
    is_wide = a_wide if pt.is_unsigned_integer(a) else b_wide
    return None if pa.uint64() in (a, b) and is_wide else pa.int64()


def digits_of(kind: pa.DataType, is_wide: bool) -> int:
    """Decimal digits of an integer column's values."""
    if kind.bit_width == 64:
        return 20 if is_wide else 16
    return {8: 3, 16: 5, 32: 10}[kind.bit_width]


def _common_decimal(a: tuple[int, int], b: tuple[int, int]) -> pa.DataType | None:
    import pyarrow as pa

    scale = max(a[1], b[1])
    precision = max(a[0] - a[1], b[0] - b[1]) + scale
    return pa.decimal128(precision, scale) if precision <= DECIMAL_DIGITS else None


def _common_nested(
    a: pa.DataType, b: pa.DataType, widen: Widen, a_wide: Wide, b_wide: Wide
) -> pa.DataType | None:
    def common(step: str, one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
        return common_type(one, other, widen, within(a_wide, step), within(b_wide, step))

    return _paired(a, b, common, may_add=True)


def _paired(
    a: pa.DataType,
    b: pa.DataType,
    pair: Callable[[str, pa.DataType, pa.DataType], pa.DataType | None],
    *,
    may_add: bool,
) -> pa.DataType | None:
    """Two types of one structure, part by part; None where the structures or two parts differ.

    pair: what two parts make, given the step to them. may_add: `b` may have further fields.
    """
    import pyarrow as pa
    import pyarrow.types as pt

    if pt.is_list(a) and pt.is_list(b):
        value = pair("[]", a.value_type, b.value_type)
        return None if value is None else pa.list_(value)
    if pt.is_map(a) and pt.is_map(b):
        key, item = pair("{key}", a.key_type, b.key_type), pair("{}", a.item_type, b.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if not (pt.is_struct(a) and pt.is_struct(b)):
        return None
    fields = {field.name: field.type for field in a}
    names = {folded(name): name for name in fields}
    for field in b:
        if field.name in fields:
            both = pair(field.name, fields[field.name], field.type)
        else:
            both = field.type if may_add else None
        if both is None or names.setdefault(folded(field.name), field.name) != field.name:
            return None
        fields[field.name] = both
    return pa.struct([pa.field(name, kind) for name, kind in fields.items()])


def fixed_type(known: pa.DataType, new: pa.DataType) -> pa.DataType | None:
    """The type of a column that is not to change, where values of `new` may fit it: they are of its
    kind. A cast says if they do.

    Nulls within `known`, which say nothing yet, become what `new` has there. None for another kind,
    and for new fields of a struct.
    """
    import pyarrow.types as pt

    if pt.is_null(new) or known.equals(new):
        return known
    if pt.is_null(known):
        return new
    if pt.is_nested(known) or pt.is_nested(new):
        return _paired(known, new, lambda _, a, b: fixed_type(a, b), may_add=False)
    if pt.is_integer(known) and pt.is_integer(new):
        return known
    return known if common_type(known, new, "float") is not None else None


def same_but_nulls(known: pa.DataType, kind: pa.DataType) -> bool:
    """Whether `kind` is `known` with nothing but types for what had none."""
    fixed = fixed_type(known, kind)
    return fixed is not None and fixed.equals(kind)
