"""What one attempt has to say: each input is opened, given to the user's code, and answered for.

An exception of the user's code is the input's; one of the store or the machine is nobody's, and the
input waits for another attempt.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pipeline.errors import (
    InputRejected,
    ObjectNotFound,
    SourceChanged,
    StoreError,
    TidemillError,
    is_outage,
)
from pipeline.model import keys
from pipeline.model.commit import FORMAT_VERSION
from pipeline.model.receipt import Receipt, SourceProblem, SourceStatus
from pipeline.model.task import Assignment, Task
from pipeline.ports import Content, Outbox
from pipeline.state import codec
from pipeline.tracebacks import describe, one_line, user_traceback
from pipeline.work import printed_output
from pipeline.work.memory_limit import is_out_of_memory
from pipeline.work.object import Object
from pipeline.work.seams import AttemptLost, Calls, Code, Contents, Writer, Written

UNREAD_MAX = 3
"""Inputs in a row that the store does not give, before an attempt stops asking for more."""
MACHINE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})
"""What an OSError in user code says about the machine rather than about the input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What attempts of one pipeline share."""

    store: Outbox
    contents: Contents
    home: str
    calls: Calls
    engine: str


async def call_for(
    code: Code, items: Sequence[tuple[Attempt, int]], first: int, starting: Callable[[int], None]
) -> None:
    """One call of the user's code: for one object, or for a batch."""
    opened: list[Opened] = []
    try:
        for position, (attempt, i) in enumerate(items, first):
            starting(position)
            one = await attempt.open(i)
            if one is not None:
                opened.append(one)
        if code.batch_size is None:
            for one in opened:
                one.attempt.call(code.call, one)
        elif opened:
            _call_batch(code.call, code.batch_size, opened)
    finally:
        for one in opened:
            one.attempt.close(one)


def _call_batch(call: Callable[..., object], batch_size: int, opened: list[Opened]) -> None:
    """One call for many objects; if it raises, one call for each, so that only the guilty ones
    fail.
    """
    for one in opened:
        one.attempt.slots += batch_size / len(opened)
    results = nothing = object()
    with suppress(Exception, SystemExit), opened[0].attempt.means.calls as calls:
        results = calls.settled(call([one.obj for one in opened]))
    # not within a handler: what one object raises is no consequence of another's
    if results is nothing:
        _call_one_by_one(call, opened)
        return
    try:
        results = _only(results, len(opened))
    except InputRejected as error:
        for one in opened:
            one.attempt._answer(one.index, "failed", str(error))
        return
    for one, result in zip(opened, results, strict=True):
        one.attempt.call(lambda _, result=result: result, one)


def _call_one_by_one(call: Callable[..., object], opened: list[Opened]) -> None:
    for one in opened:
        one.obj._rejected.clear()
        settled = one.attempt.means.calls.settled
        one.attempt.call(lambda o, settled=settled: _only(settled(call([o])), 1)[0], one)


@dataclass(frozen=True, slots=True)
class Opened:
    """One input as the user's code gets it."""

    attempt: Attempt
    index: int
    obj: Object
    content: Content


