"""The side of a container on Modal: takes orders for one transform, runs the attempts, leaves
receipts or notes in the bucket.

Functions run in a child process, as on one's own machine: a call beyond its time, or a crash, costs
the file at hand and not the container. Classes keep their state in this process (a model on a GPU,
say); there a watch ends the whole process, after leaving a note. What is read and written around an
attempt is the journal's business (`work/order_journal.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pipeline.errors import SettingsError, StateInvalid, is_outage
from pipeline.model.loss import Loss
from pipeline.model.receipt import Receipt
from pipeline.model.task import Assignment
from pipeline.ports import Finished
from pipeline.work.order_journal import OrderJournal
from pipeline.work.orders import Answer, decode_order, encode

T = TypeVar("T")

EXIT_OVERTIME = 75


class AttemptRunner(Protocol):
    """Runs attempts, several together where batches are shared."""

    def run(self, assignments: Sequence[Assignment]) -> list[Finished]:
        """How each ended. Raises SettingsError if the code cannot be loaded."""
        ...


@dataclass(frozen=True, slots=True)
class OrderRunner:
    """One container's work for one transform of one pipeline."""

    journal: OrderJournal
    attempts: AttemptRunner
    settled: Callable[[list[str]], None] = lambda tasks: None
    """Told which tasks have a receipt now, so that they can be committed soon.

    May fail: a pass settles them all the same.
    """

    def run(self, texts: Sequence[str]) -> list[str]:
        """Execute orders; an answer for each, in their order.

        Whatever happens to one is no matter of the others.
        """
        ready, answers, awaited = self._begin(texts)
        for i, finished in zip(ready, self._work(list(ready.values())), strict=True):
            answers[i] = now(self.journal.end(ready[i], finished))
        self._tell_settled(
            [ready[i].task.id for i in ready if answers[i].loss is None and i not in awaited]
        )
        return [encode(answers[i]) for i in range(len(texts))]

    def _tell_settled(self, tasks: list[str]) -> None:
        if tasks:
            with contextlib.suppress(Exception):
                self.settled(tasks)

    def _begin(
        self, texts: Sequence[str]
    ) -> tuple[dict[int, Assignment], dict[int, Answer], set[int]]:
        """By position: what is to be run, the answers where nothing is, and who is waited for."""
        ready: dict[int, Assignment] = {}
        answers: dict[int, Answer] = {}
        awaited: set[int] = set()
        for i, text in enumerate(texts):
            found, is_awaited = self._begun(text)
            if isinstance(found, Answer):
                answers[i] = found
            else:
                ready[i] = found
            if is_awaited:
                awaited.add(i)
        return ready, answers, awaited

    def _begun(self, text: str) -> tuple[Assignment | Answer, bool]:
        """What is to be run, or why nothing is; and whether the answer is waited for."""
        try:
            order = decode_order(text)
        except StateInvalid as error:
            return Answer(task="", loss=Loss(reason=str(error), innocent=True)), False
        return now(self.journal.begin(order)), order.awaited

    def _work(self, assignments: list[Assignment]) -> list[Finished]:
        if not assignments:
            return []
        try:
            return self.attempts.run(assignments)
        except SettingsError as error:
            loss = Loss(reason=str(error), innocent=True)
            return [
                Finished(task=a.task.id, nonce=a.nonce, loss=loss, broken=True) for a in assignments
            ]


def now(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine from synchronous code, on the loop that this process keeps for that."""
    return asyncio.run_coroutine_threadsafe(work, _loop()).result()


_LOOP: list[asyncio.AbstractEventLoop] = []


def _loop() -> asyncio.AbstractEventLoop:
    """One loop in a thread of its own: the engine's runtime has others, and user code may block
    this thread.
    """
    if not _LOOP:
        _LOOP.append(asyncio.new_event_loop())
        threading.Thread(target=_LOOP[0].run_forever, name="tidemill-io", daemon=True).start()
    return _LOOP[0]


class AttemptExecutor(Protocol):
    """The part of an executor that attempts in a child process need."""

    async def dispatch(self, assignments: Sequence[Assignment]) -> None: ...
    async def finished(self) -> list[Finished]: ...
    async def close(self) -> None: ...


class InChildProcess:
    """Attempts in a child process that is replaced when it dies or takes too long."""

    def __init__(self, make: Callable[[], AttemptExecutor]) -> None:
        self._make = make
        self._executor: AttemptExecutor | None = None

    def run(self, assignments: Sequence[Assignment]) -> list[Finished]:
        """One after the other."""
        try:
            ended = {f.nonce: f for f in now(self._run(assignments))}
        except BaseException:
            # the code cannot be loaded, or the engine interrupts: the child must not go on by
            # itself
            self.close()
            raise
        return [ended[a.nonce] for a in assignments]

    async def _run(self, assignments: Sequence[Assignment]) -> list[Finished]:
        if self._executor is None:
            self._executor = self._make()
        await self._executor.dispatch(assignments)
        done: list[Finished] = []
        while len(done) < len(assignments):
            done += await self._executor.finished()
        return done

    def close(self) -> None:
        """End the child."""
        executor, self._executor = self._executor, None
        if executor is not None:
            now(executor.close())


class AttemptsTogether(Protocol):
    """Runs attempts of one transform as one, in this process (see `worker.Worker.run_together`)."""

    def run_together(
        self, assignments: Sequence[Assignment], starting: Callable[[int], None]
    ) -> Sequence[Receipt | Exception]: ...


class InThisProcess:
    """Attempts in this process, whose code keeps state.

    A call beyond `timeout_s` ends the process, after a note is left.
    """

    def __init__(
        self, worker: AttemptsTogether, journal: OrderJournal, *, timeout_s: float
    ) -> None:
        self._worker = worker
        self._journal = journal
        self._timeout_s = timeout_s
        self._at: tuple[int, float] | None = None

    def run(self, assignments: Sequence[Assignment]) -> list[Finished]:
        """All of them as one, in shared batches."""
        over = threading.Event()
        threading.Thread(target=self._watch, args=(list(assignments), over), daemon=True).start()
        try:
            results = self._worker.run_together(assignments, self._starting)
        finally:
            over.set()
            self._at = None
        return [
            Finished(task=a.task.id, nonce=a.nonce, receipt=result)
            if isinstance(result, Receipt)
            else Finished(
                task=a.task.id,
                nonce=a.nonce,
                loss=Loss(reason=str(result), innocent=is_outage(result)),
            )
            for a, result in zip(assignments, results, strict=True)
        ]

    def _starting(self, position: int) -> None:
        self._at = (position, time.monotonic())

    def _watch(self, assignments: list[Assignment], over: threading.Event) -> None:
        while not over.wait(min(self._timeout_s / 4, 1.0)):
            at = self._at
            if at is not None and time.monotonic() - at[1] > self._timeout_s:
                self._give_up(assignments)

    def _give_up(self, assignments: list[Assignment]) -> None:
        """Which object of a batch is to blame is not known; alone in its task, it is.

        The engine replaces this process.
        """
        reason = f"time limit: one call took longer than {self._timeout_s:g} s (timeout_s)"
        for assignment in assignments:
            task, nonce = assignment.task.id, assignment.nonce
            lost = Finished(task=task, nonce=nonce, loss=Loss(reason=reason))
            with contextlib.suppress(Exception):
                now(self._journal.end(assignment, lost))
        os._exit(EXIT_OVERTIME)
