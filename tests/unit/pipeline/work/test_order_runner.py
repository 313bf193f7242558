"""A container's side: orders come twice, late, or after a death; code breaks, hangs and dies.

Each order has its answer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from pipeline.deploy.container import StoreBox
from pipeline.errors import StoreUnavailable
from pipeline.executors.local.executor import Limits, LocalExecutor
from pipeline.model import keys
from pipeline.model.commit import FORMAT_VERSION
from pipeline.model.loss import Loss
from pipeline.model.receipt import LossNote, Receipt, SourceProblem
from pipeline.model.task import Assignment
from pipeline.ports import Finished
from pipeline.state import codec
from pipeline.testing.memory_store import MemoryStore
from pipeline.work import orders
from pipeline.work.order_journal import OrderJournal
from pipeline.work.order_runner import (
    EXIT_OVERTIME,
    AttemptRunner,
    InChildProcess,
    InThisProcess,
    OrderRunner,
    now,
)
from pipeline.work.orders import INLINE_BYTES, Answer, Order, decode_answer, encode, order_for
from pipeline.work.worker import AttemptLost, CodeBroken
from tests.support.builders import inputs_of, loss_of, task_of
from tests.support.helpers import ROOT

HOME = keys.home("p")
DEADLINE_MS = 1_000


def assignment(number: int = 1, *names: str, dispatch: int = 1, nonce: str = "") -> Assignment:
    inputs = inputs_of(*names or ("up/a",))
    task = task_of(keys.task_id(number, 0), inputs, attempt=dispatch, deadline_ms=DEADLINE_MS)
    return Assignment(pipeline="p", task=task, nonce=nonce or f"planned{number}", schema=None)


def receipt(of: Assignment, *problems: SourceProblem) -> Receipt:
    n = len(of.task.inputs)
    return Receipt(
        format=FORMAT_VERSION,
        task=of.task.id,
        nonce=of.nonce,
        version="v",
        rows=[2] * n,
        rejected=[0] * n,
        problems=list(problems),
        files=[],
        schema=None,
        seconds=1.5,
        bytes_read=1,
    )


def done(of: Assignment) -> Finished:
    return Finished(task=of.task.id, nonce=of.nonce, receipt=receipt(of))


def lost(of: Assignment, reason: str = "it died", **options: Any) -> Finished:
    loss = Loss(reason=reason, **options)
    return Finished(task=of.task.id, nonce=of.nonce, loss=loss)


class Clock:
    """A clock that stands, until it is set."""

    def __init__(self) -> None:
        self.ms = 0

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1000

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a journal waits for nothing")


class Serial:
    """Nonces in order."""

    def __init__(self) -> None:
        self.n = 0

    def nonce(self) -> str:
        self.n += 1
        return f"n{self.n}"


class Works:
    """Attempts that end as they are told, task by task, and remembers what it was given."""

    def __init__(self, how: Callable[[Assignment], Finished] = done) -> None:
        self.how = how
        self.ran: list[Assignment] = []
        self.calls: list[int] = []

    def run(self, assignments: Sequence[Assignment]) -> list[Finished]:
        self.calls.append(len(assignments))
        self.ran += assignments
        return [self.how(one) for one in assignments]


class Place:
    """An order runner with its box in memory."""

    def __init__(self, attempts: AttemptRunner | None = None) -> None:
        self.store = MemoryStore()
        self.clock = Clock()
        self.attempts: Any = attempts or Works()
        self.reported: list[list[str]] = []
        journal = OrderJournal("p", StoreBox(self.store), self.clock, Serial())
        self.order_runner = OrderRunner(journal, self.attempts, self.reported.append)

    def run(self, *texts: str | Order | Assignment) -> list[Answer]:
        texts = tuple(order_for(t, HOME)[0] if isinstance(t, Assignment) else t for t in texts)
        answers = self.order_runner.run([t if isinstance(t, str) else encode(t) for t in texts])
        found = [decode_answer(answer) for answer in answers]
        assert all(answer is not None for answer in found)
        return [answer for answer in found if answer is not None]

    def names(self) -> list[str]:
        return sorted(self.store._objects)

    def put(self, key: str, body: bytes) -> None:
        now(self.store.put(key, body))

    def note(self, of: Assignment) -> LossNote | None:
        key = keys.loss_note(HOME, of.task.id, of.task.dispatch)
        [stored] = now(self.store.get_many([key]))  # type: ignore[arg-type]
        return None if stored is None else codec.decode(LossNote, stored.body, key)


@pytest.fixture
def place() -> Place:
    return Place()


# -- an order --------------------------------------------------------------------------------------


def test_an_order_is_executed_and_answered_with_the_receipts_figures(place: Place) -> None:
    place.attempts.how = lambda a: Finished(
        task=a.task.id,
        nonce=a.nonce,
        receipt=receipt(
            a, SourceProblem(index=0, status="failed"), SourceProblem(index=1, status="gone")
        ),
    )
    [answer] = place.run(assignment(1, "up/a", "up/b"))
    assert answer == Answer(
        task=keys.task_id(1, 0), nonce="n1", sources=2, rows=4, failed=1, seconds=1.5
    )


def test_the_beginning_is_noted_before_user_code_runs(place: Place) -> None:
    seen: list[list[str]] = []

    def look(a: Assignment) -> Finished:
        seen.append(place.names())
        return done(a)

    place.attempts.how = look
    place.run(assignment(1, dispatch=4))
    assert seen == [[keys.began(HOME, keys.task_id(1, 0), 4)]]


def test_each_execution_takes_a_nonce_of_its_own(place: Place) -> None:
    """Else two of them would write the same files."""
    answers = [*place.run(assignment()), *place.run(assignment(), assignment())]
    assert [a.nonce for a in answers] == ["n1", "n2", "n3"]
    assert [a.nonce for a in place.attempts.ran] == ["n1", "n2", "n3"]


def test_an_order_that_comes_after_its_deadline_is_not_begun(place: Place) -> None:
    place.clock.ms = DEADLINE_MS
    assert not loss_of(place.run(assignment())[0]).reason
    place.clock.ms = DEADLINE_MS + 1
    [late] = place.run(assignment(2))
    assert (loss_of(late).innocent, late.nonce) == (True, "")
    assert "deadline" in loss_of(late).reason
    assert [a.task.id for a in place.attempts.ran] == [keys.task_id(1, 0)]
    assert place.names() == [keys.began(HOME, keys.task_id(1, 0), 1)], "and nothing is noted of it"


# -- stored assignments ----------------------------------------------------------------------------


def large() -> tuple[Assignment, Order, bytes]:
    made = assignment(1, *(f"up/{i:0100}" for i in range(100)))
    order, body = order_for(made, HOME)
    assert body is not None
    return made, order, body


def test_a_long_assignment_is_read_from_the_bucket(place: Place) -> None:
    made, order, body = large()
    assert len(encode(order)) < INLINE_BYTES
    place.put(order.stored, body)
    [answer] = place.run(order)
    assert (loss_of(answer).reason, answer.sources) == ("", 100)
    assert place.attempts.ran == [msgspec.structs.replace(made, nonce="n1")]


def test_a_stored_assignment_that_is_not_there_any_more_means_that_the_task_is_over(
    place: Place,
) -> None:
    [answer] = place.run(large()[1])
    assert (loss_of(answer).innocent, answer.task) == (True, keys.task_id(1, 0))
    assert "the task is over" in loss_of(answer).reason
    assert (place.attempts.ran, place.names()) == ([], [])


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-5], lambda b: b"", lambda b: b"{}", lambda b: b"\xff" + b, lambda b: b"[1]"],
)
def test_a_damaged_assignment_is_lost_innocently(
    place: Place, damage: Callable[[bytes], bytes]
) -> None:
    _, order, body = large()
    place.put(order.stored, damage(body))
    [answer] = place.run(order)
    assert loss_of(answer).innocent
    assert "damaged or truncated" in loss_of(answer).reason
    assert place.attempts.ran == []


# -- losses ----------------------------------------------------------------------------------------


def test_a_loss_is_noted_in_the_bucket_as_it_was(place: Place) -> None:
    place.attempts.how = lambda a: lost(a, suspect=0, detail="trace")
    [answer] = place.run(assignment(1, dispatch=2))
    assert (
        loss_of(answer).reason,
        loss_of(answer).suspect,
        loss_of(answer).detail,
        loss_of(answer).innocent,
    ) == (
        "it died",
        0,
        "trace",
        False,
    )
    assert place.note(assignment(1, dispatch=2)) == LossNote(
        format=FORMAT_VERSION,
        task=keys.task_id(1, 0),
        dispatch=2,
        reason="it died",
        suspect=0,
        detail="trace",
    )


def test_an_order_whose_loss_is_noted_is_not_run_again_by_the_engine(place: Place) -> None:
    """Modal runs it again after the container ended; the next dispatch is the
    protocol's to decide.
    """
    place.attempts.how = lambda a: lost(a, suspect=0)
    first = place.run(assignment())
    place.attempts.how = done
    assert place.run(assignment()) == first
    assert len(place.attempts.ran) == 1
    [next_dispatch] = place.run(assignment(1, dispatch=2))
    assert (loss_of(next_dispatch).reason, len(place.attempts.ran)) == ("", 2)


def test_a_damaged_loss_note_still_says_that_it_ran_before(place: Place) -> None:
    place.put(keys.loss_note(HOME, keys.task_id(1, 0), 1), b'{"format":')
    [answer] = place.run(assignment())
    assert (loss_of(answer).innocent, place.attempts.ran) == (True, [])


def test_code_that_cannot_be_loaded_is_no_files_fault(place: Place) -> None:
    def broken(a: Assignment) -> Finished:
        raise CodeBroken("transform f cannot be loaded: no module named torch")

    place.attempts.how = broken
    answers = place.run(assignment(1), assignment(2))
    assert [(loss_of(a).innocent, "torch" in loss_of(a).reason) for a in answers] == [
        (True, True)
    ] * 2
    note = place.note(assignment(2))
    assert note is not None
    assert note.innocent


class Unwell(MemoryStore):
    """A store that does not take what goes under some names, or does not answer for them."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part

    async def put(self, key: str, body: bytes, **options: Any) -> None:
        self.check(key)
        await super().put(key, body, **options)

    async def get(self, key: str, **options: Any) -> Any:
        self.check(key)
        return await super().get(key, **options)

    def check(self, key: str) -> None:
        if self.part in key:
            raise StoreUnavailable(f"{key}: timed out")


