"""Attempts run as one: small tasks fill the batches of the code together, and what becomes of one
is no matter of the others.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import (
    KeyUnsupported,
    ObjectNotFound,
    SourceChanged,
    StoreDenied,
    StoreUnavailable,
)
from pipeline.model import keys
from pipeline.model.receipt import OutputFile, Receipt
from pipeline.model.task import Assignment, Inputs
from pipeline.ports import Content
from pipeline.state import codec
from pipeline.testing.memory_store import MemoryStore
from pipeline.work.contents import BytesContent
from pipeline.work.object import Object
from pipeline.work.worker import AttemptLost, Code, CodeBroken, Worker
from tests.support.builders import inputs_of, task_of

HOME = keys.home("p")


class Clock:
    """Time that passes only while the code is called: `call_s` for each call."""

    def __init__(self) -> None:
        self.s = 0.0

    def now_ms(self) -> int:
        return 0

    def monotonic_s(self) -> float:
        return self.s

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a worker waits for nothing")


class Contents:
    """Each object's bytes are its key; some are away."""

    mounted = False

    def __init__(self) -> None:
        self.away: dict[str, Exception] = {}
        self.instead: dict[str, Content] = {}
        self.expected: list[str] = []

    def expect(self, inputs: Inputs) -> None:
        self.expected = inputs.keys

    async def open(self, key: str, etag: str, size_bytes: int, modified_us: int) -> Content:
        error = self.away.get(key)
        if isinstance(error, ObjectNotFound | SourceChanged):
            return BytesContent(b"", error)
        if error is not None:
            raise error
        return self.instead.get(key) or BytesContent(key.encode())


class Written:
    """One finished file."""

    path = None

    def __init__(self, key: str, body: bytes) -> None:
        self.body = body
        self.file = OutputFile(
            table="rows",
            key=key,
            size_bytes=len(body),
            rows=1,
            partition={},
            schema_id="",
            sha256="",
        )


class Rows:
    """A writer that keeps results by input."""

    def __init__(self, assignment: Assignment) -> None:
        self.output = f"out/{keys.output_id(assignment.task.id, assignment.nonce)}.0.parquet"
        self.results: dict[int, Any] = {}
        self.rejections: dict[int, Any] = {}
        self.problems: dict[int, str] = {}
        self.broken: dict[str, int] = {}
        self.schema = None
        self.closed = False

    def add(self, index: int, key: str, etag: str, result: Any, rejected: Any = ()) -> None:
        self.results[index] = list(result)
        self.rejections[index] = list(rejected)

    def finish(self) -> Any:
        return self

    @property
    def rows(self) -> dict[int, int]:
        return {i: len(rows) for i, rows in self.results.items()}

    @property
    def rejected(self) -> dict[int, int]:
        return {i: len(rows) for i, rows in self.rejections.items()}

    @property
    def files(self) -> list[Written]:
        return [Written(self.output, repr(self.results).encode())] if self.results else []

    def close(self) -> None:
        self.closed = True


class Shop:
    """A worker with one transform, and what was done with it."""

    def __init__(
        self, batch_size: int | None, call: Callable[[list[Object]], object] | None = None
    ) -> None:
        self.store: Any = MemoryStore()
        self.clock, self.contents = Clock(), Contents()
        self.call_s = 0.0
        self.batches: list[list[str]] = []
        self.writers: dict[str, Rows] = {}
        self.started: list[int] = []
        self.budget_s = 60.0
        self.batch_size = batch_size
        self.safe_to_rerun = True
        self._call = call or (lambda objects: [[o.key] for o in objects])

    def call(self, objects: Any) -> object:
        several = objects if isinstance(objects, list) else [objects]
        self.batches.append([o.key for o in several])
        self.clock.s += self.call_s
        found = self._call(several)
        return found if isinstance(objects, list) or not isinstance(found, list) else found[0]

    def code(self, name: str) -> Code | None:
        return Code(self.call, self.batch_size, self.safe_to_rerun) if name == "f" else None

    def writer(self, assignment: Assignment) -> Rows:
        made = self.writers[assignment.task.id] = Rows(assignment)
        return made

    def run(self, *assignments: Assignment) -> list[Any]:
        worker = Worker(
            store=self.store,
            contents=self.contents,
            home=HOME,
            code=self.code,
            make_writer=self.writer,
            clock=self.clock,
            budget_s=self.budget_s,
        )
        try:
            return asyncio.run(worker.run_together(assignments, self.started.append))
        finally:
            assert all(writer.closed for writer in self.writers.values()), (
                "a writer holds files open"
            )


