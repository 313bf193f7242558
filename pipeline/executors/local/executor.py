"""Worker processes on this machine.

What a worker dies of costs the one file it was at; the process is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipeline.errors import InvariantViolated, SettingsError
from pipeline.executors.local.connection import Connection
from pipeline.executors.local.held_worker import HeldWorker
from pipeline.executors.local.machine import NATIVE, cores, describe_end, resident_bytes
from pipeline.executors.local.messages import LENGTH, NO_MEMORY, SLOT, Answer, Job, pack
from pipeline.executors.local.output_lines import Output, Whose, to_standard_error
from pipeline.executors.local.process_owner import has_ended, started, this_process
from pipeline.executors.local.spawner import make_fresh_spawner, make_spawner
from pipeline.model.loss import Loss
from pipeline.model.receipt import Receipt
from pipeline.model.task import Assignment
from pipeline.ports import Finished
from pipeline.work.memory_limit import memory_exceeded
from pipeline.work.printed_output import READ_BYTES, as_kept
from pipeline.work.worker import CodeBroken

PREFETCH = 2
"""Jobs a worker holds: one it runs, one it starts without asking."""
WATCH_S = 0.1
FAILED_STARTS_MAX = 3

_RUNNING: set[str] = set()


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one transform's calls."""

    timeout_s: float
    memory_mb: int | None