def place_on(store: MemoryStore) -> Place:
    made = Place()
    made.store = store
    made.order_runner = OrderRunner(
        OrderJournal("p", StoreBox(store), made.clock, Serial()),
        made.attempts,
        made.reported.append,
    )
    return made


@pytest.mark.parametrize("part", [".began", ".lost", "/assignments/"])
def test_an_order_that_cannot_be_noted_as_begun_is_not_run(part: str) -> None:
    place = place_on(Unwell(part))
    [answer] = place.run(large()[1] if part == "/assignments/" else assignment())
    assert (loss_of(answer).innocent, place.attempts.ran) == (True, [])
    assert "timed out" in loss_of(answer).reason


def test_a_loss_is_answered_where_it_cannot_be_noted() -> None:
    store = Unwell("nothing yet")
    place = place_on(store)

    def dies(a: Assignment) -> Finished:
        store.part = ".lost"
        return lost(a)

    place.attempts.how = dies
    assert loss_of(place.run(assignment())[0]).reason == "it died"


# -- several orders in one call --------------------------------------------------------------------


def test_orders_in_one_call_do_not_affect_each_other(place: Place) -> None:
    _, missing, _ = large()
    expired = msgspec.structs.replace(
        assignment(2), task=msgspec.structs.replace(assignment(2).task, deadline_ms=-1)
    )
    place.put(keys.loss_note(HOME, keys.task_id(3, 0), 1), codec.encode(_noted(3)))
    place.attempts.how = lambda a: lost(a) if a.task.id == keys.task_id(5, 0) else done(a)
    texts = [
        "rubbish",
        missing,
        expired,
        assignment(3),
        assignment(4),
        assignment(5),
        "{}",
        assignment(6),
    ]
    answers = place.run(*texts)
    assert [bool(loss_of(a).reason) for a in answers] == [
        True,
        True,
        True,
        True,
        False,
        True,
        True,
        False,
    ]
    assert [a.task for a in answers][3:6] == [keys.task_id(n, 0) for n in (3, 4, 5)]
    assert [loss_of(a).innocent for a in answers if loss_of(a).reason] == [
        True,
        True,
        True,
        False,
        False,
        True,
    ]
    assert place.attempts.calls == [3], "those that can run, run together"
    assert place.reported == [[keys.task_id(4, 0), keys.task_id(6, 0)]]