def attempt(number: int, *names: str, transform: str = "f") -> Assignment:
    task = task_of(keys.task_id(number, 0), inputs_of(*names), transform=transform)
    return Assignment(pipeline="p", task=task, nonce=f"n{number}", schema=None)


def statuses(receipt: Receipt) -> dict[int, str]:
    return {p.index: p.status for p in receipt.problems}


# -- filling batches -------------------------------------------------------------------------------


def test_batches_are_filled_across_attempts_and_each_gets_its_own_results() -> None:
    shop = Shop(4)
    one, two, three = shop.run(attempt(1, "a"), attempt(2, "b", "c", "d", "e"), attempt(3, "f"))
    assert shop.batches == [["a", "b", "c", "d"], ["e", "f"]]
    assert [r.rows for r in (one, two, three)] == [[1], [1, 1, 1, 1], [1]]
    assert {id: w.results for id, w in shop.writers.items()} == {
        keys.task_id(1, 0): {0: ["a"]},
        keys.task_id(2, 0): {0: ["b"], 1: ["c"], 2: ["d"], 3: ["e"]},
        keys.task_id(3, 0): {0: ["f"]},
    }
    assert shop.started == list(range(6)), "counted over all attempts"
    assert shop.contents.expected == list("abcdef"), "so that they can be fetched ahead"


def test_each_attempt_leaves_outputs_and_a_receipt_of_its_own() -> None:
    shop = Shop(4)
    receipts = shop.run(attempt(1, "a"), attempt(2, "b"))
    for i, receipt in enumerate(receipts, 1):
        key = keys.receipt(HOME, keys.task_id(i, 0), f"n{i}")
        assert codec.decode(Receipt, shop.store._objects[key].body, key) == receipt
        assert [f.key for f in receipt.files] == [f"out/{keys.task_id(i, 0)}.n{i}.0.parquet"]
    assert len(shop.store._objects) == 4


sizes = st.lists(st.integers(1, 7), min_size=1, max_size=6)


@given(sizes, st.integers(1, 9))
def test_the_fill_of_batches_is_that_of_the_calls(sizes: list[int], batch_size: int) -> None:
    shop = Shop(batch_size)
    receipts = shop.run(
        *(attempt(i, *(f"{i}.{j}" for j in range(n))) for i, n in enumerate(sizes, 1))
    )
    assert [key for batch in shop.batches for key in batch] == [
        f"{i}.{j}" for i, n in enumerate(sizes, 1) for j in range(n)
    ]
    assert all(len(batch) == batch_size for batch in shop.batches[:-1])
    assert sum(r.slots for r in receipts) == pytest.approx(batch_size * len(shop.batches), abs=1e-3)
    assert [sum(r.rows) for r in receipts] == sizes


def test_slots_are_shared_by_who_was_in_the_batch() -> None:
    one, two = Shop(4).run(attempt(1, "a"), attempt(2, "b"))
    assert (one.slots, two.slots) == (2.0, 2.0)
    one, two = Shop(4).run(attempt(1, "a", "b", "c"), attempt(2, "d", "e"))
    assert (one.slots, two.slots) == (3.0, 1.0 + 4.0)


