"""Arrow arrays in the types of a table: exactly, or an error.

No value is rounded, cut off, moved or given another kind.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import accumulate
from typing import TYPE_CHECKING

from sinks.values.contract import is_hollow, plain_type
from sinks.values.text_form import as_text

if TYPE_CHECKING:
    import pyarrow as pa

from sinks.values.contract import is_list

if TYPE_CHECKING:
    import pyarrow as pa


class Bent(ValueError):
    """A value would not be the same in the other type. The text says why, without the column."""


@functools.cache
def conversion_errors() -> tuple[type[Exception], ...]:
    """What conversions of values raise, ours, Python's and pyarrow's (of which MemoryErrors are no
    such matter: let them pass).
    """
    import pyarrow as pa

    return (
        pa.ArrowException,
        OverflowError,
        ValueError,
        TypeError,
        ArithmeticError,
        AttributeError,
        RecursionError,
    )


# -- other types -----------------------------------------------------------------------------------


def cast_column(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """A column of a plain type in another: each value the same, at any depth.

    Raises Bent, pa.ArrowException.
    """
    import pyarrow as pa

    if column.type.equals(kind):
        return column
    return pa.chunked_array([cast_array(chunk, kind) for chunk in column.chunks], kind)


def cast_array(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """One array in another type.

    Fields that it lacks are null; a field that `kind` lacks must have no value.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as pt

    have = array.type
    if have.equals(kind):
        return array
    if array.null_count == len(array) or pt.is_null(have):
        return pa.nulls(len(array), kind) if not is_hollow(kind) else hollow(array.is_valid())
    if pt.is_struct(have) and is_hollow(kind):
        return hollow(array.is_valid())
    if is_hollow(have) and pt.is_boolean(kind):  # as it is stored
        return pc.if_else(array.is_valid(), pa.scalar(value=True), pa.scalar(None, pa.bool_()))
    if pt.is_boolean(have) and pt.is_struct(kind):  # and back
        return struct_of([(f.name, pa.nulls(len(array), f.type)) for f in kind], array, list(kind))
    if pt.is_struct(have) and pt.is_struct(kind):
        return _cast_struct(array, kind)
    if pt.is_map(have) and pt.is_map(kind):
        return map_of(
            array, lambda a: cast_array(a, kind.key_type), lambda a: cast_array(a, kind.item_type)
        )
    if pt.is_list(have) and pt.is_list(kind):
        return list_of(array, lambda a: cast_array(a, kind.value_type))
    if pt.is_nested(have) or pt.is_nested(kind):
        raise Bent(f"is {have} and does not fit {kind}")
    return cast_leaf(array, kind)


