"""python -m bench.scale [--known 10000 1000000 10000000] [--only WORK...]: what a pass costs when
very many objects are known.

The state is written as commits would have left it, into a local directory; the source is a listing
made up on the fly (`bench.large`). Each work runs in a process of its own: wall and processor
seconds, peak memory, requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.large import PAGE_KEYS, SOURCE, Virtual, etag, name, parts, write_known
from pipeline.discover.request import Request
from pipeline.model import keys
from pipeline.model.commit import FORMAT_VERSION
from pipeline.model.listing import Page
from pipeline.model.policy import Policy
from pipeline.model.receipt import Receipt
from pipeline.model.task import Inputs
from pipeline.passes.runner import Pass
from pipeline.plan.evidence import Evidence
from pipeline.runtime.system import keep_arrow_light
from pipeline.stores import open_store

FILES = 1_000_000
RECEIPTS = 100_000


async def _pass(bucket: Virtual, request: Request, policy: Policy | None = None) -> Pass:
    running = Pass(parts(bucket, policy=policy))
    await running.run(request)
    return running


async def grown(bucket: Virtual) -> str:
    """Nothing new where keys grow."""
    done = await _pass(bucket, Request(growing=True))
    return f"{done.report.listed} listed, {done.report.planned} planned"


async def hinted(bucket: Virtual) -> str:
    """A notice of one object that is known."""
    done = await _pass(bucket, Request(names=[name(5)]))
    return f"{done.report.listed} asked for, {done.report.planned} planned"


async def sweep(bucket: Virtual) -> str:
    """A whole listing, 100 new at its end."""
    bucket.n += 100
    done = await _pass(bucket, Request())
    assert done.report.planned == 100, done.report
    return f"{done.report.listed:,} listed, {done.report.planned} planned"


async def listing(bucket: Virtual) -> str:
    """The listing alone."""
    n = 0
    async for page in bucket.list(SOURCE):
        n += len(page.keys)
    return f"{n:,} listed"


async def planning(bucket: Virtual) -> str:
    """A million new files become tasks."""
    bucket.n = FILES
    done = await _pass(bucket, Request(), Policy(task_files_max=2000))
    assert done.report.planned == FILES
    return f"{len(done.state.tasks)} tasks in {done.report.commits} commits"


async def receipts(bucket: Virtual) -> str:
    """100,000 receipts of one file each become one commit."""
    running = Pass(parts(bucket, policy=Policy(task_files_max=1, task_files_min=1)))
    await running.open()
    for start in range(0, RECEIPTS, PAGE_KEYS):
        numbers = range(start, start + PAGE_KEYS)
        found = Page(
            keys=[name(i) for i in numbers],
            etags=[etag(i) for i in numbers],
            sizes=[1] * PAGE_KEYS,
            modified_us=[0] * PAGE_KEYS,
        )
        await running.run(Request(listing=_listing(found)))
    evidence = Evidence(base=running.state.sequence, runs_work=False)
    evidence.receipts = {
        task.id: _receipt(task.id, task.version, task.inputs)
        for task in running.state.tasks.values()
    }
    assert len(evidence.receipts) == RECEIPTS
    bucket.requests.clear()
    began, cpu = time.perf_counter(), time.process_time()
    commit = await running.commit(evidence)
    assert commit is not None
    assert len(commit.settle) == RECEIPTS
    return json.dumps(
        {
            "seconds": time.perf_counter() - began,
            "cpu": time.process_time() - cpu,
            "note": "1 commit",
        }
    )


def _listing(page: Page) -> Callable[[str], object]:
    async def pages(source: str) -> object:
        yield page

    return pages


def _receipt(task: str, version: str, inputs: Inputs) -> Receipt:
    n = len(inputs)
    return Receipt(
        format=FORMAT_VERSION,
        task=task,
        nonce="n",
        version=version,
        rows=[1] * n,
        rejected=[0] * n,
        problems=[],
        files=[],
        schema=None,
        seconds=0.01,
        bytes_read=n,
    )


WORKS: dict[str, tuple[Callable[[Virtual], Awaitable[str]], bool]] = {
    # work, whether it is about a ledger of each size (else about an empty one)
    "grown": (grown, True),
    "hinted": (hinted, True),
    "listing": (listing, True),
    "sweep": (sweep, True),
    "planning": (planning, False),
    "receipts": (receipts, False),
}


def child(folder: str, work: str, n: int) -> None:
    """Measure one work in this process, and print it as JSON."""
    keep_arrow_light()
    if work == "build":
        asyncio.run(write_known(open_store(f"file://{folder}"), n))
        return
    bucket = Virtual(open_store(f"file://{folder}"), n)
    began, cpu = time.perf_counter(), time.process_time()
    said = asyncio.run(_awaited(WORKS[work][0](bucket)))
    found = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "note": said}
    if said.startswith("{"):
        found |= json.loads(said)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**found, "requests": dict(bucket.requests)}))


async def _awaited(work: Awaitable[str]) -> str:
    return await work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--known", type=int, nargs="*", default=[10_000, 1_000_000, 10_000_000])
    parser.add_argument("--only", nargs="*", choices=WORKS, default=list(WORKS))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], args.child[1], int(args.child[2]))
        return
    print(f"{'work':10}{'known':>12}{'wall s':>9}{'cpu s':>9}{'peak MB':>9}  requests")
    for work in [work for work in args.only if not WORKS[work][1]]:
        with tempfile.TemporaryDirectory() as folder:
            _measure(folder, work, 0)
    for n in args.known if any(WORKS[work][1] for work in args.only) else []:
        with tempfile.TemporaryDirectory() as folder:
            # in a process of its own, too: a large parent counts as its children's peak memory
            subprocess.run(
                [sys.executable, "-m", "bench.scale", "--child", folder, "build", str(n)],
                check=True,
            )
            for work in [work for work in args.only if WORKS[work][1]]:
                _measure(folder, work, n)
                for path in (Path(folder) / keys.log_prefix(keys.home("p"))).glob("*.json"):
                    path.unlink()  # what it committed: the next one finds the same state


def _measure(folder: str, work: str, n: int) -> None:
    command = [sys.executable, "-m", "bench.scale", "--child", folder, work, str(n)]
    found = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    )
    asked = ", ".join(f"{count:,} {kind}" for kind, count in sorted(found["requests"].items()))
    figures = f"{found['seconds']:9.2f}{found['cpu']:9.2f}{found['peak_mb']:9.0f}"
    print(
        f"{work:10}{n:12,}{figures}  {sum(found['requests'].values()):,}: {asked}; {found['note']}",
        flush=True,
    )


if __name__ == "__main__":
    main()