class Attempt:
    """What one attempt has to say so far."""

    def __init__(self, means: Means, assignment: Assignment, writer: Writer) -> None:
        self.means = means
        self.assignment = assignment
        self.task: Task = assignment.task
        self.writer = writer
        self.lost: TidemillError | None = None
        self.safe_to_rerun = True
        self.called: bool = False
        self.answered: int = 0
        self.outage: TidemillError | None = None
        self.unread_in_a_row: int = 0
        self.problems: dict[int, SourceProblem] = {}
        self.unverified: list[int] = []
        self.bytes_read: int = 0
        self.slots: float = 0.0

    async def end(self, seconds: float) -> Receipt | TidemillError:
        """Write the outputs, then the receipt; or say why there is none."""
        try:
            if self.lost is None and not self.answered:
                self.lost = self.outage
            if self.lost is not None:
                return self._loss(self.lost)
            receipt = self._receipt(await self._publish(), seconds)
            await self.means.store.put(self._receipt_key(), codec.encode(receipt))
        except TidemillError as error:
            return self._loss(error)
        except OSError as error:
            return AttemptLost(describe(error))
        return receipt

    def _loss(self, error: TidemillError) -> TidemillError:
        """An outage is nobody's fault, unless code that must not run twice has run."""
        may_rerun = self.safe_to_rerun or not self.called
        return error if may_rerun or not is_outage(error) else AttemptLost(str(error))

    async def open(self, i: int) -> Opened | None:
        """The input, unless it is known already that it is not what was planned."""
        if self.lost is not None:
            return None
        if self.unread_in_a_row >= UNREAD_MAX:
            self.problem(i, "deferred")
            return None
        inputs = self.task.inputs
        key, etag, size, modified_us = (
            inputs.keys[i],
            inputs.etags[i],
            inputs.sizes[i],
            inputs.modified_us[i],
        )
        try:
            content = await self.means.contents.open(key, etag, size, modified_us)
        except StoreError as error:
            self._unread(i, error)
            return None
        problem = content.problem()
        if problem is not None:
            content.close()
            self._unreadable(i, problem)
            return None
        return Opened(self, i, Object(key, etag, size, modified_us, content), content)

    def close(self, one: Opened) -> None:
        """Release the input, once its rows are with the writer."""
        self.bytes_read += one.content.bytes_read
        if one.content.unverified:
            self.unverified.append(one.index)
        one.content.close()

    def call(self, call: Callable[..., object], one: Opened) -> None:
        """Call the user's code for one object; its result goes to the writer, its exception into
        the receipt.
        """
        i, obj, self.called = one.index, one.obj, True
        try:
            with self.means.calls as calls:  # its generators run within the writer
                self.writer.add(i, obj.key, obj.etag, calls.settled(call(obj)), obj._rejected)
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise MemoryError from error
            self._raised(one, error)
            return
        problem = one.content.problem()
        if problem is not None:
            self._unreadable(i, problem, called=True)
        else:
            self._answered()

    def _raised(self, one: Opened, error: BaseException) -> None:
        i, problem = one.index, one.content.problem()
        if problem is not None:
            self._unreadable(i, problem, called=True)
        elif isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
            self._unread(i, AttemptLost(describe(error)), called=True)
        elif isinstance(error, InputRejected):
            self._answer(i, "failed", str(error), _detail())
        else:
            self._answer(i, "failed", describe(error), _detail(user_traceback(error)))

    def _unreadable(self, i: int, problem: Exception, *, called: bool = False) -> None:
        if isinstance(problem, ObjectNotFound):
            self._answer(i, "gone")
        elif isinstance(problem, SourceChanged):
            self._answer(i, "stale")
        elif isinstance(problem, InputRejected):
            self._answer(i, "failed", str(problem))
        elif isinstance(problem, StoreError):
            self._unread(i, problem, called=called)
        else:
            self.lost = AttemptLost(describe(problem))

    def _unread(self, i: int, error: TidemillError, *, called: bool = False) -> None:
        """The store or the machine fails: the input waits for another attempt, and the others have
        their turn.
        """
        if called and not self.safe_to_rerun:
            self._answer(
                i,
                "failed",
                f"{describe(error)}; its code has begun, and is declared safe_to_rerun=False",
            )
            return
        self.problem(i, "deferred", describe(error))
        self.outage = error
        self.unread_in_a_row += 1

    def _answer(self, i: int, status: SourceStatus, reason: str = "", detail: str = "") -> None:
        self.problem(i, status, reason, detail)
        self._answered()

    def _answered(self) -> None:
        self.answered += 1
        self.unread_in_a_row = 0

    def problem(self, i: int, status: SourceStatus, reason: str = "", detail: str = "") -> None:
        """Note that an input is not `ok`."""
        self.problems[i] = SourceProblem(
            index=i, status=status, reason=one_line(reason), detail=detail
        )

    async def _publish(self) -> Written:
        """Write the outputs.

        Rows of inputs that turned out unreadable after `add` are left out by name in the commit.
        """
        written = self.writer.finish()
        for i, reason in written.problems.items():
            if i not in self.problems:
                self.problem(i, "failed", reason)
        for finished in written.files:
            if finished.body is not None:
                await self.means.store.put(finished.file.key, finished.body)
            elif finished.path is not None:
                await self.means.store.put_file(finished.file.key, finished.path)
        return written

    def _receipt_key(self) -> str:
        home = keys.of_generation(self.means.home, self.task.generation)
        return keys.receipt(home, self.task.id, self.assignment.nonce)

    def _receipt(self, written: Written, seconds: float) -> Receipt:
        n = len(self.task.inputs)
        return Receipt(
            format=FORMAT_VERSION,
            task=self.task.id,
            nonce=self.assignment.nonce,
            version=self.task.version,
            rows=[written.rows.get(i, 0) for i in range(n)],
            rejected=[written.rejected.get(i, 0) for i in range(n)],
            problems=[self.problems[i] for i in sorted(self.problems)],
            files=[finished.file for finished in written.files],
            schema=written.schema,
            seconds=round(seconds, 4),
            bytes_read=self.bytes_read,
            engine=self.means.engine,
            slots=round(self.slots, 4),
            mounted=self.means.contents.mounted,
            unverified=sorted(self.unverified),
            broken=dict(written.broken),
        )


def _detail(traceback: str = "") -> str:
    """What is kept with an input that failed: where, and what the code printed for it."""
    said = printed_output.as_kept(printed_output.in_this_call())
    return f"{traceback}\n\n{said}" if traceback and said else traceback or said


def _only(results: object, expected: int) -> Sequence[object]:
    """A batch function must return one result for each object it was given."""
    if not isinstance(results, list | tuple) or len(results) != expected:
        came = (
            f"{len(results)} results"
            if isinstance(results, list | tuple)
            else type(results).__name__
        )
        raise InputRejected(
            f"the batch function returned {came} for {expected} objects; expected a list of"
            f" {expected}"
        )
    return results
