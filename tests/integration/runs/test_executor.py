"""Worker processes, started both ways: forked from the helper (Linux) and as new interpreters
(elsewhere).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import psutil
import pytest

from pipeline.errors import SettingsError, TidemillError
from pipeline.executors.local import executor as local
from pipeline.executors.local.executor import Limits, LocalExecutor
from pipeline.executors.local.spawner import ExecSpawner, ForkSpawner, FreshSpawner
from pipeline.model.commit import FORMAT_VERSION
from pipeline.model.receipt import Receipt
from pipeline.model.task import Assignment
from pipeline.ports import Finished
from tests.support.builders import inputs_of, loss_of, task_of

SPAWNERS = [ForkSpawner, FreshSpawner, ExecSpawner]


class Attempts:
    """Stands for what runs inside workers: each input's key says what to do."""

    def __init__(self, spec: bytes) -> None:
        self.spec = spec.decode()
        if self.spec == "broken":
            raise OSError("no code here")
        if self.spec == "dies":
            os._exit(9)

    def run(self, assignment: Assignment, starting: Callable[[int], None]) -> Receipt:
        task = assignment.task
        for i, deed in enumerate(task.inputs.keys):
            starting(i)
            if deed == "die":
                os._exit(7)
            if deed == "lose":
                raise TidemillError("the attempt says that it is lost")
            if deed == "bug":
                raise RuntimeError("a bug of ours")
            if deed == "hang":
                time.sleep(3600)
        rows = [1] * len(task.inputs)
        return Receipt(
            format=FORMAT_VERSION,
            task=task.id,
            nonce=assignment.nonce,
            version=task.version,
            rows=rows,
            rejected=[0] * len(rows),
            problems=[],
            files=[],
            schema=None,
            seconds=0.0,
            bytes_read=0,
            engine=str(os.getpid()),
        )


def assignment(number: int, *deeds: str) -> Assignment:
    task = task_of(f"{number:020d}-000000", inputs_of(*deeds), transform="t", owner="")
    return Assignment(pipeline="p", task=task, nonce=f"n{number}", schema=None)


@pytest.fixture(params=SPAWNERS, ids=lambda s: s.__name__)
def make(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., LocalExecutor]:
    monkeypatch.setattr(local, "make_spawner", request.param)

    def executor(spec: str = "", workers: int = 2, timeout_s: float = 600.0) -> LocalExecutor:
        limits = {"p/t": Limits(timeout_s=timeout_s, memory_mb=None)}
        return LocalExecutor(
            entry="tests.integration.runs.test_executor:Attempts",
            spec=spec.encode(),
            limits=limits,
            workers=workers,
        )

    return executor


async def everything(executor: LocalExecutor) -> list[Finished]:
    found: list[Finished] = []
    while executor.outstanding:
        found += await executor.finished()
    return found


def run(executor: LocalExecutor, work: Callable[[LocalExecutor], Coroutine[Any, Any, Any]]) -> Any:
    async def whole() -> Any:
        try:
            return await work(executor)
        finally:
            await executor.close()

    return asyncio.run(whole())


def test_all_jobs_end_and_workers_are_kept(make: Callable[..., LocalExecutor]) -> None:
    async def work(executor: LocalExecutor) -> None:
        await executor.dispatch([assignment(i, "ok", "ok") for i in range(40)])
        first = await everything(executor)
        await executor.dispatch([assignment(i, "ok") for i in range(40, 60)])
        second = await everything(executor)
        done = first + second
        assert sorted(f.task for f in done) == [f"{i:020d}-000000" for i in range(60)]
        assert all(f.receipt is not None for f in done)
        assert len({f.receipt.engine for f in done if f.receipt}) <= 2, (
            "workers start once, not for each task"
        )

    run(make(), work)


