"""Which types fit together: algebra of schemas, by property where there is one."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputRejected
from pipeline.model.settings import Widen
from sinks.values.common_type import common_type
from sinks.values.extremes import NONE_WIDE, with_wide
from sinks.values.field_names import name_conflicts, path_of, without
from sinks.values.schema import checked, decode, encode, unify, unify_encoded

SCALARS = [
    pa.int8(),
    pa.int32(),
    pa.int64(),
    pa.uint16(),
    pa.float32(),
    pa.float64(),
    pa.string(),
    pa.bool_(),
    pa.date32(),
]
SCALARS += [
    pa.null(),
    pa.timestamp("s"),
    pa.timestamp("us"),
    pa.timestamp("us", "UTC"),
    pa.binary(),
]
SCALARS += [pa.decimal128(10, 2), pa.decimal128(12, 4)]
types = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.one_of(
        inner.map(pa.list_),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1).map(
            lambda d: pa.struct(list(d.items()))
        ),
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
        (pa.uint64(), pa.int64(), "none", pa.int64()),
        (pa.int64(), pa.decimal128(10, 2), "float", pa.decimal128(18, 2)),
        (pa.time64("us"), pa.time64("ns"), "none", pa.time64("ns")),
        (pa.struct([]), pa.struct([("a", pa.int8())]), "none", pa.struct([("a", pa.int8())])),
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


@pytest.mark.parametrize(
    ("a", "b", "a_wide", "b_wide", "both"),
    [
        (pa.int64(), pa.float64(), True, False, None),
        (pa.float64(), pa.int64(), False, True, None),
        (pa.float64(), pa.int64(), True, False, pa.float64()),
        (pa.int64(), pa.uint64(), True, False, pa.int64()),
        (pa.int64(), pa.uint64(), False, True, None),
        (pa.int64(), pa.decimal128(10, 2), True, False, pa.decimal128(22, 2)),
        (pa.timestamp("us"), pa.timestamp("ns"), False, False, pa.timestamp("ns")),
        (pa.timestamp("us"), pa.timestamp("ns"), True, False, None),
        (pa.timestamp("ns", "UTC"), pa.timestamp("us", "UTC"), False, True, None),
        (
            pa.timestamp("us", "Europe/Riga"),
            pa.timestamp("us", "UTC"),
            True,
            True,
            pa.timestamp("us", "UTC"),
        ),
    ],
)
def test_a_type_widens_only_as_far_as_the_values_are_exact(
    a: pa.DataType, b: pa.DataType, a_wide: bool, b_wide: bool, both: pa.DataType | None
) -> None:
    leaf = frozenset({()})
    assert (
        common_type(a, b, "float", leaf if a_wide else NONE_WIDE, leaf if b_wide else NONE_WIDE)
        == both
    )


def test_of_a_table_of_which_nothing_is_known_all_values_count_as_large() -> None:
    old, new = pa.schema([("l", pa.list_(pa.int64()))]), pa.schema([("l", pa.list_(pa.float64()))])
    with pytest.raises(
        InputRejected,
        match=(
            r"column 'l\[\]' is double, but in table t it is int64: an older version did not note"
        ),
    ):
        unify(old, with_wide(new, NONE_WIDE), widen="float", table="t")
    assert (
        unify(with_wide(old, NONE_WIDE), with_wide(new, NONE_WIDE), widen="float", table="t").types
        == new.types
    )


@pytest.mark.parametrize(
    ("before", "new", "words"),
    [
        (
            pa.struct([("name", pa.string())]),
            pa.struct([("Name", pa.string())]),
            "'name' and 'Name', which SQL cannot tell apart",
        ),
        (
            pa.list_(pa.struct([("a", pa.int8())])),
            pa.list_(pa.struct([("A", pa.int8())])),
            r"column 'x\[\]' has the fields 'a' and 'A'",
        ),
        (
            pa.struct([("a", pa.int64())]),
            pa.struct([("a", pa.string())]),
            r"column 'x.a' is string.*widen=\"string\"",
        ),
        (
            pa.map_(pa.string(), pa.int64()),
            pa.map_(pa.string(), pa.bool_()),
            r"column 'x\{\}' is bool, but in table t it is int64",
        ),
    ],
)
def test_a_contradiction_is_named_where_it_is_with_the_way_out(
    before: pa.DataType, new: pa.DataType, words: str
) -> None:
    with pytest.raises(InputRejected, match=words):
        unify(pa.schema([("x", before)]), pa.schema([("x", new)]), widen="float", table="t")


@pytest.mark.parametrize(
    "kind",
    [
        pa.struct([("a", pa.int8()), ("A", pa.int8())]),
        pa.struct([("a", pa.int8()), ("a", pa.int8())]),
        pa.list_(pa.struct([("", pa.int8())])),
        pa.map_(pa.string(), pa.struct([("a\0b", pa.int8()), ("a", pa.int8())])),
        pa.struct([("s", pa.struct([("x", pa.int8()), ("X", pa.int8())]))]),
    ],
)
def test_names_that_sql_cannot_tell_apart_are_refused_at_any_depth(kind: pa.DataType) -> None:
    with pytest.raises(InputRejected, match="rename"):
        checked(pa.schema([("x", kind)]))


def test_columns_are_added_in_order_and_never_renamed_by_case() -> None:
    before, new = (
        pa.schema([("a", pa.int64()), ("b", pa.string())]),
        pa.schema([("c", pa.int64()), ("a", pa.null())]),
    )
    assert unify(before, new, widen="none", table="t").names == ["a", "b", "c"]
    with pytest.raises(InputRejected, match="differs only in case"):
        unify(before, pa.schema([("A", pa.int64())]), widen="none", table="t")
    assert unify_encoded(None, encode(new), widen="none", table="t") == encode(new)


@pytest.mark.parametrize(
    "kind", [pa.duration("s"), pa.month_day_nano_interval(), pa.list_(pa.duration("s"))]
)
def test_types_that_tables_do_not_hold(kind: pa.DataType) -> None:
    with pytest.raises(InputRejected, match="which tables do not hold"):
        checked(pa.schema([("x", kind)]))


@pytest.mark.parametrize(
    "damaged", ["no base64!", "AAAA", encode(pa.schema({"a": pa.int64()}))[:40]]
)
@pytest.mark.parametrize("before", [None, encode(pa.schema({"a": pa.int64()}))])
def test_a_damaged_schema_is_refused_and_never_becomes_the_tables(
    before: str | None, damaged: str
) -> None:
    with pytest.raises(InputRejected, match="the columns of table t cannot be read"):
        unify_encoded(before, damaged, widen="none", table="t")


TWINS = pa.struct([("name", pa.int8()), ("Name", pa.int8()), ("", pa.int8())])


@pytest.mark.parametrize(
    ("kind", "at"),
    [
        (TWINS, "c."),
        (pa.list_(TWINS), "c[]."),
        (pa.list_(pa.list_(TWINS)), "c[][]."),
        (pa.struct([("in", pa.list_(TWINS))]), "c.in[]."),
        (pa.map_(pa.string(), pa.list_(TWINS)), "c{}[]."),
        (pa.list_(pa.map_(TWINS, pa.int8())), "c[]{key}."),
    ],
)
def test_names_that_sql_cannot_tell_apart_are_found_at_any_depth_and_can_be_taken_out(
    kind: pa.DataType, at: str
) -> None:
    schema = pa.schema([("before", pa.int8()), ("c", kind)])
    found = name_conflicts(schema)
    assert [path_of(steps) for steps in found] == [f"{at}Name", at]
    with pytest.raises(
        InputRejected,
        match=r"'name' and 'Name', which SQL cannot tell apart \(names ignore case\): rename one",
    ):
        checked(schema)
    healed = without(schema, found)
    assert name_conflicts(healed) == {}
    assert "name" in str(healed.field("c").type)