def _noted(number: int) -> LossNote:
    return LossNote(
        format=FORMAT_VERSION, task=keys.task_id(number, 0), dispatch=1, reason="before"
    )


def test_where_nothing_can_run_the_bench_is_not_asked(place: Place) -> None:
    assert loss_of(place.run("rubbish")[0]).innocent
    assert (place.attempts.calls, place.run()) == ([], [])


# -- telling that there is something to commit -----------------------------------------------------


def test_only_receipts_that_nobody_waits_for_are_told(place: Place) -> None:
    place.attempts.how = lambda a: lost(a) if a.task.id == keys.task_id(2, 0) else done(a)
    awaited, _ = order_for(assignment(3), HOME, awaited=True)
    place.run(assignment(1), assignment(2), awaited)
    assert place.reported == [[keys.task_id(1, 0)]]


@pytest.mark.parametrize("awaited", [True, False])
def test_nothing_is_told_where_there_is_no_receipt_or_somebody_waits(
    place: Place, awaited: bool
) -> None:
    place.attempts.how = done if awaited else lost
    place.run(order_for(assignment(1), HOME, awaited=awaited)[0])
    assert place.reported == []


def test_that_telling_fails_does_not_matter(place: Place) -> None:
    def fails(tasks: list[str]) -> None:
        raise ConnectionError("Modal is away")

    place.order_runner = OrderRunner(place.order_runner.journal, place.attempts, fails)
    assert loss_of(place.run(assignment())[0]).reason == ""