def test_without_batches_there_are_no_slots_and_one_object_a_call() -> None:
    shop = Shop(None)
    receipts = shop.run(attempt(1, "a", "b"), attempt(2, "c"))
    assert shop.batches == [["a"], ["b"], ["c"]]
    assert [(r.slots, r.rows) for r in receipts] == [(0.0, [1, 1]), (0.0, [1])]


def test_seconds_are_shared_by_the_number_of_objects() -> None:
    shop = Shop(2)
    shop.call_s = 3.0
    one, two = shop.run(attempt(1, "a"), attempt(2, "b", "c", "d"))
    assert (one.seconds, two.seconds) == (1.5, 4.5), "two calls of 3 s for four objects"


# -- what goes wrong -------------------------------------------------------------------------------


UNREADABLE = [StoreUnavailable("slow down"), StoreDenied("no right to read b")]


@pytest.mark.parametrize("error", UNREADABLE)
def test_an_input_that_the_store_does_not_give_waits_and_stops_no_other(error: Exception) -> None:
    shop = Shop(2)
    shop.contents.away["b"] = error
    one, two, three = shop.run(attempt(1, "a"), attempt(2, "b", "c"), attempt(3, "d"))
    assert (one.rows, two.rows, three.rows) == ([1], [0, 1], [1])
    assert statuses(two) == {0: "deferred"}
    assert str(error) in two.problems[0].reason


@pytest.mark.parametrize("error", UNREADABLE)
def test_an_attempt_whose_every_input_is_away_is_lost_and_loses_no_other(error: Exception) -> None:
    shop = Shop(2)
    shop.contents.away["b"] = error
    one, two, three = shop.run(attempt(1, "a"), attempt(2, "b"), attempt(3, "d"))
    assert (one.rows, three.rows) == ([1], [1])
    assert two is error
    assert [key for batch in shop.batches for key in batch] == ["a", "d"], (
        "nothing more is done for what is lost"
    )
    assert keys.receipt(HOME, keys.task_id(2, 0), "n2") not in shop.store._objects


def test_an_attempt_asks_a_store_that_is_away_only_a_few_times() -> None:
    shop = Shop(None)
    names = [f"k{i}" for i in range(9)]
    shop.contents.away |= dict.fromkeys(names[1:], StoreUnavailable("slow down"))
    [found] = shop.run(attempt(1, *names))
    assert (found.rows, statuses(found)) == ([1] + [0] * 8, dict.fromkeys(range(1, 9), "deferred"))
    assert [bool(p.reason) for p in found.problems] == [True] * 3 + [False] * 5, (
        "the rest is put off without a request"
    )


def no_space(objects: list[Object]) -> object:
    if objects[0].key == "b":
        raise OSError(errno.ENOSPC, "No space left on device")
    return [[o.key] for o in objects]


def test_a_full_disk_under_user_code_condemns_no_input() -> None:
    [found] = Shop(None, no_space).run(attempt(1, "a", "b", "c"))
    assert (found.rows, statuses(found)) == ([1, 0, 1], {1: "deferred"})
    [lost] = Shop(None, no_space).run(attempt(1, "b"))
    assert isinstance(lost, AttemptLost), "alone it may be the input's own fault, so it counts"


def read_it(objects: list[Object]) -> object:
    return [[o.read().decode()] for o in objects]


class Broken(BytesContent):
    """Content that ends in the middle."""

    def read(self) -> bytes:
        self._problem = StoreUnavailable("connection reset")
        raise self._problem


@pytest.mark.parametrize("safe", [True, False])
def test_what_must_not_run_twice_fails_where_its_input_broke_off(safe: bool) -> None:
    shop = Shop(None, read_it)
    shop.safe_to_rerun = safe
    shop.contents.instead["b"] = Broken(b"")
    [found] = shop.run(attempt(1, "a", "b"))
    assert statuses(found) == {1: "deferred" if safe else "failed"}
    assert "connection reset" in found.problems[0].reason


