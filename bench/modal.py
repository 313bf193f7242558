"""What a scheduled pass costs besides the work itself, and how many calls many small files become.

    .venv/bin/python -m bench.modal tick        10,000 new files: load, list, plan, commit
    .venv/bin/python -m bench.modal fan-out     20,000 small files through the offline stand-in

Both run on a real S3 server (SeaweedFS) on this machine. `tick` stands beside what one would write
by hand for the same: list with boto3, take out what a stored set of keys has, store the new set.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3

from pipeline.declare.load_file import load_pipelines
from pipeline.deploy.control import deployed_runtime
from pipeline.executors.none import NoExecutor
from pipeline.model.task import Assignment
from pipeline.passes.runner import Pass
from pipeline.runtime.bucket import Bucket
from pipeline.work.orders import encode, order_for
from tests.support.servers import KEYS, seaweed_url

FLOW = """
import json
from pipeline import Pipeline, Object

logs = Pipeline("logs", source="up/", schedule="*/5 * * * *", access="api")

@logs.transform(max_containers=50)
def parse(obj: Object):
    return [json.loads(line) for line in obj.lines()]
"""
BODY = b'{"kind": "a", "v": 1}\n'


class Counting(NoExecutor):
    """Takes orders and drops them: what is measured is everything before."""

    owner = "modal:bench"
    detached = True
    parallelism = 50

    def __init__(self) -> None:
        self.orders = 0
        self.bytes = 0

    async def dispatch(self, assignments: Sequence[Assignment]) -> None:
        for assignment in assignments:
            order, body = order_for(assignment, "home/")
            self.orders += 1
            self.bytes += len(encode(order)) + len(body or b"")


def bucket_with(files: int) -> tuple[str, str]:
    """A bucket with so many small uploads: the server's URL and the bucket's name."""
    url = seaweed_url()
    name = f"bench-{secrets.token_hex(4)}"
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    client.create_bucket(Bucket=name)
    with ThreadPoolExecutor(16) as pool:
        list(
            pool.map(
                lambda i: client.put_object(Bucket=name, Key=f"up/{i:06}.jsonl", Body=BODY),
                range(files),
            )
        )
    return url, name


def by_hand(url: str, name: str) -> None:
    """List, take out what is known, remember the rest."""
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix="up/")
    found = {o["Key"]: o["ETag"] for page in pages for o in page.get("Contents", ())}
    try:
        known = json.loads(client.get_object(Bucket=name, Key="known.json")["Body"].read())
    except client.exceptions.NoSuchKey:
        known = {}
    new = {key: etag for key, etag in found.items() if known.get(key) != etag}
    client.put_object(Bucket=name, Key="known.json", Body=json.dumps({**known, **new}).encode())
    client.delete_object(Bucket=name, Key="known.json")


async def tick(url: str, name: str, file: str) -> dict[str, Any]:
    """One pass over the bucket, in a home of its own; seconds of each part."""
    spent: dict[str, float] = {}

    async def timed(part: str, work: Awaitable[Any]) -> Any:
        started = time.perf_counter()
        try:
            return await work
        finally:
            spent[part] = spent.get(part, 0.0) + time.perf_counter() - started

    [pipeline] = load_pipelines(file)
    store = Bucket(url=f"s3://{name}", endpoint_url=url, region="us-east-1").open()
    executor = Counting()
    runtime = deployed_runtime(pipeline, store, executor)
    await timed("home", runtime.open())
    running = Pass(runtime.context())
    real = running.log.append
    running.log.append = lambda *a: timed("commit", real(*a))  # type: ignore[method-assign]
    await timed("load", running.open())
    await timed("pass", running.run())
    planned = running.report.planned
    removed = [page.keys async for page in store.list("_tidemill/")]
    await store.delete([key for keys in removed for key in keys])
    return {**spent, "planned": planned, "orders": executor.orders, "order_bytes": executor.bytes}


def median_of(times: int, work: Callable[[], Any]) -> tuple[float, Any]:
    """The median of the wall seconds, and the last result."""
    seconds, result = [], None
    for _ in range(times):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), result


def measure_tick(files: int, repeats: int) -> None:
    """Print the figures of `tick`."""
    url, name = bucket_with(files)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "flow.py")
        file.write_text(FLOW)
        hand_s, _ = median_of(repeats, lambda: by_hand(url, name))
        tick_s, figures = median_of(repeats, lambda: asyncio.run(tick(url, name, str(file))))
    assert figures["planned"] == files
    listing = figures["pass"] - figures["commit"]
    print(
        f"{files:,} new files: tick {tick_s:.2f} s, by hand {hand_s:.2f} s, ratio"
        f" {tick_s / hand_s:.2f}"
    )
    print(
        f"  of which home {figures['home']:.2f}, load {figures['load']:.3f}, list, judge and plan"
        f" {listing:.2f}, commit {figures['commit']:.2f}; {figures['orders']} orders,"
        f" {figures['order_bytes'] / 1e6:.2f} MB"
    )


def measure_fan_out(files: int) -> None:
    """Print how many calls the files become, and how long they take here."""
    from tests.modal.helpers import SECRET
    from tests.modal_offline import Offline

    url, name = bucket_with(files)
    with (
        tempfile.TemporaryDirectory() as folder,
        Offline(Path(folder, "modal"), s3_endpoint=url, aws=KEYS) as cloud,
    ):
        cloud.secrets[SECRET] = dict(KEYS)
        file = Path(folder, "flow.py")
        file.write_text(FLOW)
        environment = {
            **os.environ,
            **cloud.env,
            **KEYS,
            "TIDEMILL_BUCKET": f"s3://{name}",
            "TIDEMILL_ENDPOINT_URL": url,
        }
        tidemill(environment, "deploy", str(file), "--secret", SECRET, "--json")
        started = time.perf_counter()
        while True:
            cloud.fire("tidemill-logs", "tick")
            cloud.wait_idle(600)
            state = json.loads(tidemill(environment, "status", str(file), "--json"))[0]["sources"]
            if state["committed"] == files:
                break
        spent = time.perf_counter() - started
        calls = {
            name: len(cloud.inputs("tidemill-logs", name))
            for name in ("tick", "work_parse", "commit")
        }
        tidemill(environment, "audit", str(file))
    each = ", ".join(f"{n} of {name}" for name, n in calls.items())
    print(f"{files:,} files in {spent:.0f} s on this machine: {each}; audit clean")


def tidemill(environment: dict[str, str], *arguments: str) -> str:
    """A command of Tidemill's; its output."""
    import subprocess

    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["tick", "fan-out"])
    parser.add_argument("--files", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.what == "tick":
        measure_tick(args.files or 10_000, args.repeats)
    else:
        measure_fan_out(args.files or 20_000)


if __name__ == "__main__":
    main()