# -- texts -----------------------------------------------------------------------------------------


def test_an_order_carries_its_assignment_only_as_long_as_a_call_takes_it() -> None:
    for n in (1, 10, 20, 40, 60, 80, 200):
        order, body = order_for(assignment(1, *(f"up/{i:0100}" for i in range(n))), HOME)
        assert len(encode(order)) < 8 * 1024
        assert (order.assignment is None) is (body is not None) is (order.stored != "")


@pytest.mark.parametrize(
    "text", [None, 7, b"{}", "", "{}", "[]", '{"task": 7}', '{"task": "t", "rows": "many"}']
)
def test_what_is_no_answer_is_none(text: object) -> None:
    assert decode_answer(text) is None
    assert decode_answer(encode(Answer(task="t", loss=Loss(reason="x")))) == Answer(
        task="t", loss=Loss(reason="x")
    )
    assert orders.decode_order(encode(Order(pipeline="p", task="t", stored="k"))).stored == "k"


# -- a bench in this process -----------------------------------------------------------------------


class AttemptsTogether:
    """A worker that answers as it is told."""

    def __init__(self, how: Callable[[Assignment], Receipt | Exception]) -> None:
        self.how = how
        self.calls: list[int] = []

    def run_together(
        self, assignments: Sequence[Assignment], starting: Callable[[int], None]
    ) -> list[Receipt | Exception]:
        self.calls.append(len(assignments))
        for i in range(len(assignments)):
            starting(i)
        return [self.how(one) for one in assignments]


def test_a_resident_bench_runs_orders_as_one_and_names_the_lost() -> None:
    place = Place()
    worker = AttemptsTogether(
        lambda a: AttemptLost("no store") if a.task.id == keys.task_id(2, 0) else receipt(a)
    )
    place.order_runner = OrderRunner(
        place.order_runner.journal, InThisProcess(worker, place.order_runner.journal, timeout_s=600)
    )
    assert [loss_of(a).reason for a in place.run(assignment(1), assignment(2), assignment(3))] == [
        "",
        "no store",
        "",
    ]
    assert worker.calls == [3]
    note = place.note(assignment(2))
    assert note is not None
    assert not note.innocent


OVERTIME = """
import asyncio, sys, threading
from pathlib import Path
from pipeline.work.order_journal import OrderJournal
from pipeline.deploy.container import StoreBox
from pipeline.work.order_runner import InThisProcess, OrderRunner
from pipeline.stores.local.store import LocalStore
from pipeline.runtime.system import RandomIds, WallClock

class Hangs:
    def run_together(self, assignments, starting):
        starting(0)
        starting(1)
        print("hangs", flush=True)
        threading.Event().wait()

journal = OrderJournal("p", StoreBox(LocalStore(Path(sys.argv[1]))), WallClock(), RandomIds())
OrderRunner(journal, InThisProcess(Hangs(), journal, timeout_s=0.2)).run(sys.argv[2:])
print("came back")
"""


def test_a_call_that_takes_too_long_ends_the_process_after_a_note_for_each_order(
    tmp_path: Path,
) -> None:
    script = tmp_path / "overtime.py"
    script.write_text(textwrap.dedent(OVERTIME))
    made = [assignment(1, "up/a", "up/b"), assignment(2)]
    in_time = [
        msgspec.structs.replace(a, task=msgspec.structs.replace(a.task, deadline_ms=2**53))
        for a in made
    ]
    texts = [encode(order_for(a, HOME)[0]) for a in in_time]
    (tmp_path / "bucket").mkdir()
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "bucket"), *texts],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (EXIT_OVERTIME, "hangs\n"), ended.stderr
    assert EXIT_OVERTIME == 75
    for one in made:
        key = keys.loss_note(HOME, one.task.id, 1)
        note = codec.decode(LossNote, (tmp_path / "bucket" / key).read_bytes(), key)
        assert (note.innocent, note.suspect) == (
            False,
            None,
        ), "which file of the batch it was is not known"
        assert "time limit" in note.reason
        assert "timeout_s" in note.reason


