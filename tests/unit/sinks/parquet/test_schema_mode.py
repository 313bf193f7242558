"""Schema modes: a frozen table's columns never change, a rescuing one keeps what does not fit
beside them. Nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import Pipeline
from pipeline.errors import InputRejected, SettingsError
from sinks.parquet import schema_mode, transform_results
from sinks.parquet import writer as parquet
from sinks.parquet.table_spec import TableSpec
from sinks.values.schema import decode, encode
from tests.unit.sinks.parquet.test_writer import rows_of, writer

KNOWN = encode(
    pa.schema(
        [
            ("n", pa.int64()),
            ("x", pa.float64()),
            ("s", pa.string()),
            ("b", pa.binary()),
            ("l", pa.list_(pa.int64())),
            ("u", pa.struct([("id", pa.int64()), ("name", pa.string())])),
            ("t", pa.timestamp("us")),
            ("later", pa.null()),
        ]
    )
)


def stored(
    result: object, mode: str = "rescue", schema: str | None = KNOWN, **spec: Any
) -> list[dict[str, Any]]:
    """What a source's rows look like in the file, without provenance; `_rescued` parsed.

    Values that are null are left out.
    """
    w = writer(Path("/nowhere"), schema=schema, mode=mode, **spec)
    w.add(0, "k", "e", result)
    done = w.finish()
    if done.problems:
        raise InputRejected(done.problems[0])
    found = rows_of(done)
    assert done.rows.get(0, 0) == len(found)
    for row in found:
        for name in ("_source_key", "_source_etag", "_task"):
            del row[name]
        row["_rescued"] = json.loads(row["_rescued"]) if row.get("_rescued") is not None else None
    return [{name: value for name, value in row.items() if value is not None} for row in found]


@dataclass
class Row:
    n: object
    s: object


class Odd:
    def __str__(self) -> str:
        return "odd"


BENT: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"n": "many", "s": "a"}, {"s": "a"}, {"n": "many"}),
    ({"n": 2.5}, {}, {"n": 2.5}),
    ({"n": 2.0}, {"n": 2}, {}),
    ({"n": float("nan")}, {}, {"n": "NaN"}),
    ({"n": float("-inf")}, {}, {"n": "-Infinity"}),
    ({"x": float("inf")}, {"x": float("inf")}, {}),
    ({"n": 2**63}, {}, {"n": 2**63}),
    ({"n": -(2**80), "x": 1}, {"x": 1.0}, {"n": -(2**80)}),
    ({"x": 2**53 + 1}, {}, {"x": 2**53 + 1}),
    ({"n": True}, {}, {"n": True}),
    ({"s": b"plain"}, {}, {"s": "plain"}),
    ({"s": b"\xff\xfe"}, {}, {"s": {"base64": "//4="}}),
    ({"s": "half \ud800"}, {}, {"s": "half \\ud800"}),
    ({"b": "text"}, {}, {"b": "text"}),
    ({"new": 1, "n": 1}, {"n": 1}, {"new": 1}),
    ({"N": 1}, {}, {"N": 1}),
    ({"l": [1, "two"]}, {}, {"l": [1, "two"]}),
    ({"l": ["one"]}, {}, {"l": ["one"]}),
    ({"u": {"id": "x", "name": "a"}}, {"u": {"id": None, "name": "a"}}, {"u": {"id": "x"}}),
    ({"u": {"id": 1, "age": 3}}, {"u": {"id": 1, "name": None}}, {"u": {"age": 3}}),
    ({"u": 7}, {}, {"u": 7}),
    ({"t": "2026-01-01"}, {}, {"t": "2026-01-01"}),
    ({"t": datetime(2026, 1, 1, tzinfo=UTC)}, {}, {"t": "2026-01-01T00:00:00+00:00"}),
    ({"s": Decimal("1.10")}, {}, {"s": "1.10"}),
    ({"s": date(2026, 1, 2)}, {}, {"s": "2026-01-02"}),
    ({"s": Odd()}, {}, {"s": "odd"}),
    ({"n": Decimal("1.5")}, {}, {"n": "1.5"}),
    ({"u": {"id": 2, "name": b"n"}}, {"u": {"id": 2, "name": None}}, {"u": {"name": "n"}}),
    ({"later": 5}, {"later": 5}, {}),
]


@pytest.mark.parametrize(("row", "kept", "left"), BENT, ids=lambda v: str(v)[:30])
def test_what_does_not_fit_is_kept_beside_the_rest_of_its_row(
    row: dict[str, Any], kept: dict[str, Any], left: dict[str, Any]
) -> None:
    good = {"n": 1, "x": 0.5, "s": "a", "l": [1], "u": {"id": 1, "name": "a"}}
    first, bent, last = stored([good, row, good])
    assert first == last == good
    assert bent == kept | ({"_rescued": left} if left else {})


def test_a_column_of_another_kind_is_rescued_from_every_shape_of_rows() -> None:
    shapes: list[Callable[[], object]] = [
        lambda: [{"n": "x", "s": "a"}, {"n": "y", "s": "b"}],
        lambda: [Row("x", "a"), Row("y", "b")],
        lambda: ({"n": n, "s": s} for n, s in (("x", "a"), ("y", "b"))),
        lambda: pa.table({"n": ["x", "y"], "s": ["a", "b"]}),
        lambda: [pa.table({"n": ["x"], "s": ["a"]}), {"n": "y", "s": "b"}],
        lambda: pd.DataFrame({"n": ["x", "y"], "s": ["a", "b"]}),
        lambda: pd.DataFrame({"n": pd.Categorical(["x", "y"]), "s": ["a", "b"]}),
    ]
    for shape in shapes:
        assert stored(shape()) == [
            {"s": "a", "_rescued": {"n": "x"}},
            {"s": "b", "_rescued": {"n": "y"}},
        ]


def test_arrow_tables_are_rescued_value_by_value_and_field_by_field() -> None:
    no_text = pa.StringArray.from_buffers(
        2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")
    )
    user = pa.struct([("id", pa.int32()), ("name", pa.string()), ("age", pa.int8())])
    users = pa.array([{"id": 1, "name": "a", "age": 3}, None], user)
    table = pa.table(
        {
            "s": no_text,
            "x": pa.array([1, 2], pa.int8()),
            "n": pa.array([1, 2**63], pa.uint64()),
            "u": users,
            "wait": pa.array([3, None], pa.duration("s")),
            "ns": pa.array([1, None], pa.timestamp("ns")),
        }
    )
    first, second = stored(table)
    assert first["_rescued"].pop("ns").startswith("1970-01-01")
    assert first == {
        "s": "a",
        "x": 1.0,
        "n": 1,
        "u": {"id": 1, "name": "a"},
        "_rescued": {"u": {"age": 3}, "wait": "0:00:03"},
    }
    assert second == {"x": 2.0, "_rescued": {"s": {"base64": "/w=="}, "n": 2**63}}
    with pytest.raises(InputRejected, match="column 's' is damaged"):
        stored(table, mode="evolve", schema=None)


def test_a_list_is_not_rescued_for_its_neighbours_fields() -> None:
    schema = encode(pa.schema({"e": pa.list_(pa.struct([("a", pa.int64())]))}))
    rows = [{"e": [{"a": 1}]}, {"e": [{"a": 2, "b": "x"}]}, {"e": []}]
    assert stored(rows, schema=schema) == [
        {"e": [{"a": 1}]},
        {"_rescued": {"e": [{"a": 2, "b": "x"}]}},
        {"e": []},
    ]


def test_declared_columns_are_cast_and_what_cannot_be_is_rescued() -> None:
    declared = pa.schema([("n", pa.int64()), ("t", pa.timestamp("us"))])
    rows = [{"n": "12", "t": "2026-01-01T00:00:00"}, {"n": "12,5", "t": "soon"}]
    assert stored(rows, schema=None, declared=declared) == [
        {"n": 12, "t": datetime.fromisoformat("2026-01-01")},
        {"_rescued": {"n": "12,5", "t": "soon"}},
    ]


def test_without_a_schema_the_first_rows_make_one_and_what_contradicts_them_is_rescued() -> None:
    rows = [{"n": 1}, {"n": "x", "m": [1]}, {"n": 2, "m": ["y"], "N": 3}]
    assert stored(rows, schema=None) == [
        {"n": 1},
        {"m": [1], "_rescued": {"n": "x"}},
        {"n": 2, "_rescued": {"m": ["y"], "N": 3}},
    ]


@pytest.mark.parametrize(
    "rows",
    [
        [{"_rescued": 1}],
        [{"_Rescued": "x", "n": "y"}],
        [{"": 1}],
        [{1: 2}],
        pa.table({"_task": [1]}),
    ],
)
@pytest.mark.parametrize("mode", ["evolve", "freeze", "rescue"])
def test_names_that_no_column_may_have_are_refused_in_every_mode(rows: object, mode: str) -> None:
    with pytest.raises(InputRejected, match=r"Tidemill's own|without a name|expected text"):
        stored(rows, mode=mode)


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=4),
        st.binary(max_size=3),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["id", "name", "z"]), inner, max_size=3),
    ),
    max_leaves=4,
)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["n", "x", "s", "b", "l", "u", "new"]), json_values, max_size=4
        ),
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_no_row_is_refused_and_every_value_is_in_its_column_or_rescued(
    rows: list[dict[str, Any]],
) -> None:
    found = stored(rows)
    assert len(found) == len(rows)
    for row, came in zip(found, rows, strict=True):
        for name, value in came.items():
            if value is not None and value not in ({}, []) and name != "u":
                assert (name in row) != (name in row.get("_rescued", {})), (name, value, row)
            if name in row and name in ("s", "b", "l"):
                assert row[name] == value


def test_a_partition_column_that_does_not_fit_is_in_the_null_partition() -> None:
    schema = encode(pa.schema([("day", pa.date32()), ("n", pa.int64())]))
    w = writer(Path("/nowhere"), schema=schema, mode="rescue", partition_by=("day",))
    w.add(0, "k", "e", [{"day": date(2026, 1, 1), "n": 1}, {"day": "monday", "n": 2}])
    done = w.finish()
    assert [f.file.partition for f in done.files] == [{"day": "2026-01-01"}, {"day": None}]
    assert rows_of(done)[1]["_rescued"] == '{"day": "monday"}'


def test_rows_that_fit_are_written_once_and_not_looked_at_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        schema_mode, "rescued", lambda *a, **k: pytest.fail("the slow way was taken")
    )
    w = writer(Path("/nowhere"), schema=KNOWN, mode="rescue")
    w.add(0, "a", "e", [{"n": 1, "u": {"id": 1}}])
    w.add(1, "b", "e", pa.table({"n": pa.array([1], pa.int8())}))
    done = w.finish()
    assert not done.problems
    assert decode(done.schema).names[-1] == "_rescued"
    assert {row["_rescued"] for row in rows_of(done)} == {None}


# -- freeze ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{"n": 1, "new": 1}],
            [
                "'new'",
                "int64",
                "not in table t, which is frozen",
                'schema_mode="evolve" or "rescue"',
            ],
        ),
        ([{"n": "x"}], ["'n' is string", "it is int64", "schema="]),
        ([{"n": 2.5}], ["'n' is double", "does not fit int64", "schema="]),
        ([{"u": {"id": 1, "age": 2}}], ["'u' is struct", "frozen"]),
        (pa.table({"n": pa.array([2**63], pa.uint64())}), ["'n' is uint64", "does not fit int64"]),
    ],
)
def test_a_frozen_table_refuses_in_one_line_with_column_types_and_the_way_out(
    rows: object, words: list[str]
) -> None:
    with pytest.raises(InputRejected) as refused:
        stored(rows, mode="freeze")
    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


def test_a_frozen_table_takes_what_fits_without_loss_and_keeps_its_types() -> None:
    w = writer(Path("/nowhere"), schema=KNOWN, mode="freeze")
    w.add(
        0,
        "k",
        "e",
        pa.table({"n": pa.array([1], pa.int8()), "x": pa.array([2], pa.int32()), "later": ["a"]}),
    )
    w.add(1, "k2", "e", [{"n": 3.0}])
    done = w.finish()
    assert not done.problems
    after = decode(done.schema)
    assert after.set(after.get_field_index("later"), pa.field("later", pa.null())) == decode(KNOWN)
    assert after.field("later").type == pa.string(), "a column that had only nulls gets its type"
    with pytest.raises(InputRejected) as refused:
        stored([{"n": "x"}], mode="evolve", schema=None, declared=pa.schema({"n": pa.int64()}))
    assert "schema_mode" not in str(refused.value), "only a frozen table says how to thaw it"


@pytest.mark.parametrize("mode", ["freeze", "rescue"])
def test_a_table_without_a_schema_learns_it_from_its_first_file(mode: Any) -> None:
    """And from no other that happened to come with it: that would depend on how many files a task
    has.
    """
    w = writer(Path("/nowhere"), mode=mode)
    w.add(0, "bad", "e", [{"n": 1}, {"N": 2}])
    w.add(1, "a", "e", [{"n": 1}, {"m": "x"}])
    w.add(2, "b", "e", [{"n": 1, "z": 1}])
    done = w.finish()
    assert list(done.problems) == ([0, 2] if mode == "freeze" else [])
    learned = decode(done.schema).names
    assert learned == (["n", "m"] if mode == "freeze" else ["n", "_rescued"])


def rules_of(**options: Any) -> schema_mode.Evolve:
    plain: dict[str, Any] = {"partition_by": (), "declared": None, "widen": "none"}
    spec = TableSpec(name="t", output="t/", **(plain | options))
    return schema_mode.columns_of(spec)


def test_a_frozen_table_without_a_schema_learns_it_once() -> None:
    w = writer(Path("/nowhere"), mode="freeze")
    w.add(0, "a", "e", pa.table({"n": [1], "m": ["x"]}))
    done = w.finish()
    rules = rules_of(mode="freeze")
    learned = rules.settled(None, str(done.schema))
    assert rules.settled(learned, str(done.schema)) == learned
    for other in ({"n": pa.int64(), "z": pa.int64()}, {"n": pa.float64()}, {"n": pa.string()}):
        with pytest.raises(InputRejected):
            rules.settled(learned, encode(pa.schema(other)))
    declared = rules_of(mode="freeze", declared=pa.schema({"z": pa.int64()}))
    assert decode(declared.settled(learned, encode(pa.schema({"z": pa.int64()})))).names == [
        "n",
        "m",
        "z",
    ], "declared: let in"


def test_what_an_attempt_settles_in_a_rescuing_table_adds_its_column_only() -> None:
    rules, before = rules_of(mode="rescue"), encode(pa.schema({"n": pa.int64()}))
    w = writer(Path("/nowhere"), schema=before, mode="rescue")
    w.add(0, "k", "e", [{"n": 1, "new": 2}])
    assert decode(rules.settled(before, str(w.finish().schema))).names == ["n", "_rescued"]


def test_modes_and_declarations_that_contradict_each_other_are_refused_at_once() -> None:
    for options, words in (
        ({"schema_mode": "frozen"}, '"evolve", "freeze", "rescue"'),
        ({"schema_mode": "freeze", "widen": "float"}, "leave widen='float' out"),
        ({"schema": pa.schema({"_rescued": pa.string()})}, "'_rescued', which is Tidemill's own"),
    ):
        with pytest.raises(SettingsError, match=words):
            Pipeline("t", source="up/", **options)  # type: ignore[arg-type]


def test_an_object_without_fields_is_no_null_where_another_value_is_rescued() -> None:
    w = writer(Path("/nowhere"), mode="rescue")
    w.add(0, "k", "e", [{"n": 1}, {"n": "x", "b": {}}])
    assert decode(w.finish().schema).field("b").type == pa.struct([])


def test_a_partition_column_may_come_late_in_a_file_and_rescued_values_are_the_last_column(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However few rows are taken at once."""
    monkeypatch.setattr(transform_results, "ROWS_MAX", 1)
    monkeypatch.setattr(parquet, "CONVERT_ROWS", 1)
    w = writer(Path("/nowhere"), mode="rescue", partition_by=("day",))
    w.add(0, "k", "e", iter([{"n": 1}, {"n": "x", "day": "monday"}, {"z": 1}]))
    with pytest.raises(InputRejected, match="no column 'day'"):
        w.add(1, "l", "e", iter([{"n": 1}, {"n": 2}]))
    done = w.finish()
    assert decode(done.schema).names == ["n", "day", "z", "_rescued"]
    assert done.rows[0] == 3
