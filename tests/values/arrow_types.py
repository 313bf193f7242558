"""Arbitrary Arrow types and arrays of them; the model is what each type's own Python values are."""

from __future__ import annotations

import decimal
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from tests.values.strategies import floats, naive, texts, whole

LEAVES: list[pa.DataType] = [
    *(
        pa.null(),
        pa.bool_(),
        pa.int8(),
        pa.int16(),
        pa.int32(),
        pa.int64(),
        pa.uint8(),
        pa.uint16(),
        pa.uint32(),
        pa.uint64(),
    ),
    *(
        pa.float16(),
        pa.float32(),
        pa.float64(),
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
    ),
    *(
        pa.binary(2),
        pa.binary_view(),
        pa.date32(),
        pa.date64(),
        pa.time32("s"),
        pa.time32("ms"),
        pa.time64("us"),
        pa.time64("ns"),
    ),
    *(
        pa.timestamp(unit, zone)
        for unit in ("s", "ms", "us", "ns")
        for zone in (None, "UTC", "Asia/Tokyo")
    ),
    *(
        pa.decimal128(5, 2),
        pa.decimal128(38, 10),
        pa.decimal256(20, 3),
        pa.decimal128(4, -2),
        pa.decimal32(4, 1),
        pa.decimal64(9, 9),
    ),
    *(pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.uint32(), pa.int64())),
]
REFUSED: list[pa.DataType] = [
    pa.duration("s"),
    pa.duration("ns"),
    pa.month_day_nano_interval(),
    pa.decimal256(60, 2),
]
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001


def types(depth: int = 3) -> st.SearchStrategy[pa.DataType]:
    """Types to this depth; now and then one that no table holds."""
    leaves = st.sampled_from(LEAVES)
    if not depth:
        return leaves
    inner = types(depth - 1)
    fields = st.dictionaries(
        st.sampled_from(["a", "b", "c", "É", "select"]), inner, min_size=1, max_size=3
    )
    return st.one_of(
        leaves,
        leaves,
        leaves,
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(lambda kind: pa.list_(kind, 2)),
        inner.map(pa.list_view),
        fields.map(lambda found: pa.struct(list(found.items()))),
        st.tuples(st.sampled_from([pa.string(), pa.int32(), pa.date32()]), inner).map(
            lambda pair: pa.map_(*pair)
        ),
    )


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Python values for an array of this type; None now and then."""
    return st.one_of(st.none(), _some(kind), _some(kind))


def _some(kind: pa.DataType) -> st.SearchStrategy[Any]:  # noqa: PLR0912
    import pyarrow.types as pt

    if pt.is_null(kind):
        return st.none()
    if pt.is_dictionary(kind):
        return _some(kind.value_type)
    if pt.is_boolean(kind):
        return st.booleans()
    if pt.is_integer(kind):
        bits = kind.bit_width - pt.is_signed_integer(kind)
        least = -(2**bits) if pt.is_signed_integer(kind) else 0
        return st.one_of(
            st.integers(max(least, -9), 9), whole.filter(lambda n: least <= n < 2**bits)
        )
    if pt.is_floating(kind):
        return floats if pt.is_float64(kind) else st.floats(width=kind.bit_width)
    if pt.is_decimal(kind):
        return _decimals(kind)
    if pt.is_fixed_size_binary(kind):
        return st.binary(min_size=2, max_size=2)
    if "string" in str(kind):
        return texts.filter(lambda text: "\ud83d" not in text)
    if "binary" in str(kind):
        return st.binary(max_size=3)
    if pt.is_date(kind):
        return st.dates()
    if pt.is_time(kind):
        step = {"s": 10**6, "ms": 1000, "us": 1, "ns": 1}[kind.unit]
        return st.times().map(
            lambda found: found.replace(microsecond=found.microsecond // step * step)
        )
    if pt.is_timestamp(kind):
        return _instants(kind)
    if pt.is_struct(kind):
        return st.fixed_dictionaries({field.name: values_of(field.type) for field in kind})
    if pt.is_map(kind):
        return st.dictionaries(_some(kind.key_type), values_of(kind.item_type), max_size=2).map(
            lambda found: list(found.items())
        )
    size = {"min_size": 2, "max_size": 2} if pt.is_fixed_size_list(kind) else {"max_size": 3}
    return st.lists(values_of(kind.value_type), **size)  # type: ignore[arg-type]


def _decimals(kind: pa.DataType) -> st.SearchStrategy[decimal.Decimal]:
    most = 10 ** min(kind.precision, 12) - 1
    return st.integers(-most, most).map(lambda n: decimal.Decimal(n).scaleb(-kind.scale))


def _instants(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """As counts of the type's unit since 1970, which `array_of` takes."""
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
    if kind.unit == "ns":
        return st.one_of(
            st.integers(-(2**62), 2**62), st.integers(-(10**6), 10**6).map(lambda n: n * 1000)
        )
    seconds = naive.map(lambda found: int((found - _EPOCH) / timedelta(seconds=1)))
    return seconds.map(lambda n: n * per_second)


def array_of(values: list[Any], kind: pa.DataType) -> pa.Array:
    """An array of just this type; of nulls where pyarrow cannot make one of Python's values."""
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError):
        return pa.nulls(len(values), kind)


def comparable(scalar: pa.Scalar) -> Any:
    """A value in a form that is the same for every type that holds it: times and instants as
    nanoseconds, lists as lists.
    """
    import pyarrow.types as pt

    kind = scalar.type
    if not scalar.is_valid:
        return None
    if pt.is_dictionary(kind):
        return comparable(scalar.value)
    if pt.is_timestamp(kind) or pt.is_time(kind):
        return ("ns", scalar.value * {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[kind.unit])
    if pt.is_struct(kind):
        return {field.name: comparable(scalar[i]) for i, field in enumerate(kind)}
    if pt.is_map(kind):
        return [(comparable(one[0]), comparable(one[1])) for one in scalar.values or ()]
    if pt.is_nested(kind):
        return [comparable(one) for one in scalar.values]
    value = scalar.as_py()
    return ("number", repr(float(value))) if isinstance(value, float) else value
