"""python -m bench.answers [--files 10000] [--rows 1000]: what it costs to ask, to compact, and to
keep aggregates up to date.

A table of FILES x ROWS rows in as many outputs as files, made by the pipeline itself in this
process; each file is of one of 1,000 groups. Queries are compared with DuckDB on the same rows in
one Parquet file, in turns, medians of nine; aggregates with computing everything. Bytes are counted
where the store is read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from pipeline import Object, Pipeline
from pipeline.model.snapshot import Changes, Snapshot
from pipeline.passes.aggregation import aggregate
from pipeline.passes.compaction import Compactor, Merged, Wanted
from pipeline.passes.runner import Pass
from pipeline.runtime.aggregator import WarehouseAggregator
from pipeline.runtime.runtime import Runtime
from pipeline.stores.local.store import LocalStore
from pipeline.tables.views import open_warehouse, state_at
from pipeline.testing import inline_runtime
from sinks.query.object_files import LocalFiles, StoreFiles
from sinks.query.warehouse import Warehouse

GROUPS = 1_000
REPEATS = 9
SUMS = "SELECT k, count(*) AS n, sum(v) AS v, avg(x) AS x FROM t GROUP BY k"
TOTALS = "SELECT k, count(*) AS n, sum(v) AS v FROM t GROUP BY k"
LARGEST = "SELECT k, max(v) AS most, count(*) AS n FROM t GROUP BY k"
SCANS = {
    "group by over three columns": f"SELECT sum(n), sum(v), sum(x) FROM ({SUMS})",
    "sum of one column": "SELECT sum(v) FROM t",
    "filter on text": "SELECT count(*) FROM t WHERE text LIKE '%77%'",
}


def flow(rows: int) -> Pipeline:
    """Each file becomes `rows` rows of one group, an hour's worth."""
    import numpy as np
    import pyarrow as pa

    t = Pipeline("t", source="up/", order_by=["ts"], file_mb=64, retention_days=1)

    @t.transform
    def make(obj: Object) -> Any:
        i = int(obj.read())
        rng = np.random.default_rng(i)
        ts = (
            np.datetime64(datetime(2026, 1, 1) + timedelta(hours=i), "us")  # noqa: DTZ001
            + np.arange(rows) * 3_600_000_000 // rows
        )
        v = rng.integers(0, 1_000_000, rows)
        text = pa.array(np.char.add("event ", (v % 5000).astype(str)))
        return pa.table(
            {"k": np.full(rows, i % GROUPS), "ts": ts, "v": v, "x": rng.random(rows), "text": text}
        )

    t.aggregate("totals", by=["k"], sql=TOTALS)
    t.aggregate("sums", by=["k"], sql=SUMS)
    t.aggregate("largest", by=["k"], sql=LARGEST)
    return t


async def commit(opened: Runtime) -> Snapshot:
    """Process what is there; the snapshot since."""
    await opened.open()
    await opened.run()
    return (await state_at(opened))[1].snapshot()


async def compacted(opened: Runtime) -> Merged:
    wanted = Wanted(target_bytes=opened.settings.file_bytes, few=True)
    passing = Pass(opened.context())
    done = await Compactor(passing, wanted).run()
    await passing.checkpoint()
    return done


def upload(folder: Path, names: range, shift: int = 0) -> None:
    for i in names:
        (folder / "up" / f"{i:08d}").write_text(str(i + shift))


def medians_s(*works: Callable[[], object]) -> list[float]:
    """Seconds of one call of each, taken in turns, the medians; each once before, to warm up."""
    spent: list[list[float]] = [[] for _ in works]
    for _ in range(REPEATS + 1):
        for work, found in zip(works, spent, strict=True):
            began = time.perf_counter()
            work()
            found.append(time.perf_counter() - began)
    return [statistics.median(found[1:]) for found in spent]