# -- attempts in a child process -------------------------------------------------------------------


def child(spec: str = "", timeout_s: float = 600.0) -> LocalExecutor:
    return LocalExecutor(
        entry="tests.integration.runs.test_executor:Attempts",
        spec=spec.encode(),
        limits={
            "p/t": Limits(timeout_s=timeout_s, memory_mb=None),
            "p/f": Limits(timeout_s=timeout_s, memory_mb=None),
        },
        workers=1,
        fork=False,
    )


@pytest.fixture
def attempts() -> Any:
    made = InChildProcess(child)
    yield made
    made.close()


def engines(ended: Sequence[Finished]) -> list[str]:
    return [f.receipt.engine if f.receipt is not None else loss_of(f).reason for f in ended]


def test_a_dead_child_costs_the_file_at_hand_and_is_replaced(attempts: InChildProcess) -> None:
    [first] = engines(attempts.run([assignment(1, "ok")]))
    [second] = engines(attempts.run([assignment(2, "ok")]))
    assert first == second, "the child is kept"
    assert first != str(os.getpid())
    died, after = attempts.run([assignment(3, "ok", "die", "ok"), assignment(4, "ok")])
    assert (died.receipt, loss_of(died).suspect) == (None, 1)
    assert "exited with code 7" in loss_of(died).reason
    assert after.receipt is not None
    assert after.receipt.engine != first


def test_a_child_that_hangs_is_replaced() -> None:
    attempts = InChildProcess(lambda: child(timeout_s=0.3))
    try:
        hung, after = attempts.run([assignment(1, "hang"), assignment(2, "ok")])
        assert "time limit" in loss_of(hung).reason
        assert after.receipt is not None
    finally:
        attempts.close()


def test_one_task_ordered_twice_in_one_call_has_two_ends(attempts: InChildProcess) -> None:
    """The second dispatch of a task may meet the first in one container."""
    ended = attempts.run(
        [assignment(1, "die", nonce="x"), assignment(1, "ok", nonce="y", dispatch=2)]
    )
    assert [(f.nonce, bool(loss_of(f).reason)) for f in ended] == [("x", True), ("y", False)]


def test_code_that_cannot_be_loaded_ends_the_child_and_is_told_innocently() -> None:
    attempts = InChildProcess(lambda: child("broken"))
    place = Place(attempts)
    assert [
        (loss_of(a).innocent, "no code here" in loss_of(a).reason)
        for a in place.run(assignment(1), assignment(2))
    ] == [(True, True)] * 2
    assert attempts._executor is None
    assert loss_of(place.run(assignment(3))[0]).innocent, "and the next order tries again"


def test_an_interrupted_bench_leaves_no_child_behind() -> None:
    """Modal cancels a call by an exception in its thread: the child must not go on writing by
    itself.
    """
    made: list[LocalExecutor] = []

    class Interrupted(LocalExecutor):
        async def finished(self) -> list[Finished]:
            await super().finished()
            raise asyncio.CancelledError

    def make() -> LocalExecutor:
        made.append(child())
        made[0].__class__ = Interrupted
        return made[0]

    attempts = InChildProcess(make)
    with pytest.raises((asyncio.CancelledError, concurrent.futures.CancelledError)):
        attempts.run([assignment(1, "ok")])
    assert attempts._executor is None
    children = psutil.Process().children(recursive=True)
    assert not [
        p
        for p in children
        if p.is_running()
        and p.status() != psutil.STATUS_ZOMBIE
        and "executors" in " ".join(p.cmdline())
    ]


def test_a_runner_that_ended_is_gone_also_before_anybody_asked_how_it_ended() -> None:
    """In a container nobody may ever ask: its tasks must not wait for their deadline."""
    executor = child()
    try:
        script = (
            "import sys; from tests.unit.pipeline.work.test_order_runner import child;"
            " print(child().owner, flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script], cwd=ROOT, stdin=-1, stdout=-1, text=True
        ) as other:
            assert other.stdout is not None
            owner = other.stdout.readline().strip()
            assert not executor.is_gone(owner)
            other.kill()
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it ended, and is not buried
            assert executor.is_gone(owner)
    finally:
        asyncio.run(executor.close())
