"""What a pass asks of the store depends on what is new, not on what is known: counted, at 10,000
and at 1,000,000 known objects.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from bench.large import LIST_KEYS, TASK_FILES, Virtual, modified_us, name, parts, write_known
from pipeline.commit_log.log import Log
from pipeline.discover.request import Request
from pipeline.model import keys
from pipeline.model.pass_report import PassReport
from pipeline.model.policy import Policy
from pipeline.passes.runner import Pass
from pipeline.runtime.system import WallClock
from pipeline.state import codec
from pipeline.state.checkpoint import Checkpoint
from pipeline.testing.memory_store import MemoryStore

SMALL, LARGE = 10_000, 1_000_000


@pytest.fixture(scope="module")
def buckets() -> dict[int, MemoryStore]:
    """Buckets in which so many objects are committed."""
    made = {n: MemoryStore(page_keys=LIST_KEYS) for n in (SMALL, LARGE)}
    for n, store in made.items():
        asyncio.run(write_known(store, n))
    return made


def copy(store: MemoryStore) -> MemoryStore:
    other = MemoryStore(page_keys=LIST_KEYS)
    other._objects = dict(store._objects)
    return other


def look(bucket: Virtual, request: Request, listing: str = "growing") -> PassReport:
    """One pass of a fresh process, that hands nothing over."""
    return asyncio.run(Pass(parts(bucket, listing)).run(request))


def runs_of(store: MemoryStore) -> int:
    key = next(k for k in store._objects if k.startswith(keys.checkpoint_prefix(keys.home("p"))))
    return len(codec.decode(Checkpoint, store._objects[key].body, key).runs)


LOOKS: dict[str, tuple[Callable[[int], Request], Callable[[int], int], int, int]] = {
    # request, objects there when so many are known, planned, requests at most
    "nobody told anything": (lambda n: Request(names=[]), lambda n: n, 0, 7),
    "nothing new where keys grow": (lambda n: Request(growing=True), lambda n: n, 0, 10),
    "three new where keys grow": (lambda n: Request(growing=True), lambda n: n + 3, 3, 14),
    "notices of three new ones": (
        lambda n: Request(names=[name(i) for i in range(n, n + 3)]),
        lambda n: n + 3,
        3,
        14,
    ),
    "notices of three known ones": (
        lambda n: Request(names=[name(i) for i in range(5, 8)]),
        lambda n: n,
        0,
        12,
    ),
}


@pytest.mark.parametrize("case", LOOKS)
def test_a_pass_asks_as_much_however_much_is_known(
    case: str, buckets: dict[int, MemoryStore]
) -> None:
    request, there, planned, most = LOOKS[case]
    asked: dict[int, Counter[str]] = {}
    for n, store in buckets.items():
        bucket = Virtual(copy(store), there(n))
        report = look(bucket, request(n))
        assert (report.planned, report.deleted) == (planned, 0)
        asked[n] = bucket.requests
    assert asked[SMALL].total() <= most
    assert asked[LARGE].total() <= asked[SMALL].total() + 1, (
        "one run more at most: there are more levels"
    )


@pytest.mark.parametrize("n", [SMALL, LARGE])
def test_a_whole_listing_reads_each_run_once_and_finds_what_changed(
    n: int, buckets: dict[int, MemoryStore]
) -> None:
    changed = [7, n // 3, n - 1]
    bucket = Virtual(copy(buckets[n]), n + 2, changed=changed)
    report = look(bucket, Request())
    assert (report.listed, report.planned, report.deleted, report.complete) == (n + 2, 5, 0, True)
    commits = sum(key.startswith(keys.log_prefix(keys.home("p"))) for key in bucket.inner._objects)  # type: ignore[attr-defined]
    assert bucket.requests["list"] == n // 1000 + 1 + 1  # and one of checkpoints
    # hint, checkpoint, the entry that is not there yet, floor; each commit is read back, and the
    # floor asked again
    assert bucket.requests["get"] == runs_of(bucket.inner) + 4 + 2 * commits  # type: ignore[arg-type]
    assert bucket.requests["put"] == commits

    async def replaced() -> list[str | None]:
        state = await Log(bucket, "p", clock=WallClock(), policy=Policy()).load()
        return [output for task in state.tasks.values() for output in task.inputs.replaces]

    found = asyncio.run(replaced())
    assert found.count(None) == 2
    assert keys.output_id(keys.task_id(1, n // 3 // TASK_FILES), "n") in found


def test_a_whole_listing_without_anything_new_writes_nothing(
    buckets: dict[int, MemoryStore],
) -> None:
    bucket = Virtual(copy(buckets[SMALL]), SMALL)
    assert look(bucket, Request()).complete
    assert not bucket.requests["put"]


def test_late_keys_are_for_a_whole_listing(buckets: dict[int, MemoryStore]) -> None:
    """A change far below the last key is not found by listing from there, and is by
    the next sweep.
    """
    bucket = Virtual(copy(buckets[SMALL]), SMALL, changed=[5])
    assert modified_us(5) < modified_us(SMALL)
    assert look(bucket, Request(growing=True)).planned == 0
    assert look(bucket, Request()).planned == 1