async def scans(opened: Runtime, ideal: dict[str, Path], title: str) -> None:
    """Our views beside one ideal file, as DuckDB writes it by itself and with its
    newest encodings.
    """
    import duckdb

    others = {name: duckdb.connect() for name in ideal}
    for name, connection in others.items():
        connection.execute(f"CREATE VIEW t AS SELECT * FROM read_parquet('{ideal[name]}')")
    with await open_warehouse([opened], "") as ours:
        for what, statement in SCANS.items():
            asked = [lambda s=statement: ours.query(s)]  # type: ignore[misc]
            asked += [lambda s=statement, c=c: c.execute(s).fetchall() for c in others.values()]  # type: ignore[misc]
            spent = dict(zip(["ours", *others], medians_s(*asked), strict=True))
            ratios = {name: round(spent["ours"] / spent[name], 2) for name in others}
            tell(
                f"{title}: {what}",
                ", ".join(f"{name} {s:.3f} s" for name, s in spent.items()),
                ratio=ratios,
            )


class Counting:
    """A store whose contents count the bytes that are read of them."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self.read = 0
        self.opened: set[str] = set()

    def open_content(self, key: str, etag: str, size_bytes: int) -> Any:
        self.opened.add(key)
        return _Content(self, self._store.open_content(key, etag, size_bytes))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class _Content:
    def __init__(self, counting: Counting, content: Any) -> None:
        self._counting, self._content = counting, content

    def open(self) -> BinaryIO:
        file, counting = self._content.open(), self._counting
        real = file.read

        class Counted:
            def read(self, n: int = -1) -> bytes:
                body: bytes = real(n)
                counting.read += len(body)
                return body

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

        return Counted()  # type: ignore[return-value]


async def partial_reads(opened: Runtime) -> None:
    """A filter on the declared order reads a small part."""
    _, state = await state_at(opened)
    snapshot = state.snapshot()
    total = sum(f.size_bytes for o in snapshot.outputs.values() for f in o.files)
    counting = Counting(opened.store)  # type: ignore[arg-type]
    with Warehouse(StoreFiles(counting)) as warehouse:  # type: ignore[arg-type]
        warehouse.add_snapshot(snapshot)
        counting.read = 0
        found = warehouse.query(
            "SELECT count(*) AS n FROM t WHERE ts >= TIMESTAMP '2026-02-01' AND ts < TIMESTAMP"
            " '2026-02-04'"
        )
    rows = found.column(0)[0].as_py()
    tell(
        "three days of the table by the sort column",
        f"{rows:,} rows, {counting.read:,} of {total:,} bytes read",
    )


async def look_ups(opened: Runtime, title: str) -> None:
    """Rows of one source, asked for by its key, in SQL."""
    key = "up/00000077"
    statement = f"SELECT count(*) AS n, sum(v) AS v FROM t WHERE _source_key = '{key}'"
    began = time.perf_counter()
    with await open_warehouse([opened], statement) as warehouse:
        warehouse.query(statement)
        spent = time.perf_counter() - began
    _, state = await state_at(opened, sources=[key])
    files = sum(len(o.files) for o in state.snapshot([key]).outputs.values())
    tell(
        f"{title}: rows of one source by key",
        f"{spent:.3f} s with loading the state, {files} file read",
    )


async def aggregates(opened: Runtime, title: str, snapshot: Snapshot) -> None:
    """Bringing each aggregate up to date beside computing it from scratch."""
    names = [aggregate.name for aggregate in opened.settings.aggregates]
    for some in [*([name] for name in names), names]:
        one = WarehouseAggregator(opened.store, only(opened, some))
        mine = msgspec.structs.replace(
            snapshot, aggregates={k: v for k, v in snapshot.aggregates.items() if k in some}
        )
        scratch = msgspec.structs.replace(mine, aggregates={}, changes=Changes(everything=True))
        number = iter(range(10**6))

        def compute(given: Snapshot, one: WarehouseAggregator = one, number: Any = number) -> None:
            _run(one.compute(given, f"bench{next(number)}"))

        a, b = medians_s(lambda given=mine: compute(given), lambda given=scratch: compute(given))  # type: ignore[misc]
        tell(
            f"{title}: {' and '.join(some)}",
            f"{a:.3f} s, from scratch {b:.3f} s",
            ratio=round(a / b, 3),
        )


def only(opened: Runtime, names: list[str]) -> Any:
    """The settings with these aggregates alone."""
    from dataclasses import replace

    return replace(
        opened.settings, aggregates=tuple(a for a in opened.settings.aggregates if a.name in names)
    )


def _run(work: Any) -> None:
    """A coroutine that waits for nothing but local files, within a running loop."""
    try:
        while True:
            work.send(None)
    except StopIteration:
        return


async def bring(opened: Runtime) -> Snapshot:
    """Commit the aggregates; the snapshot since."""
    opened.aggregates = True
    passing = Pass(opened.context())
    await passing.open()
    await aggregate(passing)
    await passing.checkpoint()
    opened.aggregates = False
    return (await state_at(opened))[1].snapshot()


def tell(what: str, result: str, **more: Any) -> None:
    print(json.dumps({"what": what, "result": result, **more}), flush=True)


async def main(files: int, rows: int) -> None:
    """All of it, in order. Nothing is flushed to disk: making the table would take minutes."""
    os.fsync = lambda fd: None
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as made:
        folder = Path(made)
        (folder / "up").mkdir()
        upload(folder, range(files))
        opened = inline_runtime(
            flow(rows),
            folder,
            aggregates=False,
            task_files_max=1,
            task_files_min=1,
            vacuum_every=10**9,
        )
        began = time.perf_counter()
        snapshot = await commit(opened)
        tell(
            "made",
            f"{files:,} outputs, {files * rows:,} rows in {time.perf_counter() - began:.0f} s",
        )
        ideal = {
            "DuckDB's file": folder / "ideal.parquet",
            "its newest encodings": folder / "ideal2.parquet",
        }
        paths = [f for o in snapshot.outputs.values() for f in o.files]
        with Warehouse(LocalFiles(str(folder))) as warehouse:
            warehouse.add_snapshot(snapshot)
            columns = "SELECT k, ts, v, x, text FROM t ORDER BY ts"
            for path, version in zip(ideal.values(), ("v1", "v2"), strict=True):
                warehouse.execute(
                    f"COPY ({columns}) TO '{path}' (FORMAT parquet, COMPRESSION zstd,"
                    f" PARQUET_VERSION {version})"
                )
        size = sum(f.size_bytes for f in paths)
        sizes = " and ".join(f"{path.stat().st_size:,}" for path in ideal.values())
        tell("stored", f"{len(paths):,} files of {size:,} bytes; ideal files of {sizes} bytes")
        await look_ups(opened, f"{files:,} outputs")
        await scans(opened, ideal, f"{files:,} outputs")
        await bring(opened)
        small = max(files // 100, 1)
        upload(folder, range(files, files + small))
        await aggregates(
            opened,
            "1 % new rows in 1 % of the groups" if small < GROUPS else "1 % new rows",
            await commit(opened),
        )
        await bring(opened)
        upload(folder, range(small // 10 or 1), shift=GROUPS * 1000)
        touched = f"{small // 10 or 1} files replaced"
        await aggregates(opened, touched, await commit(opened))
        await bring(opened)
        began = time.perf_counter()
        done = await compacted(opened)
        spent = time.perf_counter() - began
        before, after = (
            f"{done.files_before:,} files, {done.bytes_before:,} bytes",
            f"{done.files:,} files, {done.size_bytes:,} bytes",
        )
        tell("compaction", f"{before} became {after} in {spent:.1f} s")
        await scans(opened, ideal, "compacted")
        await look_ups(opened, "compacted")
        await partial_reads(opened)
        upload(folder, range(files + small, files + 2 * small))
        await commit(opened)
        done = await compacted(opened)
        tell(
            "compaction of 1 % more",
            f"{done.files_before:,} files, {done.bytes_before:,} bytes rewritten",
        )
        await bring(opened)
        upload(folder, range(small // 10 or 1), shift=GROUPS * 2000)
        await aggregates(opened, f"compacted, {touched}", await commit(opened))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1_000)
    given = parser.parse_args()
    asyncio.run(main(given.files, given.rows))
