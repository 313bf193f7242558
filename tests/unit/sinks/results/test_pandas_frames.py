"""`Pipeline.table().pandas()`: no value is bent, and none ends it."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest

from pipeline.sql.connection import connect
from sinks.results.pandas_frames import pandas_frame


def made(value: str) -> pa.Table:
    with connect() as connection:
        return connection.sql(
            f"SELECT * FROM (VALUES (1, {value}), (2, NULL)) t(n, x)"
        ).to_arrow_table()


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        ("7", "float64", "7.0"),
        (f"{2**53 + 1}", "Int64", f"{2**53 + 1}"),
        (f"-{2**53 + 1}", "Int64", f"-{2**53 + 1}"),
        ("18446744073709551615::UBIGINT", "UInt64", "18446744073709551615"),
        ("DATE '2026-01-05'", "object", "2026-01-05"),
        ("DATE '10000-01-01'", "datetime64[ms]", "10000-01-01 00:00:00"),
        ("TIMESTAMP '10000-01-01'", "datetime64[us]", "10000-01-01 00:00:00"),
        ("'12:00:00.123456789'::TIME_NS", "object", "12:00:00.123456789"),
        ("[DATE '10000-01-01']", "object", '["10000-01-01"]'),
        (
            "{'a': TIMESTAMPTZ '10000-01-01 00:00:00+00'}",
            "object",
            '{"a": "10000-01-01T00:00:00+00:00"}',
        ),
        ("MAP {DATE '0044-01-01 (BC)': 1}", "object", '[{"key": "0044-01-01 (BC)", "value": 1}]'),
        (
            "'2020-01-01 00:00:00.123456789'::TIMESTAMP_NS",
            "datetime64[ns]",
            "2020-01-01 00:00:00.123456789",
        ),
        ("0.1::DECIMAL(38,20)", "object", "0.10000000000000000000"),
    ],
)
def test_every_value_is_as_it_was(value: str, kind: str, shown: str) -> None:
    """In pandas' own type where it has one, else as text; its neighbours are as they were."""
    frame = pandas_frame(made(value), "UTC")
    assert list(frame.columns) == ["n", "x"]
    assert frame["n"].tolist() == [1, 2]
    assert str(frame["x"].dtype) == kind
    assert str(frame["x"].iloc[0]) == shown
    assert pd.isna(frame["x"].iloc[1])


@pytest.mark.parametrize(
    "value",
    [
        [2**53 + 1, None],
        [[None, -(2**63) + 1]],
        {"n": [2**53 + 1, None]},
        [{"n": 2**53 + 1}, {"n": None}],
        [{"n": {"m": [None, -(2**53) - 1]}}],
    ],
    ids=str,
)
def test_long_numbers_beside_nulls_are_as_they_were_at_any_depth(value: object) -> None:
    frame = pandas_frame(pa.table({"x": [value, None], "n": [1, 2]}), "UTC")
    assert frame["x"].iloc[0] == value
    assert pd.isna(frame["x"].iloc[1])
    mapped = pa.table(
        {"x": pa.array([[(1, 2**53 + 1), (2, None)]], pa.map_(pa.int64(), pa.int64()))}
    )
    assert pandas_frame(mapped, "UTC")["x"].iloc[0] == [(1, 2**53 + 1), (2, None)]


def test_a_table_without_rows_has_its_columns() -> None:
    """And their types."""
    frame = pandas_frame(made("DATE '10000-01-01'").slice(0, 0), "UTC")
    assert (list(frame.columns), len(frame)) == (["n", "x"], 0)
