"""The Parquet sink: whatever the rows, each source's rows are there once, or the source is at fault
by name.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputRejected
from sinks.parquet import output_files, transform_results
from sinks.parquet import writer as parquet
from sinks.parquet.table_spec import TableSpec
from sinks.parquet.writer import AttemptWriter
from sinks.values.extremes import NONE_WIDE, with_wide
from sinks.values.schema import encode

TASK = "00000000000000000001-000000"


def writer(folder: Path, *, schema: str | None = None, **spec: Any) -> AttemptWriter:
    options = {
        "name": "t",
        "output": "tables/t/",
        "partition_by": (),
        "declared": None,
        "widen": "none",
    } | spec
    return AttemptWriter(TableSpec(**options), schema=schema, task=TASK, nonce="n", scratch=folder)


def rows_of(result: Any, table: str = "rows") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for finished in result.files:
        if finished.file.table == table:
            body = finished.body if finished.body is not None else finished.path.read_bytes()
            assert len(body) == finished.file.size_bytes
            read = pq.read_table(io.BytesIO(body))
            assert read.num_rows == finished.file.rows
            found += read.to_pylist()
    return found


def failing() -> Iterator[dict[str, Any]]:
    """More rows than are handed on at once, and then one that contradicts them."""
    yield from ({"n": i} for i in range(20))
    yield {"n": "x"}


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=5),
)
columns = {
    "n": st.one_of(st.none(), st.integers(-(2**53), 2**53)),
    "x": st.one_of(st.none(), st.floats(allow_nan=False)),
    "s": st.one_of(st.none(), st.text(max_size=5)),
    "l": st.one_of(st.none(), st.lists(st.integers(0, 9), max_size=2)),
}
good_rows = st.lists(st.fixed_dictionaries({}, optional=columns), max_size=4)
any_rows = st.lists(st.dictionaries(st.sampled_from("nxsl"), values, max_size=4), max_size=4)


@given(st.lists(good_rows, max_size=6), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_rows_come_back_as_they_were(sources: list[list[dict[str, Any]]], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "CONVERT_ROWS", chunk)
        patch.setattr(parquet, "FILE_BYTES", 200)
        w = writer(Path("/nowhere"))
        for i, rows in enumerate(sources):
            w.add(i, f"k{i}", f"e{i}", iter(rows))
        result = w.finish()
    read = rows_of(result)
    for i, rows in enumerate(sources):
        if i in result.problems:  # say, whole numbers first and then floats: the first rows decide
            assert (
                "but in table t it is" in result.problems[i] or "does not fit" in result.problems[i]
            )
            continue
        own = [r for r in read if r["_source_key"] == f"k{i}"]
        assert result.rows.get(i, 0) == len(own) == len(rows)
        for wanted, found in zip(rows, own, strict=True):
            assert (found["_source_etag"], found["_task"]) == (f"e{i}", TASK)
            for name, value in wanted.items():
                assert found.get(name) == value
            assert all(
                found[name] is None
                for name in found
                if name not in wanted and not name.startswith("_")
            )


@given(st.lists(any_rows, max_size=6))
@settings(max_examples=60, deadline=None)
def test_nonsense_costs_only_the_sources_that_bring_it(sources: list[list[dict[str, Any]]]) -> None:
    w = writer(Path("/nowhere"))
    for i, rows in enumerate(sources):
        w.add(i, f"k{i}", f"e{i}", rows)
    result = w.finish()
    read = rows_of(result)
    for i, rows in enumerate(sources):
        if i not in result.problems:
            assert len([r for r in read if r["_source_key"] == f"k{i}"]) == len(rows)
        else:
            assert result.problems[i].startswith(("column ", "row "))
            assert i not in result.rows


def test_a_generator_that_fails_leaves_no_rows(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, int]]:
        yield {"a": 1}
        raise ZeroDivisionError

    w = writer(tmp_path)
    w.add(0, "good", "e", [{"a": 2}])
    with pytest.raises(ZeroDivisionError):
        w.add(1, "bad", "e", rows())
    result = w.finish()
    assert (result.rows, list(result.problems)) == ({0: 1}, [1])
    assert [r["a"] for r in rows_of(result)] == [2]


def test_large_results_are_spooled_to_files_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "FILE_BYTES", 1 << 20)
    monkeypatch.setattr(output_files, "BODY_BYTES", 1 << 16)
    monkeypatch.setattr(parquet, "CONVERT_ROWS", 5_000)
    w = writer(tmp_path)
    w.add(0, "big", "e", ({"i": i, "text": f"{i:0100}"} for i in range(50_000)))
    result = w.finish()
    assert len(result.files) > 2
    assert all(f.path is not None for f in result.files[:-1])
    assert sum(r["i"] for r in rows_of(result)) == sum(range(50_000))
    assert list(tmp_path.iterdir())
    w.close()
    assert list(tmp_path.iterdir()) == []


def test_partitions_are_named_like_hive_and_stay_in_the_rows(tmp_path: Path) -> None:
    w = writer(tmp_path, partition_by=("day", "kind"))
    w.add(
        0,
        "k",
        "e",
        [{"day": date(2026, 1, 2), "kind": "a/b", "v": 1}, {"day": None, "kind": "c", "v": 2}],
    )
    result = w.finish()
    folders = {
        finished.file.key.removeprefix("tables/t/rows/").rpartition("/")[0]
        for finished in result.files
    }
    assert folders == {"day=2026-01-02/kind=a%2Fb", "day=__HIVE_DEFAULT_PARTITION__/kind=c"}
    assert {f.file.partition["day"] for f in result.files} == {"2026-01-02", None}
    assert sorted(r["v"] for r in rows_of(result)) == [1, 2]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"v": 1}], "the rows have no column 'kind'"),
        ([{"kind": 1.5}], "can be partitioned by text, integers, dates and booleans"),
        ([{"kind": "x" * 61}], "too long for a partition's name"),
        ([{"kind": str(i)} for i in range(1001)], "more than 1000 partitions by kind"),
    ],
)
def test_partitions_that_cannot_be(tmp_path: Path, rows: list[dict[str, Any]], words: str) -> None:
    w = writer(tmp_path, partition_by=("kind",))
    try:
        w.add(0, "bad", "e", rows)
        problem = ""
    except InputRejected as error:  # known at once
        problem = str(error)
    w.add(1, "good", "e", [{"kind": "fine"}])
    result = w.finish()
    assert words in (problem or result.problems[0])
    assert result.rows == {1: 1}


def test_a_declared_schema_casts_or_names_what_does_not_fit(tmp_path: Path) -> None:
    declared = pa.schema([("at", pa.timestamp("us")), ("n", pa.int32())])
    w = writer(tmp_path, declared=declared)
    w.add(0, "text", "e", [{"at": "2026-01-02T03:04:05", "n": 7}])
    w.add(1, "wrong", "e", [{"at": "yesterday", "n": 7}])
    w.add(2, "big", "e", [{"n": 2**40}])
    result = w.finish()
    assert [(r["at"], r["n"]) for r in rows_of(result)] == [(datetime(2026, 1, 2, 3, 4, 5), 7)]  # noqa: DTZ001
    assert result.problems[1].startswith(
        "column 'at' is declared as timestamp[us], and row 1 has str 'yesterday'"
    )
    assert result.problems[2].startswith(
        "column 'n' is declared as int32, and row 1 has int 1099511627776"
    )


def test_encodings_and_empty_types_are_made_plain(tmp_path: Path) -> None:
    w = writer(tmp_path)
    w.add(
        0,
        "a",
        "e",
        pa.table(
            {
                "d": pa.array(["x", "x"]).dictionary_encode(),
                "l": pa.array(["y", None], pa.large_string()),
            }
        ),
    )
    w.add(1, "b", "e", [{"d": None, "nothing": None, "empty": [], "hollow": {}}])
    result = w.finish()
    assert not result.problems
    assert [r["d"] for r in rows_of(result)] == ["x", "x", None]
    assert rows_of(result)[2]["empty"] == []


def test_rejected_rows_keep_their_source_and_reason(tmp_path: Path) -> None:
    w = writer(tmp_path)
    w.add(
        0,
        "a",
        "e0",
        [{"v": 1}],
        [({"v": "x", "at": date(2026, 1, 1)}, "no number"), (b"\xff", "bytes")],
    )
    w.add(2, "c", "e2", [], [("half \ud83d", "a \udc00 pair"), ({"v": "\ud83d"}, "in JSON")])
    w.add(1, "b", "e1", [{"v": "conflict"}], [("dropped with its file", "r")])
    result = w.finish()
    assert result.rejected == {0: 2, 2: 2}
    found = rows_of(result, "rejected")
    assert [(r["row"], r["reason"], r["_source_key"]) for r in found] == [
        ('{"v": "x", "at": "2026-01-01"}', "no number", "a"),
        ("\\xff", "bytes", "a"),
        ("half \\ud83d", "a \\udc00 pair", "c"),
        ('{"v": "\\ud83d"}', "in JSON", "c"),
    ]


def test_the_table_decides_not_the_attempt(tmp_path: Path) -> None:
    """Later attempts are given the table's schema: all-integer files fit a column of floats, and
    not the other way round.
    """
    floats = encode(pa.schema([("v", pa.float64())]))
    w = writer(tmp_path, schema=floats)
    w.add(0, "a", "e", [{"v": 1}])
    result = w.finish()
    assert (result.problems, [r["v"] for r in rows_of(result)]) == ({}, [1.0])
    w = writer(tmp_path, schema=encode(pa.schema([("v", pa.int64())])))
    w.add(0, "a", "e", [{"v": 1.5}])
    assert 'widen="float"' in w.finish().problems[0]
    small = encode(with_wide(pa.schema([("v", pa.int64())]), NONE_WIDE))
    w = writer(tmp_path, schema=small, widen="float")
    w.add(0, "a", "e", [{"v": 1.5}])
    assert w.finish().problems == {}


@pytest.mark.parametrize(
    "file_bytes", [1, parquet.FILE_BYTES], ids=["written before", "not written yet"]
)
def test_rows_that_were_accepted_before_their_source_failed_do_not_count(
    file_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transform_results, "ROWS_MAX", 10)
    monkeypatch.setattr(parquet, "CONVERT_ROWS", 10)
    monkeypatch.setattr(parquet, "FILE_BYTES", file_bytes)
    w = writer(tmp_path)
    w.add(0, "bad", "e0", failing())
    w.add(1, "good", "e1", [{"n": 1}])
    result = w.finish()
    bad = [row for row in rows_of(result) if row["_source_key"] == "bad"]
    assert list(result.problems) == [0]
    assert result.rows.get(0, 0) == len(bad), (
        "what is in a file is counted, so that the commit leaves it out"
    )
    assert len(bad) == (0 if file_bytes > 1 else parquet.CONVERT_ROWS * 2)
