"""Arrow tables and frames of arbitrary types, to any depth: each value is kept exactly, in the type
that docs/TYPES.md says.
"""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sinks.values.contract import plain_type
from tests.values.arrow_types import REFUSED, array_of, comparable, types, values_of
from tests.values.writing import read_back, written

USUAL = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """One to three columns of any type, of a few rows, in one chunk or two."""
    rows = draw(st.integers(2, 4))
    columns = {}
    for name in draw(
        st.lists(st.sampled_from(["a", "b", "select", "É"]), min_size=1, max_size=3, unique=True)
    ):
        kind = draw(types())
        columns[name] = array_of([draw(values_of(kind)) for _ in range(rows)], kind)
    table = pa.table(columns)
    try:
        table.validate(full=True)
    except pa.ArrowInvalid:  # pyarrow's own dictionaries behind nulls
        assume(False)
    cut = draw(st.integers(0, rows))
    return (
        pa.concat_tables([table.slice(0, cut), table.slice(cut)])
        if draw(st.booleans())
        else table.slice(draw(st.integers(0, 1)))
    )


def values(table: pa.Table) -> list[list[Any]]:
    return [[comparable(one) for one in column] for column in table.columns]


def kept(table: pa.Table, result: Any) -> None:
    """The one file of this result is kept, with the values of `table`."""
    found = read_back([result])
    assert values(found.select(table.column_names)) == values(table)


def company(table: pa.Table) -> None:
    """The table and parts of it, each alone and all together."""
    parts = [table, table.slice(1), table.slice(0, 1)]
    alone, together = written(parts, [[0], [1], [2]]), written(parts, [[0, 1, 2]])
    assert (alone[0], alone[1]) == (together[0], together[1])
    assert repr(alone[2]) == repr(together[2])


def of_polars(table: pa.Table) -> None:
    """The same as a frame of Polars, which knows fewer types, panics at some, and ends the process
    at some decimals in lists.
    """
    if re.search("decimal(32|64|256)", str(table.schema)):
        return
    try:
        frame = pl.from_arrow(table)
        came = pa.table(frame)
    except BaseException:
        return
    if all(plain_type(kind) is not None for kind in came.schema.types):
        kept(came, frame)


def of_pandas(table: pa.Table) -> None:
    """The same as a frame of pandas, where there can be one: kept, with all its rows,
    or set aside.
    """
    try:
        frame = table.to_pandas()
    except (pa.ArrowException, ValueError, OverflowError, NotImplementedError):
        return
    bad, _, rows = written([frame], [[0]])
    assert bad or len(rows[0]) == len(frame)


@given(tables())
@USUAL
def test_tables_are_kept_exactly(table: pa.Table) -> None:
    kept(table, table)


@given(tables())
@USUAL
def test_the_company_of_a_table_changes_nothing(table: pa.Table) -> None:
    company(table)


@given(tables())
@USUAL
def test_polars_frames_are_kept_exactly(table: pa.Table) -> None:
    of_polars(table)


@given(tables())
@USUAL
def test_pandas_frames_are_kept_or_set_aside(table: pa.Table) -> None:
    of_pandas(table)


@pytest.mark.parametrize("kind", REFUSED, ids=str)
@pytest.mark.parametrize(
    "wrap",
    [lambda k: k, pa.list_, lambda k: pa.struct([("x", k)]), lambda k: pa.map_(pa.string(), k)],
)
def test_types_that_no_table_holds_are_refused_by_path_type_and_way_out(
    kind: pa.DataType, wrap: Any
) -> None:
    from sinks.parquet.table_spec import TableSpec
    from sinks.parquet.writer import AttemptWriter

    spec = TableSpec(name="t", output="t/", partition_by=(), declared=None, widen="none")
    writer = AttemptWriter(spec, schema=None, task="0" * 20 + "-000000", nonce="n", scratch=None)  # type: ignore[arg-type]
    writer.add(0, "k", "e", pa.table({"c": pa.nulls(1, wrap(kind))}))
    said = writer.finish().problems[0]
    assert said.startswith("column 'c")
    assert "which tables do not hold: " in said


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (pd.DataFrame({"p": pd.period_range("2026-01", periods=2, freq="M")}), "pandas.period"),
        (pd.DataFrame({"i": pd.interval_range(0, 2)}), "pandas.interval"),
        (pd.DataFrame({"d": pd.to_timedelta([1, 2])}), "duration"),
        (
            pd.DataFrame(
                {"o": [pd.Timestamp("2026-01-01"), pd.Timestamp("2026-01-01", tz="UTC")]},
                dtype=object,
            ),
            "datetime",
        ),
        (pd.DataFrame({"o": ["x", b"x"]}, dtype=object), "bytes"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "'a'"),
    ],
)
def test_frames_whose_values_would_be_bent_are_set_aside(
    frame: pd.DataFrame, expected: str
) -> None:
    from pipeline.errors import InputRejected
    from sinks.parquet.table_spec import TableSpec
    from sinks.parquet.writer import AttemptWriter

    spec = TableSpec(name="t", output="t/", partition_by=(), declared=None, widen="none")
    writer = AttemptWriter(spec, schema=None, task="0" * 20 + "-000000", nonce="n", scratch=None)  # type: ignore[arg-type]
    try:
        writer.add(0, "k", "e", frame)
        said = writer.finish().problems[0]
    except InputRejected as error:
        said = str(error)
    assert expected in said


def test_a_frame_of_objects_is_what_its_values_are() -> None:
    stamps = [pd.Timestamp("2026-01-01T00:00:00.000000001"), None]
    frame = pd.DataFrame(
        {"o": pd.Series([1, None, "x"][:2], dtype=object), "t": pd.Series(stamps, dtype=object)}
    )
    found = read_back([frame])
    assert found.column("o").to_pylist() == [1, None]
    assert found.column("t").cast(pa.int64()).to_pylist() == [1767225600000000001, None]


@pytest.mark.parametrize(
    "of", [pa.list_, pa.large_list, pa.list_view, lambda kind: pa.list_(kind, 3)]
)
@pytest.mark.parametrize("wrap", [lambda k: k, pa.list_view, lambda k: pa.struct([("x", k)])])
def test_lists_of_nulls_within_maps_keep_their_lengths(of: Any, wrap: Any) -> None:
    """A cast of pyarrow 26 cuts them to the number of lists."""
    maps = [[(1, [None] * 3), (2, [None] * 3)], None, [(3, [None] * 3)], []]
    inner = pa.array(maps, pa.map_(pa.int32(), of(pa.null())))
    kind = wrap(inner.type)
    values = inner.to_pylist()
    if kind != inner.type:
        values = [{"x": one} if pa.types.is_struct(kind) else [one] for one in values]
    table = pa.table({"c": pa.array(values, kind)})
    for one in (table, table.slice(1), table.slice(0, 1)):
        kept(one, one)
