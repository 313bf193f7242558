"""What a compaction writes: one file a partition, the rows that count, sorted in runs of bounded
memory.
"""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ObjectNotFound, SettingsError
from pipeline.model.receipt import OutputFile
from pipeline.model.snapshot import Output
from pipeline.testing.memory_store import MemoryStore
from sinks.parquet import rewriter
from sinks.parquet.rewriter import ParquetRewriter


async def stored(
    store: MemoryStore, task: str, rows: dict[str, list[Any]], partition: str
) -> OutputFile:
    """A file of an attempt of `task`; each row came from the source that its `n` names."""
    n = len(rows["n"])
    body = io.BytesIO()
    provenance = {
        "_source_key": [f"up/{i}" for i in rows["n"]],
        "_source_etag": ["e"] * n,
        "_task": [task] * n,
    }
    pq.write_table(pa.table(rows | provenance), body)
    key = f"out/rows/p={partition}/{task}.x.0.parquet"
    await store.put(key, body.getvalue())
    return OutputFile(
        table="rows",
        key=key,
        size_bytes=len(body.getvalue()),
        rows=n,
        partition={"p": partition},
        schema_id="s",
        sha256="",
    )


def rewritten(order_by: list[str], *, lost: bool = False) -> dict[str, list[dict[str, Any]]]:
    """The rows of each new file, by partition: of outputs `a`, where source 3 is dead, and `b`."""

    async def work() -> dict[str, list[dict[str, Any]]]:
        store = MemoryStore()
        one = await stored(store, "a", {"n": [5, 3, 9, 1], "text": ["v", "w", "x", "y"]}, "1")
        two = await stored(store, "b", {"n": [8, 2], "text": [None, "z"]}, "1")
        other = await stored(store, "b", {"n": [7], "text": ["q"]}, "2")
        if lost:
            await store.delete([two.key])
        outputs = {
            "a": Output(files=[one], live=3, dead=["up/3"]),
            "b": Output(files=[two, other], live=3),
        }
        files = await ParquetRewriter(store, "out/", order_by).rewrite(outputs, "c", "n", None)
        found = {}
        for file in files:
            rows = pq.read_table(io.BytesIO((await store.get(file.key)).body)).to_pylist()
            assert file.rows == len(rows)
            found[file.partition["p"] or ""] = rows
        assert len(found) == len(files), "one file a partition"
        return found

    return asyncio.run(work())


def test_live_rows_alone_sorted_with_their_provenance() -> None:
    found = rewritten(["n"])
    assert [row["n"] for row in found["1"]] == [1, 2, 5, 8, 9]
    assert [row["n"] for row in found["2"]] == [7]
    assert found["1"][1] == {
        "n": 2,
        "text": "z",
        "_source_key": "up/2",
        "_source_etag": "e",
        "_task": "b",
    }


def test_what_is_empty_comes_last() -> None:
    assert [row["text"] for row in rewritten(["text"])["1"]] == ["v", "x", "y", "z", None]


def test_more_than_memory_holds_is_one_file_of_sorted_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriter, "MERGE_BYTES", 1)
    assert [row["n"] for row in rewritten(["n"])["1"]] == [1, 5, 9, 2, 8]


def test_a_missing_file_is_no_empty_one() -> None:
    with pytest.raises(ObjectNotFound, match="is live and missing"):
        rewritten(["n"], lost=True)


def test_an_order_by_no_column_is_refused() -> None:
    with pytest.raises(SettingsError, match="order_by='m' is not a column of the table"):
        rewritten(["m"])
