"""The memory limit is the kernel's: it holds however fast memory is asked for, and when nobody
looks.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.executors.local import executor as local
from pipeline.executors.local.executor import Limits, LocalExecutor
from pipeline.executors.local.spawner import ExecSpawner, ForkSpawner
from pipeline.model.receipt import Receipt
from pipeline.model.task import Assignment
from pipeline.ports import Finished
from pipeline.work import memory_limit
from pipeline.work.worker import AttemptLost
from tests.support.builders import inputs_of, loss_of, receipt_of, task_of

MEMORY_MB = 200


class Attempts:
    """Stands for what runs inside workers: each input's key says what to do."""

    def __init__(self, spec: bytes) -> None:
        self.kept: list[bytearray] = []

    def run(self, assignment: Assignment, starting: Callable[[int], None]) -> Receipt:
        peak = 0
        for i, deed in enumerate(assignment.task.inputs.keys):
            starting(i)
            if deed == "at once":
                bytes(8 * 2**30)
            elif deed == "piece by piece":
                while True:
                    self.kept.append(bytearray(b"x") * 2**22)
            elif deed == "swallowed":
                peak = self._until_refused()
            elif deed == "reported":
                try:
                    bytes(8 * 2**30)
                except MemoryError:
                    raise AttemptLost("ran out of memory") from None
            elif deed == "litter":
                Path(tempfile.mkstemp()[1]).write_bytes(b"left behind")
                os._exit(3)
        return receipt_of(
            assignment.task, nonce=assignment.nonce, bytes_read=peak, engine=tempfile.gettempdir()
        )

    def _until_refused(self) -> int:
        """Takes what it can get, as code does that catches everything; its own peak of resident
        memory, in MB.
        """
        held = []
        try:
            while True:
                held.append(bytearray(b"x") * 2**22)
        except MemoryError:
            del held
        reported = Path("/proc/self/status").read_text()
        peak, shared = (
            int(reported.partition(name)[2].split()[0]) // 1024 for name in ("VmHWM:", "RssFile:")
        )
        return peak - shared


def run(
    monkeypatch: pytest.MonkeyPatch,
    spawner: type,
    *deeds: tuple[str, ...],
    memory_mb: int | None = MEMORY_MB,
) -> list[Finished]:
    """What became of one task for each group of deeds, with nobody looking at the
    workers' memory.
    """
    monkeypatch.setattr(local, "WATCH_S", 3600.0)
    monkeypatch.setattr(local, "make_spawner", spawner)

    async def work() -> list[Finished]:
        executor = LocalExecutor(
            entry="tests.hostile.test_limits:Attempts",
            spec=b"",
            limits={"p/t": Limits(timeout_s=600.0, memory_mb=memory_mb)},
            workers=1,
        )
        try:
            tasks = [
                task_of(f"{i:020d}-000000", inputs_of(*group), transform="t")
                for i, group in enumerate(deeds)
            ]
            await executor.dispatch(
                [Assignment(pipeline="p", task=task, nonce="n", schema=None) for task in tasks]
            )
            done: list[Finished] = []
            while executor.outstanding:
                done += await executor.finished()
            return sorted(done, key=lambda one: one.task)
        finally:
            await executor.close()

    return asyncio.run(work())


linux = pytest.mark.xfail(
    sys.platform != "linux", reason="only Linux counts a process's own memory against RLIMIT_DATA"
)


@linux
@pytest.mark.parametrize("spawner", [ForkSpawner, ExecSpawner], ids=lambda s: s.__name__)
def test_a_bomb_is_refused_its_memory_and_named(
    spawner: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The input at hand is the suspect, the others of the queue are done by a new process."""
    deeds = (("ok", "at once", "ok"), ("ok",), ("piece by piece",), ("reported",), ("ok",))
    at_once, second, pieces, reported, last = run(monkeypatch, spawner, *deeds)
    why = f"memory limit: the worker used more than {MEMORY_MB} MB (memory_mb)"
    assert (loss_of(at_once).reason, loss_of(at_once).suspect) == (why, 1)
    assert (loss_of(pieces).reason, loss_of(pieces).suspect) == (why, 0)
    assert (loss_of(reported).reason, loss_of(reported).suspect) == (why, 0)
    assert second.receipt is not None
    assert last.receipt is not None


@linux
def test_code_that_swallows_the_refusal_still_gets_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a fresh process: one that was forked may use again what the tests before this one gave
    back to its heap.
    """
    [done] = run(monkeypatch, ExecSpawner, ("swallowed",))
    assert done.receipt is not None
    allowance = memory_limit.ALLOWANCE_MB + memory_limit.ALLOWANCE_MB_PER_CORE * (
        os.cpu_count() or 1
    )
    assert MEMORY_MB < done.receipt.bytes_read < MEMORY_MB + allowance + 32


def test_what_a_dead_worker_leaves_in_its_temporary_folder_is_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also the folder itself, once the executor is closed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[list[str]] = []
    replace = LocalExecutor._replace

    def replaced(self: LocalExecutor, worker: local._Worker) -> None:
        replace(self, worker)
        seen.append([p.name for p in tmp_path.rglob("*") if p.is_file()])

    monkeypatch.setattr(LocalExecutor, "_replace", replaced)
    died, after = run(monkeypatch, ForkSpawner, ("litter",), ("ok",), memory_mb=None)
    assert "exited with code 3" in loss_of(died).reason
    assert after.receipt is not None
    assert Path(after.receipt.engine).is_relative_to(tmp_path)
    assert seen == [[]]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (ValueError("could not convert 'out of memory' to float"), False),
        (OSError(2, "No such file"), False),
    ],
)
def test_what_counts_as_out_of_memory(
    error: Exception, is_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library's own exception does; a text of the data does not; and nothing does without a
    limit.
    """
    monkeypatch.setattr(memory_limit, "_memory_mb", 100)
    assert memory_limit.is_out_of_memory(error) == is_one
    wrapped = KeyError("wrapped")
    wrapped.__cause__ = error
    assert memory_limit.is_out_of_memory(wrapped) == is_one
    monkeypatch.setattr(memory_limit, "_memory_mb", None)
    assert not memory_limit.is_out_of_memory(error)
