"""The floor: what one would write by hand for this one job, with no other promise than that it
ends.

python -m bench.floor KIND BUCKET: remembers which names it has seen, a pool of forked processes,
one Parquet file a chunk, one commit file written last, DuckDB for the aggregate. No retries, no
changed or deleted files; a file that raises is noted by name.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bench.userfn import AGGREGATES, PARSERS

CHUNK = {"logs": 500, "csv": 20, "images": 50, "tiny": 5_000}


def listing(top: str) -> list[str]:
    found, todo = [], [top]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    todo.append(entry.path)
                else:
                    found.append(entry.path)
    return sorted(found)


def chunk(job: tuple[str, list[str], str]) -> list[str]:
    kind, paths, target = job
    gc.disable()
    parse, rows, tables, failed = PARSERS[kind], [], [], []
    for path in paths:
        with Path(path).open("rb", buffering=0) as file:
            data = file.read()
        try:
            result = parse(data, path)
        except Exception:  # noqa: BLE001
            failed.append(path)
            continue
        if isinstance(result, list):
            rows += result
        elif isinstance(result, dict):
            rows.append(result)
        else:
            tables.append(result)
    table = pa.concat_tables(tables) if tables else pa.Table.from_pylist(rows)
    pq.write_table(table, target, compression="zstd", compression_level=1)
    gc.enable()
    return failed


def main() -> None:
    kind, bucket = sys.argv[1], Path(sys.argv[2])
    out = bucket / "floor"
    (out / "data").mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    outputs: list[str] = []
    commits = sorted(out.glob("commit-*.json"))
    for commit in commits:
        noted = json.loads(commit.read_bytes())
        seen.update(noted["inputs"])
        outputs += noted["outputs"]
    new = [path for path in listing(str(bucket / "raw")) if path not in seen]
    if not new:
        print(json.dumps({"files": 0}))
        return
    size = min(CHUNK[kind], -(-len(new) // 2))
    parts = [new[i : i + size] for i in range(0, len(new), size)]
    jobs = [
        (kind, part, str(out / "data" / f"{len(commits)}-{i}.parquet"))
        for i, part in enumerate(parts)
    ]
    if kind == "csv":
        import pyarrow.csv  # noqa: F401 - once, before the fork
    if kind == "images":
        import numpy  # noqa: F401
        from PIL import Image  # noqa: F401
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        failed = [path for part in pool.map(chunk, jobs) for path in part]
    outputs += [job[2] for job in jobs]
    temporary = out / "next"
    with temporary.open("w") as file:
        json.dump({"inputs": new, "outputs": [job[2] for job in jobs], "failed": failed}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(out / f"commit-{len(commits):06}.json")
    import duckdb

    connection = duckdb.connect(config={"threads": 2})
    totals = AGGREGATES[kind].format(table=f"read_parquet({outputs!r})")
    connection.execute(f"COPY ({totals}) TO '{out}/totals.parquet' (FORMAT parquet)")
    print(json.dumps({"files": len(new), "failed": len(failed)}))


if __name__ == "__main__":
    main()
