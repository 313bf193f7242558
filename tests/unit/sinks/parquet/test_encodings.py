"""Large Parquet files: small, whole, and without dictionaries that are given up half way."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sinks.parquet.encodings import ROW_GROUP_ROWS, write_large

ROWS = 2 * ROW_GROUP_ROWS + 5


def test_every_type_comes_back_as_it_was(tmp_path: Path) -> None:
    numbers = list(range(2_000))
    rows = pa.table(
        {
            "u64": pa.array([2**64 - 1 - i for i in numbers], pa.uint64()),
            "i8": pa.array([i % 256 - 128 for i in numbers], pa.int8()),
            "when": pa.array(
                [datetime(2026, 1, 1, 0, 0, i % 60, i) for i in numbers],  # noqa: DTZ001
                pa.timestamp("ns", "UTC"),
            ),
            "day": pa.array([date.fromordinal(700_000 + i) for i in numbers], pa.date32()),
            "time": pa.array(numbers, pa.time64("us")),
            "took": pa.array(numbers, pa.duration("ns")),
            "price": pa.array([Decimal(i) for i in numbers], pa.decimal128(38, 9)),
            "x": pa.array([None if i % 7 == 0 else i / 3 for i in numbers], pa.float32()),
            "y": pa.array([None if i % 7 == 0 else i / 3 for i in numbers], pa.float64()),
            "half": pa.array(np.arange(2_000, dtype=np.float16)),
            "yes": pa.array([i % 2 == 0 for i in numbers]),
            "word": pa.array(["a", None, "b", "c"] * 500).dictionary_encode(),
            "text": pa.array([f"text {i}" for i in numbers]),
            "bytes": pa.array([bytes([i % 256]) * 3 for i in numbers]),
            "fixed": pa.array([b"1234"] * 2_000, pa.binary(4)),
            "nothing": pa.nulls(2_000),
            "many": pa.array([[{"a.b": i, "c": [str(i)]}] for i in numbers]),
            "map": pa.array([[("k", i)] for i in numbers], pa.map_(pa.string(), pa.int64())),
            "a.b": pa.array(numbers),
        }
    )
    write_large(rows, tmp_path / "a.parquet")
    found = pq.read_table(tmp_path / "a.parquet")
    assert found.cast(rows.schema).equals(rows)
    write_large(rows.slice(0, 0), tmp_path / "none.parquet")
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


def test_a_column_of_many_values_has_no_dictionary_and_its_integers_are_small(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    rows = pa.table(
        {
            "at": np.arange(ROWS) * 1000,
            "x": rng.random(ROWS),
            "word": pa.array([f"word {i % 900}" for i in range(ROWS)]),
        }
    )
    write_large(rows, tmp_path / "ours.parquet")
    pq.write_table(
        rows, tmp_path / "plain.parquet", compression="zstd", row_group_size=ROW_GROUP_ROWS
    )
    described = pq.ParquetFile(tmp_path / "ours.parquet").metadata
    assert described.num_row_groups == 3
    encodings = {
        described.row_group(0).column(i).path_in_schema: described.row_group(0).column(i).encodings
        for i in range(3)
    }
    assert "DELTA_BINARY_PACKED" in encodings["at"]
    assert "BYTE_STREAM_SPLIT" in encodings["x"]
    assert "RLE_DICTIONARY" not in encodings["at"] + encodings["x"]
    assert "RLE_DICTIONARY" in encodings["word"]
    assert (tmp_path / "ours.parquet").stat().st_size < 0.8 * (
        tmp_path / "plain.parquet"
    ).stat().st_size


def test_other_readers_read_it(tmp_path: Path) -> None:
    import duckdb
    import polars as pl

    rows = pa.table(
        {
            "n": np.arange(ROWS),
            "x": np.arange(ROWS) / 2,
            "text": pa.array([f"{i:07}" for i in range(ROWS)]),
        }
    )
    path = tmp_path / "a.parquet"
    write_large(rows, path)
    sums = (ROWS * (ROWS - 1) // 2, f"{ROWS - 1:07}")
    assert duckdb.sql(f"SELECT sum(n), max(text) FROM '{path}'").fetchall() == [sums]
    assert pl.read_parquet(path).select(pl.col("n").sum(), pl.col("text").max()).row(0) == sums