@pytest.mark.parametrize(("safe", "kind"), [(True, StoreUnavailable), (False, AttemptLost)])
def test_an_outage_while_writing_is_nobodys_fault_but_code_that_must_not_run_twice_has_run(
    safe: bool, kind: type
) -> None:
    shop = Shop(None)
    shop.safe_to_rerun, shop.store = safe, Full("out/", StoreUnavailable("full"))
    [lost] = shop.run(attempt(1, "a"))
    assert type(lost) is kind


class Full(MemoryStore):
    """A store that does not take what has one name."""

    def __init__(self, part: str, error: Exception) -> None:
        super().__init__()
        self.part, self.error = part, error

    async def put(self, key: str, body: bytes, **options: Any) -> None:
        if self.part in key:
            raise self.error
        await super().put(key, body, **options)


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("timed out"), StoreDenied("no right to write"), KeyUnsupported("too long")],
)
@pytest.mark.parametrize("part", [f"out/{keys.task_id(1, 0)}", f"receipts/{keys.task_id(1, 0)}"])
def test_an_attempt_that_is_lost_while_writing_loses_no_other(part: str, error: Exception) -> None:
    shop = Shop(4)
    shop.store = Full(part, error)
    one, two = shop.run(attempt(1, "a"), attempt(2, "b"))
    assert (one, two.rows) == (error, [1])
    assert not any(keys.task_id(1, 0) in key and "/receipts/" in key for key in shop.store._objects)


def test_stale_and_gone_objects_leave_their_place_in_the_batch() -> None:
    shop = Shop(4)
    shop.contents.away = {"b": SourceChanged("b"), "c": ObjectNotFound("c")}
    one, two = shop.run(attempt(1, "a", "b"), attempt(2, "c", "d"))
    assert shop.batches == [["a", "d"]]
    assert (statuses(one), statuses(two)) == ({1: "stale"}, {0: "gone"})
    assert (one.rows, two.rows, one.slots) == ([1, 0], [0, 1], 2.0)


def test_a_batch_of_which_nothing_is_left_is_no_call() -> None:
    shop = Shop(2)
    shop.contents.away = {"a": ObjectNotFound("a"), "b": ObjectNotFound("b")}
    [receipt] = shop.run(attempt(1, "a", "b"))
    assert (shop.batches, statuses(receipt), receipt.slots) == ([], {0: "gone", 1: "gone"}, 0.0)


@pytest.mark.parametrize("error", [ValueError("poison"), SystemExit(3)])
def test_a_batch_that_raises_is_tried_one_by_one_so_that_only_the_guilty_fail(
    error: BaseException,
) -> None:
    def call(objects: list[Object]) -> list[list[str]]:
        for one in objects:
            one.reject({"key": one.key}, "seen")
        if any(one.key == "c" for one in objects):
            raise error
        return [[one.key] for one in objects]

    shop = Shop(4, call)
    one, two, three = shop.run(attempt(1, "a"), attempt(2, "b", "c"), attempt(3, "d"))
    assert shop.batches == [["a", "b", "c", "d"], ["a"], ["b"], ["c"], ["d"]]
    assert [statuses(r) for r in (one, two, three)] == [{}, {1: "failed"}, {}]
    assert [r.rows for r in (one, two, three)] == [[1], [1, 0], [1]]
    assert [r.rejected for r in (one, two, three)] == [[1], [1, 0], [1]], (
        "what the first call rejected is not counted twice"
    )
    assert type(error).__name__ in two.problems[0].reason
    assert "call" in two.problems[0].detail, "the traceback in the user's code"
    assert sum(r.slots for r in (one, two, three)) == 4.0, "the batch was full"


