"""One attempt: read each input at its planned version, call the user's code, write the outputs, then the receipt, last.

The receipt is the only thing that can publish rows. Whatever dies before it leaves files that nobody names.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline import keys, wire
from pipeline.errors import InputRejected, ObjectNotFound, SettingsError, SourceChanged, StoreUnavailable, TidemillError
from pipeline.model import FORMAT_VERSION, Assignment, Inputs, OutputFile, Receipt, SourceProblem, SourceStatus
from pipeline.objects import Object
from pipeline.ports import Clock, Content, Store

DETAIL_MAX = 4_000
REASON_MAX = 500


@dataclass(frozen=True, slots=True)
class Code:
    """A transform as loaded in this process."""

    call: Callable[..., object]
    batch_size: int | None


class WrittenFile(Protocol):
    """One finished output file, in memory or on local disk."""

    @property
    def file(self) -> OutputFile: ...
    @property
    def body(self) -> bytes | None: ...
    @property
    def path(self) -> Path | None: ...


class Written(Protocol):
    """What a writer made of all results; the maps are by input position and leave out zeros."""

    @property
    def rows(self) -> Mapping[int, int]: ...
    @property
    def rejected(self) -> Mapping[int, int]: ...
    @property
    def problems(self) -> Mapping[int, str]: ...
    @property
    def schema(self) -> str | None: ...
    @property
    def files(self) -> Sequence[WrittenFile]: ...


class Writer(Protocol):
    """Turns results into output files. `add` lets exceptions of the user's generators through."""

    def add(self, index: int, key: str, etag: str, result: object, rejected: Sequence[tuple[object, str]] = ()) -> None: ...
    def finish(self) -> Written: ...
    def close(self) -> None: ...


class Contents(Protocol):
    """Opens source objects at their planned version; may fetch small ones at once."""

    def expect(self, inputs: Inputs) -> None: ...

    async def open(self, key: str, etag: str, size_bytes: int) -> Content: ...


class AttemptLost(TidemillError):
    """The attempt cannot say anything about its inputs (no memory, no store): no receipt is written."""


class CodeBroken(SettingsError):
    """A transform cannot be loaded: that is no input's fault, and no attempt can do anything about it."""


class Worker:
    """Runs attempts of one pipeline in this process."""

    def __init__(
        self,
        *,
        store: Store,
        contents: Contents,
        home: str,
        code: Callable[[str], Code | None],
        make_writer: Callable[[Assignment], Writer],
        clock: Clock,
        budget_s: float,
        engine: str = "",
    ) -> None:
        self._store = store
        self._contents = contents
        self._home = home
        self._code = code
        self._make_writer = make_writer
        self._clock = clock
        self._budget_s = budget_s
        self._engine = engine

    async def run(self, assignment: Assignment, starting: Callable[[int], None]) -> Receipt:
        """Run the attempt and write its receipt. `starting(i)` is called before input i.

        Raises AttemptLost or StoreUnavailable where there is no receipt: the attempt counts as lost, its inputs do not. Raises
        CodeBroken if the transform cannot be loaded.
        """
        writer = self._make_writer(assignment)
        try:
            return await _Attempt(self, assignment, writer, starting).run()
        except MemoryError:
            raise AttemptLost("ran out of memory") from None
        finally:
            writer.close()