def test_a_death_is_reported_with_its_suspect_and_costs_nobody_else(
    make: Callable[..., LocalExecutor],
) -> None:
    async def work(executor: LocalExecutor) -> None:
        jobs = [assignment(i, "ok") for i in range(10)]
        jobs[3] = assignment(3, "ok", "ok", "die", "ok")
        jobs[5] = assignment(5, "lose")
        jobs[7] = assignment(7, "bug")
        await executor.dispatch(jobs)
        done = {f.task: f for f in await everything(executor)}
        assert len(done) == 10
        dead = done[jobs[3].task.id]
        assert (dead.receipt, loss_of(dead).suspect) == (None, 2)
        assert (
            loss_of(dead).reason == "the worker process exited with code 7 in the middle of a call"
        )
        assert loss_of(done[jobs[5].task.id]).reason == "the attempt says that it is lost"
        assert loss_of(done[jobs[7].task.id]).reason == "RuntimeError: a bug of ours"
        assert sum(f.receipt is not None for f in done.values()) == 7

    run(make(), work)


def test_a_call_beyond_its_time_limit_is_ended(make: Callable[..., LocalExecutor]) -> None:
    async def work(executor: LocalExecutor) -> None:
        await executor.dispatch([assignment(0, "ok", "hang"), assignment(1, "ok")])
        async with asyncio.timeout(60):
            while not executor.under_way:  # noqa: ASYNC110 - a shared page raises no event
                await asyncio.sleep(0)
        assert executor.under_way == 1, "progress sees the file that is done"
        done = {f.task: f for f in await everything(executor)}
        hung = done[f"{0:020d}-000000"]
        assert (loss_of(hung).reason, loss_of(hung).suspect) == (
            "time limit: one call took longer than 3 s (timeout_s)",
            1,
        )
        assert done[f"{1:020d}-000000"].receipt is not None

    run(make(timeout_s=3.0), work)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("broken", "^the workers cannot work: OSError: no code here$"),
        ("dies", "die while they load the user's code"),
    ],
)
def test_workers_that_cannot_start_are_one_clear_error(
    make: Callable[..., LocalExecutor], spec: str, words: str
) -> None:
    async def work(executor: LocalExecutor) -> None:
        await executor.dispatch([assignment(0, "ok")])
        with pytest.raises(SettingsError, match=words):
            await everything(executor)

    run(make(spec), work)


def test_closing_ends_every_process(make: Callable[..., LocalExecutor]) -> None:
    before = {p.pid for p in psutil.Process().children(recursive=True)}

    async def work(executor: LocalExecutor) -> None:
        await executor.dispatch([assignment(0, "hang"), assignment(1, "hang"), assignment(2, "ok")])

    run(make(), work)
    after = {
        p.pid
        for p in psutil.Process().children(recursive=True)
        if p.status() != psutil.STATUS_ZOMBIE
    }
    assert after <= before


def test_who_is_gone(make: Callable[..., LocalExecutor]) -> None:
    executor = make()
    kind, host, boot, space, pid, started, nonce = executor.owner.split(":")

    def name(**changes: str) -> str:
        parts = {
            "kind": kind,
            "host": host,
            "boot": boot,
            "space": space,
            "pid": pid,
            "started": started,
            "nonce": nonce,
        }
        return ":".join((parts | changes).values())

    assert not executor.is_gone(executor.owner)
    assert executor.is_gone(name(nonce="other")), "an executor of this process that was closed"
    assert executor.is_gone(name(pid="999999999"))
    assert executor.is_gone(name(pid="1", started="0")), "the number was given to another process"
    assert executor.is_gone(name(boot="before"))
    assert not executor.is_gone(name(host="elsewhere", pid="999999999"))
    assert not executor.is_gone(name(space="another", pid="999999999"))
    for odd in ("", "local", "modal:fc-123", ":" * 6, "sim:1"):
        assert not executor.is_gone(odd)

    async def nothing(executor: LocalExecutor) -> None:
        return None

    run(executor, nothing)


INTERRUPTED = """
import os, signal
from pipeline.executors.local.spawner import _fork
os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    if _fork() == 0:
        os._exit(0)
    print("forgotten")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_while_a_process_forks_is_not_forgotten() -> None:
    """Python calls hooks of libraries there, reports what they raise, and goes on."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