@pytest.mark.parametrize(
    ("result", "came"),
    [
        (lambda objects: [[1]] * (len(objects) - 1), "2 results"),
        (lambda objects: [[1]] * (len(objects) + 1), "4 results"),
        (lambda objects: None, "NoneType"),
        (lambda objects: {"a": 1}, "dict"),
        (lambda objects: ([1] for _ in objects), "generator"),
        (lambda objects: "abc", "str"),
    ],
)
def test_a_batch_with_another_number_of_results_fails_whole_for_whose_they_are_is_not_known(
    result: Callable[[Sequence[Object]], object], came: str
) -> None:
    shop = Shop(3, result)
    one, two, after = shop.run(attempt(1, "a"), attempt(2, "b", "c"), attempt(3, "d"))
    assert [statuses(r) for r in (one, two)] == [{0: "failed"}, {0: "failed", 1: "failed"}]
    assert came in one.problems[0].reason
    assert "for 3 objects" in one.problems[0].reason
    assert statuses(after) == {0: "failed"}, "a batch of one is wrong as well"


@pytest.mark.parametrize("kind", [list, tuple])
def test_results_come_as_a_list_or_a_tuple(kind: type) -> None:
    [receipt] = Shop(2, lambda objects: kind([[1], [2]])).run(attempt(1, "a", "b"))
    assert receipt.rows == [1, 1]


def test_out_of_memory_says_nothing_about_any_input() -> None:
    def call(objects: list[Object]) -> object:
        raise MemoryError

    shop = Shop(None, call)
    results = shop.run(attempt(1, "a"), attempt(2, "b"))
    assert [type(r) for r in results] == [AttemptLost, AttemptLost]
    assert shop.store._objects == {}


def test_code_that_cannot_be_loaded_ends_the_call() -> None:
    shop = Shop(2)

    def broken(name: str) -> Code | None:
        raise CodeBroken("no module named torch")

    shop.code = broken  # type: ignore[method-assign]
    with pytest.raises(CodeBroken):
        shop.run(attempt(1, "a"))
    assert shop.store._objects == {}


def test_a_transform_that_is_not_declared_here_loses_the_attempts() -> None:
    results = Shop(2).run(attempt(1, "a", transform="g"), attempt(2, "b", transform="g"))
    assert all(isinstance(r, AttemptLost) and "'g'" in str(r) for r in results)


# -- the time of an attempt ------------------------------------------------------------------------


def test_what_the_time_does_not_allow_is_deferred_in_all_attempts() -> None:
    shop = Shop(2)
    shop.call_s, shop.budget_s = 10.0, 15.0
    one, two, three = shop.run(attempt(1, "a"), attempt(2, "b", "c", "d", "e"), attempt(3, "f"))
    assert shop.batches == [["a", "b"], ["c", "d"]], (
        "the call during which the time ran out was finished"
    )
    assert [statuses(r) for r in (one, two, three)] == [{}, {3: "deferred"}, {0: "deferred"}]
    assert [r.rows for r in (one, two, three)] == [[1], [1, 1, 1, 0], [0]]


@given(sizes, st.integers(1, 4), st.integers(1, 5))
def test_every_input_is_either_done_or_deferred_and_some_are_done(
    sizes: list[int], batch_size: int, calls: int
) -> None:
    shop = Shop(batch_size)
    shop.call_s, shop.budget_s = 10.0, 10.0 * calls - 5.0
    receipts = shop.run(
        *(attempt(i, *(f"{i}.{j}" for j in range(n))) for i, n in enumerate(sizes, 1))
    )
    done = [key for batch in shop.batches for key in batch]
    for receipt, n, i in zip(receipts, sizes, range(1, len(sizes) + 1), strict=True):
        assert [f"{i}.{j}" in done for j in range(n)] == [
            statuses(receipt).get(j) != "deferred" for j in range(n)
        ]
        assert receipt.rows == [int(f"{i}.{j}" in done) for j in range(n)]
    assert len(shop.batches) == min(calls, -(-sum(sizes) // batch_size))


def test_the_first_call_is_made_however_late_it_is() -> None:
    shop = Shop(2)
    shop.budget_s = -1.0
    [receipt] = shop.run(attempt(1, "a", "b", "c"))
    assert statuses(receipt) == {2: "deferred"}