class _Attempt:
    def __init__(self, worker: Worker, assignment: Assignment, writer: Writer, starting: Callable[[int], None]) -> None:
        self.w = worker
        self.assignment = assignment
        self.task = assignment.task
        self.writer = writer
        self.starting = starting
        self.problems: dict[int, SourceProblem] = {}
        self.bytes_read = 0

    async def run(self) -> Receipt:
        started_s = self.w._clock.monotonic_s()
        code = self.w._code(self.task.transform)
        if code is None:
            raise AttemptLost(f"no transform named {self.task.transform!r} is declared here")
        step, n = code.batch_size or 1, len(self.task.inputs)
        self.w._contents.expect(self.task.inputs)
        for first in range(0, n, step):
            if first and self.w._clock.monotonic_s() - started_s > self.w._budget_s:
                for i in range(first, n):
                    self._problem(i, "deferred")
                break
            if code.batch_size is None:
                await self._one(code.call, first)
            else:
                await self._batch(code, range(first, min(first + step, n)))
        receipt = self._receipt(await self._publish(), self.w._clock.monotonic_s() - started_s)
        key = keys.receipt(self.w._home, self.task.id, self.assignment.nonce)
        await self.w._store.put(key, wire.encode(receipt))
        return receipt

    async def _one(self, call: Callable[..., object], i: int) -> None:
        opened = await self._open(i)
        if opened is not None:
            try:
                self._call(call, i, *opened)
            finally:
                self._close(opened[1])

    async def _batch(self, code: Code, indexes: range) -> None:
        opened: list[tuple[int, Object, Content]] = []
        try:
            for i in indexes:
                one = await self._open(i)
                if one is not None:
                    opened.append((i, *one))
            if opened:
                self._call_batch(code, opened)
        finally:
            for _, _, content in opened:
                self._close(content)

    async def _open(self, i: int) -> tuple[Object, Content] | None:
        """The input, unless it is known already that it is not what was planned."""
        self.starting(i)
        inputs = self.task.inputs
        key, etag, size = inputs.keys[i], inputs.etags[i], inputs.sizes[i]
        content = await self.w._contents.open(key, etag, size)
        problem = content.problem()
        if problem is not None:
            content.close()
            self._unreadable(i, problem)
            return None
        return Object(key, etag, size, inputs.modified_us[i], content), content

    def _close(self, content: Content) -> None:
        self.bytes_read += content.bytes_read
        content.close()

    def _call_batch(self, code: Code, opened: list[tuple[int, Object, Content]]) -> None:
        """One call for many objects; if it raises, one call for each, so that only the guilty ones fail."""
        try:
            results = code.call([obj for _, obj, _ in opened])
        except (Exception, SystemExit):  # noqa: BLE001 - whatever the user's code raises
            for i, obj, content in opened:
                obj._rejected.clear()
                self._call(lambda o: _only(code.call([o]), 1)[0], i, obj, content)
            return
        try:
            results = _only(results, len(opened))
        except InputRejected as error:
            for i, _, _ in opened:
                self._problem(i, "failed", str(error))
            return
        for (i, obj, content), result in zip(opened, results, strict=True):
            self._call(lambda _, result=result: result, i, obj, content)

    def _call(self, call: Callable[..., object], i: int, obj: Object, content: Content) -> None:
        """Call the user's code for one object; its result goes to the writer, its exception into the receipt."""
        try:
            self.writer.add(i, obj.key, obj.etag, call(obj), obj._rejected)
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's code raises
            problem = content.problem()
            if problem is not None:
                self._unreadable(i, problem)
            elif isinstance(error, InputRejected):
                self._problem(i, "failed", str(error))
            else:
                self._problem(i, "failed", describe(error), user_traceback(error))
            return
        problem = content.problem()
        if problem is not None:
            self._unreadable(i, problem)

    def _unreadable(self, i: int, problem: Exception) -> None:
        if isinstance(problem, ObjectNotFound):
            self._problem(i, "gone")
        elif isinstance(problem, SourceChanged):
            self._problem(i, "stale")
        elif isinstance(problem, StoreUnavailable):
            raise problem
        else:
            raise AttemptLost(describe(problem))

    def _problem(self, i: int, status: SourceStatus, reason: str = "", detail: str = "") -> None:
        self.problems[i] = SourceProblem(index=i, status=status, reason=reason[:REASON_MAX], detail=detail[-DETAIL_MAX:])

    async def _publish(self) -> Written:
        """Write the outputs. Rows of inputs that turned out unreadable after `add` are left out by name in the commit."""
        written = self.writer.finish()
        for i, reason in written.problems.items():
            if i not in self.problems:
                self._problem(i, "failed", reason)
        for finished in written.files:
            if finished.body is not None:
                await self.w._store.put(finished.file.key, finished.body)
            elif finished.path is not None:
                await self.w._store.put_file(finished.file.key, finished.path)
        return written

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
            engine=self.w._engine,
        )


def _only(results: object, expected: int) -> Sequence[object]:
    """A batch function must return one result for each object it was given."""
    if not isinstance(results, list | tuple) or len(results) != expected:
        came = f"{len(results)} results" if isinstance(results, list | tuple) else type(results).__name__
        raise InputRejected(f"the batch function returned {came} for {expected} objects; expected a list of {expected}")
    return results


def describe(error: BaseException) -> str:
    """One line: the exception's type and message."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def user_traceback(error: BaseException) -> str:
    """The traceback from the user's code on, without ours above it. It shows source lines, never values of variables."""
    frames = traceback.extract_tb(error.__traceback__)
    own = Path(__file__).parent
    below = [f for f in frames if own not in Path(f.filename).parents]
    return "".join(traceback.format_list(below or frames)) + describe(error)