class LocalExecutor:
    """Runs assignments in worker processes that live as long as the executor.

    entry: `module:function` that makes what runs attempts, called with `spec` in each worker.
    limits: by `pipeline/transform`. folder: for temporary files, removed in the end. Make it before
    the process starts a thread, or with fork=False; use it within one event loop. One pass at a
    time. `show` is given what user code prints, line by line.
    """

    detached = False

    def __init__(
        self,
        *,
        entry: str,
        spec: bytes,
        limits: Mapping[str, Limits],
        workers: int | None = None,
        fork: bool = True,
        folder: str | None = None,
        show: Callable[[str, str], None] = to_standard_error,
    ) -> None:
        self._parallelism = workers or cores()
        self._limits = limits
        self._show = show
        self.scratch: str = folder or tempfile.mkdtemp(prefix="tidemill-")
        """Removed once this process has ended, however it ends."""
        self._spawner = (make_spawner if fork else make_fresh_spawner)(
            entry, spec, self._parallelism, self.scratch
        )
        self._workers: dict[int, HeldWorker] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._queue: deque[Job] = deque()
        self._done: list[Finished] = []
        self._news = asyncio.Event()
        self._failure: Exception | None = None
        self._broken: CodeBroken | None = None
        self._forgotten: set[int] = set()
        self._outstanding = self._serial = self._failed_starts = self._starts = 0
        self._watching: asyncio.Task[None] | None = None
        self._closed = False
        self.owner: str = this_process()
        _RUNNING.add(self.owner)

    @property
    def outstanding(self) -> int:
        """Attempts dispatched whose end was not reported yet."""
        return self._outstanding

    @property
    def parallelism(self) -> int:
        """Worker processes."""
        return self._parallelism

    @property
    def under_way(self) -> int:
        """Inputs that running attempts are done with: for progress, nothing else."""
        total = 0
        for worker in self._workers.values():
            if worker.jobs:
                serial, index, _ = SLOT.unpack_from(self._spawner.board, worker.slot * SLOT.size)
                total += index if serial == worker.jobs[0].serial and index > 0 else 0
        return total

    async def dispatch(self, assignments: Sequence[Assignment]) -> None:
        """Queue the attempts; starts as many workers as there is work for."""
        for assignment in assignments:
            self._serial += 1
            self._queue.append(self._job(self._serial, assignment))
        self._outstanding += len(assignments)
        for slot in range(self._parallelism):
            if slot not in self._workers and len(self._workers) < self._outstanding:
                self._start(slot)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        self._hand_out()

    async def finished(self) -> list[Finished]:
        """Wait for at least one attempt to end.

        Raises SettingsError if the workers cannot load the user's code.

        CodeBroken, where that is one transform: then all that was dispatched is forgotten, and
        other pipelines can go on.
        """
        while (
            self._outstanding and not self._done and self._failure is None and self._broken is None
        ):
            self._news.clear()
            await self._news.wait()
        if self._failure is not None:
            raise self._failure
        if self._broken is not None:
            broken, self._broken = self._broken, None
            self._forget()
            raise broken
        done, self._done = self._done, []
        self._outstanding -= len(done)
        return done

    def _forget(self) -> None:
        self._queue.clear()
        self._done.clear()
        self._forgotten |= {job.serial for worker in self._workers.values() for job in worker.jobs}
        self._outstanding = 0

    def is_gone(self, owner: str) -> bool:
        """Whether that owner was a process of this machine that has ended."""
        if owner == self.owner or owner in _RUNNING:
            return False
        return has_ended(owner, seen_from=self.owner)

    async def close(self) -> None:
        """End all workers at once."""
        self._closed = True
        _RUNNING.discard(self.owner)
        if self._watching is not None:
            self._watching.cancel()
        for worker in self._workers.values():
            self._spawner.kill(worker.pid)
        if self._serving:
            await asyncio.wait(self._serving)
        self._spawner.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    # -- workers -----------------------------------------------------------------------------------

    def _start(self, slot: int) -> None:
        ours, theirs = socket.socketpair()
        SLOT.pack_into(self._spawner.board, slot * SLOT.size, 0, -1, 0.0)
        self._starts += 1
        output = Output(Path(self.scratch, "printed", str(self._starts)))
        try:
            pid = self._spawner.start(slot, theirs, output.descriptor)
        finally:
            theirs.close()
        worker = self._workers[slot] = HeldWorker(slot, pid, Connection(ours), output)
        self._serve_aside(worker)

    def _serve_aside(self, worker: HeldWorker) -> None:
        serving = asyncio.create_task(self._serve(worker))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    def _hand_out(self) -> None:
        """Give each worker one job before any gets a second one."""
        for depth in range(1, PREFETCH + 1):
            for worker in self._workers.values():
                if self._queue and worker.ready and not worker.doomed and len(worker.jobs) < depth:
                    job = self._queue.popleft()
                    worker.jobs.append(job)
                    worker.connection.write(pack(job))

    async def _serve(self, worker: HeldWorker) -> None:
        """Take a worker's answers until it ends; then say what became of its job, and
        replace it.
        """
        try:
            with contextlib.suppress(EOFError, ConnectionError):
                while True:
                    (size,) = LENGTH.unpack(await worker.connection.read(LENGTH.size))
                    self._take(
                        worker, msgspec.json.decode(await worker.connection.read(size), type=Answer)
                    )
            if not self._closed:
                self._replace(worker)
            else:
                self._spawner.reap(worker.pid)
                self._read_along(worker)
        except Exception as error:  # noqa: BLE001 - the waiting pass must hear of it, whatever it is
            self._failure = error
        finally:
            await worker.connection.close()
            worker.output.close()
            self._news.set()

    def _take(self, worker: HeldWorker, answer: Answer) -> None:
        if not worker.ready:
            worker.ready, self._failed_starts = True, 0
            if answer.broken:
                why = answer.broken.reason
                self._failure = SettingsError(f"the workers cannot work: {why}")
        else:
            self._take_result(worker, answer)
        self._hand_out()
        self._news.set()

    def _take_result(self, worker: HeldWorker, answer: Answer) -> None:
        self._read_along(worker)
        job = worker.jobs.popleft()
        if job.serial != answer.serial:
            raise InvariantViolated(
                f"worker {worker.pid} answered job {answer.serial}, expected {job.serial}"
            )
        if answer.broken and job.serial not in self._forgotten:
            self._broken = CodeBroken(answer.broken.reason)
        self._report(job, answer.receipt, answer.loss or answer.broken)
        if answer.ends and answer.loss is not None:
            worker.doomed = answer.loss.reason

    def _report(self, job: Job, receipt: Receipt | None, loss: Loss | None) -> None:
        if job.serial in self._forgotten:
            self._forgotten.discard(job.serial)
            return
        assignment = job.assignment
        self._done.append(
            Finished(task=assignment.task.id, nonce=assignment.nonce, receipt=receipt, loss=loss)
        )

    def _replace(self, worker: HeldWorker) -> None:
        """The worker is dead: its running job is lost, one that it only held goes back, and another
        worker takes its place.
        """
        del self._workers[worker.slot]
        reason = self._bury(worker)
        self._lose_running(worker, reason)
        self._queue.extendleft(reversed(worker.jobs))
        if not worker.ready and self._failure is None:
            self._note_failed_start(reason)
        if self._failure is None and not self._closed:
            self._start(worker.slot)

    def _bury(self, worker: HeldWorker) -> str:
        """What it died of. Nothing of it stays."""
        self._spawner.kill(worker.pid)  # it closed its connection: it is ending, or of no use
        ended = describe_end(self._spawner.reap(worker.pid))
        # what a killed worker had no time to remove
        shutil.rmtree(f"{self.scratch}/{worker.pid}", ignore_errors=True)
        return worker.doomed or ended + self._maybe_memory(worker, ended)

    def _lose_running(self, worker: HeldWorker, reason: str) -> None:
        """Report the job that ran as lost, with what it printed last."""
        serial, index, _ = SLOT.unpack_from(self._spawner.board, worker.slot * SLOT.size)
        self._read_along(worker, ended=True)
        if worker.jobs and worker.jobs[0].serial == serial:
            said = worker.said[1] if worker.said[0] == (serial, index) else ""
            suspect = index if index >= 0 else None
            loss = Loss(reason=reason, suspect=suspect, detail=as_kept(said))
            self._report(worker.jobs.popleft(), None, loss)

    def _note_failed_start(self, reason: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= FAILED_STARTS_MAX:
            self._failure = SettingsError(
                f"worker processes die while they load the user's code: {reason}"
            )

    # -- limits ------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Kill workers whose call takes longer, or whose process has more memory, than was
        declared. Show what they print.
        """
        while True:
            await asyncio.sleep(WATCH_S)
            for worker in list(self._workers.values()):
                self._read_along(worker)
                if worker.jobs and not worker.doomed:
                    worker.doomed = self._beyond(worker)
                    if worker.doomed:
                        self._spawner.kill(worker.pid)
                self._notice_end(worker)

    def _notice_end(self, worker: HeldWorker) -> None:
        """A process that it forked without Python's knowledge may hold its connection: then it
        never closes.
        """
        if started(worker.pid):
            return
        if worker.ended:  # at two looks: what it said before is read by now
            worker.connection.end()
        worker.ended = True

    def _read_along(self, worker: HeldWorker, *, ended: bool = False) -> None:
        """Show what was printed since the last time. ended: what no call is named for is of the one
        in which it died.
        """
        for whose, line in worker.output.read(
            lambda: self._at_hand(worker, at_once=ended), ended=ended
        ):
            before = worker.said[1] if worker.said[0] == whose else ""
            worker.said = whose, f"{before}{line}\n"[-READ_BYTES:]
            label = self._label(worker, whose)
            if label or (ended and not worker.ready):
                self._show(label or "worker", line)

    def _at_hand(self, worker: HeldWorker, *, at_once: bool) -> Whose | None:
        """Whose call is under way, if that takes some time; else it soon says so itself."""
        serial, index, began = SLOT.unpack_from(self._spawner.board, worker.slot * SLOT.size)
        return (serial, index) if at_once or time.monotonic() - began > WATCH_S else None

    def _label(self, worker: HeldWorker, whose: Whose) -> str:
        """The key that a line belongs to; the transform's name while it is loaded;
        nothing before.
        """
        serial, index = whose
        job = next((job for job in worker.jobs if job.serial == serial), None)
        if job is None:
            return ""
        assignment = job.assignment
        return (
            assignment.task.inputs.keys[index]
            if index >= 0
            else f"{assignment.pipeline}/{assignment.task.transform}"
        )

    def _beyond(self, worker: HeldWorker) -> str:
        limits = self._limits_of(worker.jobs[0].assignment)
        serial, index, began = SLOT.unpack_from(self._spawner.board, worker.slot * SLOT.size)
        if limits is None or serial != worker.jobs[0].serial:
            return ""
        if index >= 0 and time.monotonic() - began > limits.timeout_s:
            return f"time limit: one call took longer than {limits.timeout_s:g} s (timeout_s)"
        return self._beyond_memory(worker, limits.memory_mb)

    def _beyond_memory(self, worker: HeldWorker, limit_mb: int | None) -> str:
        if limit_mb is not None and resident_bytes(worker.pid) > limit_mb * 2**20:
            return memory_exceeded(limit_mb)
        return ""

    def _job(self, serial: int, assignment: Assignment) -> Job:
        limits = self._limits_of(assignment)
        memory_mb = limits.memory_mb if limits is not None else None
        return Job(serial=serial, assignment=assignment, memory_mb=memory_mb, scratch=self.scratch)

    def _limits_of(self, assignment: Assignment) -> Limits | None:
        return self._limits.get(f"{assignment.pipeline}/{assignment.task.transform}")

    def _maybe_memory(self, worker: HeldWorker, ended: str) -> str:
        """Native code that is refused memory often crashes: then the limit is named as what it may
        have died of.
        """
        memory_mb = worker.jobs[0].memory_mb if worker.jobs else None
        if memory_mb is not None and ended == describe_end(NO_MEMORY << 8):
            return f": {memory_exceeded(memory_mb)}"
        return (
            f"; its memory limit was {memory_mb} MB (memory_mb)"
            if memory_mb is not None and NATIVE in ended
            else ""
        )
