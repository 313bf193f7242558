"""python -m bench.listing --keys 200000: seconds per million listed keys, of Tidemill's S3 store
and of other clients.

All ask one synthetic service (`s3_lister.py`, a process of its own), in turns; the median of the
repeats counts. A client is made before its clock starts. Ratios are to the plain listing of
obstore, the fastest of the others that gives Python values.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from bench.s3_lister import FOLDER, key_of, lister

RANGE_KEYS = 16_000
BASE = "obstore"
BOTO_SHARE = 10
"""boto3 lists a tenth of the keys: it is that slow."""


def with_boto3(url: str, keys: int) -> Callable[[], int]:
    import boto3

    pages = boto3.client("s3", endpoint_url=url, region_name="us-east-1").get_paginator(
        "list_objects_v2"
    )
    after = key_of(keys - keys // BOTO_SHARE - 1)
    return lambda: sum(
        len(page["Contents"])
        for page in pages.paginate(Bucket="b", Prefix=FOLDER, StartAfter=after)
    )


def with_obstore(url: str, arrow: bool) -> Callable[[], int]:
    import obstore
    from obstore.store import S3Store

    options: Any = {"virtual_hosted_style_request": False, "client_options": {"allow_http": True}}
    store = S3Store("b", endpoint=url, region="us-east-1", **options)

    def run() -> int:
        found: Any = obstore.list(store, FOLDER, chunk_size=1000, return_arrow=arrow)
        return sum(part.num_rows if arrow else len(part) for part in found)

    return run


def with_pyarrow(url: str) -> Callable[[], int]:
    from pyarrow.fs import FileSelector, FileType, S3FileSystem

    store = S3FileSystem(
        endpoint_override=url.removeprefix("http://"), scheme="http", region="us-east-1"
    )
    return lambda: sum(
        found.type == FileType.File
        for found in store.get_file_info(FileSelector("b/in", recursive=True))
    )


def with_tidemill(url: str, keys: int, ranges: bool) -> Callable[[], int]:
    from pipeline.stores import open_store

    store = open_store("s3://bucket", endpoint_url=url, region="us-east-1")
    asyncio.run(store.check())
    split_at = [key_of(i) for i in range(RANGE_KEYS, keys, RANGE_KEYS)] if ranges else []

    async def listed() -> int:
        return sum([len(page.keys) async for page in store.list(FOLDER, split_at=split_at)])

    return lambda: asyncio.run(listed())


def clients(url: str, keys: int) -> dict[str, Callable[[], int]]:
    found = {
        "boto3 paginator": with_boto3(url, keys),
        "pyarrow.fs get_file_info": with_pyarrow(url),
        BASE: with_obstore(url, False),
        "tidemill": with_tidemill(url, keys, False),
        f"tidemill, in ranges of {RANGE_KEYS:,}": with_tidemill(url, keys, True),
    }
    if find_spec("arro3"):
        found["obstore, return_arrow"] = with_obstore(url, True)
    return found


def measured(run: Callable[[], int], keys: int) -> tuple[float, float]:
    """Wall and processor seconds per million keys."""
    wall, cpu = time.perf_counter(), time.process_time()
    count = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert count in (keys, keys // BOTO_SHARE), f"{count} of {keys} keys"
    return wall / count * 1e6, cpu / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="clients whose name contains this, and the base")
    asked = parser.parse_args()
    with lister(keys=asked.keys, latency_ms=asked.latency_ms) as url:
        chosen = {
            name: run
            for name, run in clients(url, asked.keys).items()
            if asked.only in name or name == BASE
        }
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
        for _ in range(asked.repeats):
            for name, run in chosen.items():
                figures[name].append(measured(run, asked.keys))
    middle = {
        name: [statistics.median(column) for column in zip(*found, strict=True)]
        for name, found in figures.items()
    }
    print(
        "| client | wall, s per million | processor, s per million | throughput / obstore's"
        " |\n|---|---|---|---|"
    )
    for name, (wall, cpu) in middle.items():
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {middle[BASE][0] / wall:.2f} |")


if __name__ == "__main__":
    main()
