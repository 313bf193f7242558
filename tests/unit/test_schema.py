"""Which types fit together: algebra of schemas, by property where there is one."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputRejected
from sinks.schema import Widen, checked, common_type, decode, encode, unify, unify_encoded

SCALARS = [pa.int8(), pa.int32(), pa.int64(), pa.uint16(), pa.float32(), pa.float64(), pa.string(), pa.bool_(), pa.date32()]
SCALARS += [pa.null(), pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.binary()]
SCALARS += [pa.decimal128(10, 2), pa.decimal128(12, 4)]
types = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.one_of(
        inner.map(pa.list_),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1).map(lambda d: pa.struct(list(d.items()))),
    ),
    max_leaves=5,
)
policies: st.SearchStrategy[Widen] = st.sampled_from(["none", "float", "string"])


@given(types, policies)
def test_a_type_fits_itself_and_null(kind: pa.DataType, widen: Widen) -> None:
    assert common_type(kind, kind, widen) == kind
    assert common_type(pa.null(), kind, widen) == kind
    assert common_type(kind, pa.null(), widen) == kind


@given(types, types, policies)
def test_what_fitted_once_fits_again(a: pa.DataType, b: pa.DataType, widen: Widen) -> None:
    both = common_type(a, b, widen)
    if both is not None:
        assert common_type(both, a, widen) == both
        assert common_type(both, b, widen) == both


@given(types)
def test_schemas_survive_the_log(kind: pa.DataType) -> None:
    schema = pa.schema([("x", kind), ("y", pa.int64())])
    assert decode(encode(schema)) == schema


@pytest.mark.parametrize(
    ("a", "b", "widen", "both"),
    [
        (pa.int64(), pa.float64(), "none", None),
        (pa.int64(), pa.float64(), "float", pa.float64()),
        (pa.float64(), pa.int64(), "none", pa.float64()),
        (pa.int64(), pa.string(), "float", None),
        (pa.int64(), pa.string(), "string", pa.string()),
        (pa.int32(), pa.int64(), "none", pa.int64()),
        (pa.uint32(), pa.int32(), "none", pa.int64()),
        (pa.uint64(), pa.int64(), "none", None),
        (pa.bool_(), pa.int64(), "float", None),
        (pa.binary(), pa.string(), "string", None),
        (pa.timestamp("s"), pa.timestamp("us"), "none", pa.timestamp("us")),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), "none", None),
        (pa.list_(pa.null()), pa.list_(pa.int64()), "none", pa.list_(pa.int64())),
        (pa.list_(pa.int64()), pa.int64(), "string", None),
        (pa.decimal128(10, 2), pa.decimal128(12, 4), "none", pa.decimal128(12, 4)),
    ],
)
def test_widening(a: pa.DataType, b: pa.DataType, widen: Widen, both: pa.DataType | None) -> None:
    assert common_type(a, b, widen) == both


def test_columns_are_added_in_order_and_never_renamed_by_case() -> None:
    before, new = pa.schema([("a", pa.int64()), ("b", pa.string())]), pa.schema([("c", pa.int64()), ("a", pa.null())])
    assert unify(before, new, widen="none", table="t").names == ["a", "b", "c"]
    with pytest.raises(InputRejected, match="differs only in case"):
        unify(before, pa.schema([("A", pa.int64())]), widen="none", table="t")
    assert unify_encoded(None, encode(new), widen="none", table="t") == encode(new)


@pytest.mark.parametrize("kind", [pa.duration("s"), pa.month_day_nano_interval(), pa.list_(pa.duration("s"))])
def test_types_that_tables_do_not_hold(kind: pa.DataType) -> None:
    with pytest.raises(InputRejected, match="which tables do not hold"):
        checked(pa.schema([("x", kind)]))


@pytest.mark.parametrize("damaged", ["no base64!", "AAAA", encode(pa.schema({"a": pa.int64()}))[:40]])
@pytest.mark.parametrize("before", [None, encode(pa.schema({"a": pa.int64()}))])
def test_a_damaged_schema_is_refused_and_never_becomes_the_tables(before: str | None, damaged: str) -> None:
    with pytest.raises(InputRejected, match="the columns of table t cannot be read"):
        unify_encoded(before, damaged, widen="none", table="t")
