"""What a Delta table says of its files is true: an engine that trusts it leaves out no file with a
row that is asked for.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sinks.copies.delta_stats import stats_of


def stats(path: Path, values: list[Any], kind: pa.DataType) -> dict[str, Any]:
    table = pa.table({"c": pa.array(values, kind)})
    pq.write_table(table, path / "f.parquet", row_group_size=2)
    return json.loads(stats_of(pq.read_metadata(path / "f.parquet"), table.schema))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("values", "kind", "low", "high"),
    [
        ([5, -3, None, 2**40], pa.int64(), -3, 2**40),
        (["b", "", None, "é", "Z"], pa.string(), "", "é"),
        (
            [date(2026, 1, 2), date(1969, 12, 31), None, date(2000, 1, 1)],
            pa.date32(),
            "1969-12-31",
            "2026-01-02",
        ),
        (["a", "x" * 65], pa.string(), None, None),  # too long to say
        ([1, None, None, None], pa.int64(), None, None),  # a group without a value says nothing
        ([0, 5_000_000], pa.int32(), 0, 5_000_000),
        ([1.0, float("nan")], pa.float64(), None, None),
        ([], pa.int64(), None, None),
    ],
)
def test_smallest_and_largest(
    tmp_path: Path, values: list[Any], kind: pa.DataType, low: Any, high: Any
) -> None:
    found = stats(tmp_path, values, kind)
    assert found["numRecords"] == len(values)
    assert (found["minValues"].get("c"), found["maxValues"].get("c")) == (low, high)


def test_a_day_that_python_does_not_know(tmp_path: Path) -> None:
    table = pa.table({"c": pa.array([0, 5_000_000], pa.int32()).cast(pa.date32())})
    pq.write_table(table, tmp_path / "f.parquet")
    assert (
        json.loads(stats_of(pq.read_metadata(tmp_path / "f.parquet"), table.schema))["minValues"]
        == {}
    )