def _cast_struct(array: pa.StructArray, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    came = {f.name: child for f, child in zip(array.type, array.flatten(), strict=True)}
    children = []
    for field in kind:
        child = came.pop(field.name, None)
        children.append(
            (field.name, cast_array(pa.nulls(len(array)) if child is None else child, field.type))
        )
    for name, child in came.items():
        if child.null_count < len(child):
            raise Bent(f"has a field {name!r}, which the table's column lacks")
    return struct_of(children, array, list(kind))


def cast_leaf(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Values without parts, in another type. Raises Bent, pa.ArrowException."""
    import pyarrow.types as pt

    have = array.type
    if pt.is_null(kind):
        raise Bent("has values where none can be")
    if pt.is_string(kind):
        return (
            array.cast(kind)
            if pt.is_binary(have) or pt.is_large_string(have) or pt.is_string_view(have)
            else as_text(array)
        )
    way = _ways(have, kind)
    if way is None:
        raise Bent(f"{have} values do not become {kind}")
    found = way(array, kind)
    if not pt.is_string(have) and not pt.is_decimal(have) and not pt.is_decimal(kind):
        _require_same(array, found)
    require_range(found)
    return found


def _ways(
    have: pa.DataType, kind: pa.DataType
) -> Callable[[pa.Array, pa.DataType], pa.Array] | None:
    """How values of one type become values of the other; None where they do not."""
    import pyarrow.types as pt

    def both(is_kind: Callable[[pa.DataType], bool]) -> bool:
        return is_kind(have) and is_kind(kind)

    def is_number(one: pa.DataType) -> bool:
        return bool(pt.is_integer(one) or pt.is_floating(one) or pt.is_decimal(one))

    def is_flat(one: pa.DataType) -> bool:
        return bool(pt.is_boolean(one) or pt.is_integer(one))

    if pt.is_string(have):
        return _cast  # text that says a value of the type
    if pt.is_integer(have) and pt.is_decimal(kind):
        return _whole_to_decimal
    if pt.is_floating(have) and pt.is_decimal(kind):
        return _float_to_decimal
    if pt.is_decimal(have) and pt.is_floating(kind):
        return _decimal_to_float
    if both(is_number) or both(is_flat):
        return _cast
    if both(pt.is_timestamp):
        return _cast if (have.tz is None) == (kind.tz is None) else None
    if pt.is_date(have) and pt.is_timestamp(kind):
        return _cast if kind.tz is None else None
    if pt.is_timestamp(have) and pt.is_date(kind):
        return _cast if have.tz is None else None
    return (
        _cast
        if both(pt.is_time) or both(pt.is_date) or plain_type(have) == plain_type(kind)
        else None
    )


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    return array.cast(kind)


def _whole_to_decimal(array: pa.Array, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return array.cast(pa.decimal128(20, 0)).cast(kind)


def _float_to_decimal(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """A float is taken for what it is written as: 0.1 is one tenth."""
    import pyarrow as pa

    found = [None if value is None else Decimal(repr(value)) for value in array.to_pylist()]
    if any(value is not None and not value.is_finite() for value in found):
        raise Bent("has NaN or an infinity, which no decimal can be")
    return pa.array(found, kind)


def _decimal_to_float(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Where the float is written as the decimal is."""
    import pyarrow as pa
    import pyarrow.types as pt

    values = array.to_pylist()
    found = [None if value is None else float(value) for value in values]
    if any(
        v is not None and f is not None and Decimal(repr(f)) != v
        for v, f in zip(values, found, strict=True)
    ):
        raise Bent("has a decimal of more digits than a float holds")
    doubles = pa.array(found, pa.float64())
    if pt.is_float64(kind):
        return doubles
    singles = doubles.cast(kind)
    _require_same(doubles, singles)
    return singles


def _require_same(before: pa.Array, after: pa.Array) -> None:
    """Raises Bent where the values are not those that they were."""
    import pyarrow.compute as pc
    import pyarrow.types as pt

    if before.type.equals(after.type) or pt.is_float16(before.type):
        return
    back = after.cast(before.type)
    same = pc.equal(back, before)
    if pt.is_floating(before.type):
        same = pc.or_(same, pc.and_(pc.is_nan(back), pc.is_nan(before)))
    if pc.any(pc.invert(same)).as_py():
        raise Bent(f"has a value that {after.type} cannot hold")


# -- building --------------------------------------------------------------------------------------


def hollow(is_there: pa.Array) -> pa.Array:
    """Objects without a field, null where `is_there` is false."""
    import pyarrow as pa

    if len(is_there) == 0 or all(is_there.to_pylist()):
        return pa.Array.from_buffers(pa.struct([]), len(is_there), [None])
    return pa.array([{} if one else None for one in is_there.to_pylist()], pa.struct([]))


def struct_of(
    children: Sequence[tuple[str, pa.Array]],
    like: pa.Array,
    fields: Sequence[pa.Field] | None = None,
) -> pa.Array:
    """A struct of these fields, null where `like` is."""
    import pyarrow as pa

    if not children:
        return hollow(like.is_valid())
    fields = (
        fields if fields is not None else [pa.field(name, child.type) for name, child in children]
    )
    mask = like.is_null() if like.null_count else None
    return pa.StructArray.from_arrays([child for _, child in children], fields=fields, mask=mask)


def list_of(array: pa.Array, change: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """A list of any of Arrow's types as the common one, its values changed."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.list_value_length(array).fill_null(0)
    if pc.any(pc.is_null(array)).as_py() and pa.types.is_fixed_size_list(array.type):
        lengths = pc.if_else(array.is_null(), pa.scalar(0, lengths.type), lengths)
    ends = pc.cumulative_sum(lengths.cast(pa.int64())).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    values = change(array.flatten())
    return pa.ListArray.from_arrays(
        offsets, values, mask=array.is_null() if array.null_count else None
    )


def map_of(
    array: pa.MapArray, key: Callable[[pa.Array], pa.Array], item: Callable[[pa.Array], pa.Array]
) -> pa.Array:
    """A map with its keys and values changed."""
    import pyarrow as pa

    offsets, is_there = array.offsets.to_pylist(), array.is_valid().to_pylist()
    first, last = offsets[0], offsets[-1]
    keys, items = key(array.keys[first:last]), item(array.items[first:last])
    lengths = [offsets[i + 1] - offsets[i] if there else 0 for i, there in enumerate(is_there)]
    if sum(lengths) < last - first:  # something lies behind nulls
        rows = [
            n - first
            for i, there in enumerate(is_there)
            if there
            for n in range(offsets[i], offsets[i + 1])
        ]
        kept = pa.array(rows, pa.int64())
        keys, items = keys.take(kept), items.take(kept)
    ends = [0, *accumulate(lengths)]
    starts = [
        *(end if there else None for end, there in zip(ends, is_there, strict=False)),
        ends[-1],
    ]
    kind = pa.map_(keys.type, items.type)
    return pa.MapArray.from_arrays(pa.array(starts, pa.int32()), keys, items, kind)


TIMESTAMP_MIN = -9_223_372_022_400_000_000
"""In microseconds: what DuckDB takes for a time.

The three largest and smallest numbers are its infinities, and none.
"""
DAY_NS = 86_400 * 10**9


def require_range(array: pa.Array) -> None:
    """Raises Bent for times that DuckDB does not know: years beyond 294246, hours beyond 24.

    At any depth.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as pt

    kind = array.type
    if not _has_times(kind):
        return
    if pt.is_struct(kind):
        for child in array.flatten():
            require_range(child)
    elif pt.is_map(kind):
        map_of(array, _ranged, _ranged)
    elif is_list(kind):
        require_range(array.flatten())
    elif pt.is_timestamp(kind) or pt.is_time(kind):
        found = pc.min_max(array.cast(pa.int64()))
        least, most = found["min"].as_py(), found["max"].as_py()
        if least is None:
            return
        if pt.is_time(kind):
            day = DAY_NS if kind.unit == "ns" else DAY_NS // 1000
            if least < 0 or most > day:
                raise Bent("has a time of day before 00:00 or after 24:00")
        elif least < TIMESTAMP_MIN or most >= 2**63 - 2:
            raise Bent(f"has a time that is out of range for {kind}")


def _ranged(array: pa.Array) -> pa.Array:
    require_range(array)
    return array


@functools.lru_cache(4096)
def _has_times(kind: pa.DataType) -> bool:
    import pyarrow.types as pt

    if pt.is_timestamp(kind) or pt.is_time(kind):
        return True
    return any(_has_times(kind.field(i).type) for i in range(kind.num_fields))
