"""Publishers that are killed, each a process of its own: forked from one that has loaded everything and started no thread.

    python -m tests.contract.sinks_crashes FOLDER KIND TAG

FOLDER is a `World`'s, with `snapshots.json` and `expected.json`. Prints one line for each thing that is wrong, and how many died.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pipeline.snapshot import Snapshot
from pipeline.stores.local import LocalStore
from tests.contract.sinks_world import World, flow, runtime

STEPS_MAX = 60
WRITES = re.compile(r"\s*(INSERT|UPDATE|DELETE|ALTER|CREATE|COPY|DROP|COMMIT)\b")
FIRST, LATER = "first", "columns"


class Killer:
    """Counts the steps of a publisher; SIGKILL at the n-th."""

    def __init__(self, n: int) -> None:
        self.left = n

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner: Any, name: str, *, texts: bool = False, after: bool = False) -> None:
        """Every call is a step just before it; `after`: and one after it. texts: only those whose statement writes."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def stepping(*arguments: Any, **options: Any) -> Any:
            writes = not texts or any(isinstance(a, str) and WRITES.match(a) for a in arguments)
            if writes:
                self.step()
            result = original(*arguments, **options)
            if writes and after:
                self.step()
            return result

        setattr(owner, name, stepping)

    def watch_async(self, owner: Any, name: str) -> None:
        """A step before each call, and one after it."""
        original = getattr(owner, name)

        async def stepping(*arguments: Any, **options: Any) -> Any:
            self.step()
            result = await original(*arguments, **options)
            self.step()
            return result

        setattr(owner, name, stepping)


def watched(kind: str, n: int) -> None:
    """From here on this process dies at the n-th step of a publish."""
    killer = Killer(n)
    if kind in ("delta", "catalogue"):
        killer.watch_async(LocalStore, "put")
        killer.watch_async(LocalStore, "put_file")
    if kind == "delta":
        from deltalake import DeltaTable
        from deltalake.table import TableAlterer

        killer.watch(DeltaTable, "create_write_transaction", after=True)
        killer.watch(TableAlterer, "add_columns")
    if kind == "postgres":
        import psycopg

        killer.watch(psycopg.Connection, "execute", texts=True)
        killer.watch(psycopg.Copy, "write", after=True)
        killer.watch(psycopg.Transaction, "__exit__", after=True)
    if kind == "duckdb":
        import sinks.duckdb_file

        killer.watch(sinks.duckdb_file._File, "execute", texts=True)
        killer.watch(sinks.duckdb_file, "_committed", after=True)


def in_child(work: Callable[[], None]) -> int:
    """What became of a process that does this: its exit code, or minus the signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return _run(work)


def _run(work: Callable[[], None]) -> int:
    try:
        work()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(3)
    os._exit(0)


class Crashes:
    def __init__(self, folder: Path, kind: str, tag: str) -> None:
        self.kind = kind
        self.tag = tag
        self.snapshots = msgspec.json.decode((folder / "snapshots.json").read_bytes(), type=dict[str, Snapshot])
        self.expected = json.loads((folder / "expected.json").read_text())
        self.world = World.__new__(World)
        self.world.folder, self.world.bucket = folder, folder / "bucket"
        self.world.runtime = runtime(flow(), self.world.bucket)

    def publish(self, tag: str, stage: str) -> None:
        target = self.world.target(self.kind, tag)
        done = asyncio.run(self.world.publisher(target, self.snapshots[stage]).publish("it"))
        assert done.problem == "", done.problem

    def check(self, tag: str, stage: str) -> None:
        for table in ("sales", "by_kind"):
            assert self.world.held(self.kind, tag, table) == self.expected[stage][table], f"{tag}, {stage}, {table}: other rows"

    def all(self) -> int:
        """Kill at each step of the first publish and of a later one; publish again; look."""
        died, reached = 0, {FIRST: True, LATER: True}
        for n in range(1, STEPS_MAX):
            tag = f"{self.tag}_{n}"
            for stage in (FIRST, LATER):
                if reached[stage]:
                    reached[stage] = in_child(lambda s=stage, t=tag, n=n: (watched(self.kind, n), self.publish(t, s))) < 0  # type: ignore[misc]
                    died += reached[stage]
                    in_child(lambda s=stage, t=tag: (self.publish(t, s), self.check(t, s)))  # type: ignore[misc]
                elif stage == FIRST:
                    in_child(lambda s=stage, t=tag: self.publish(t, s))  # type: ignore[misc]
            if not any(reached.values()):
                return died
        raise AssertionError("there is no end of steps")

    def together(self, publishers: int = 3) -> None:
        """Several at the same time, from nothing and then from a commit to a later one."""
        tag = f"{self.tag}_all"
        for stage in (FIRST, LATER):
            gate, opened = os.pipe()
            children = []
            for _ in range(publishers):
                child = os.fork()
                if not child:
                    _run(lambda s=stage: (os.read(gate, 1), self.publish(tag, s)))  # type: ignore[misc]
                children.append(child)
            os.write(opened, b"x" * publishers)
            for child in children:
                if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
                    print(f"{stage}: one of {publishers} publishers failed", flush=True)
            in_child(lambda s=stage: self.check(tag, s))  # type: ignore[misc]


def main() -> None:
    import deltalake  # noqa: F401
    import duckdb  # noqa: F401
    import psycopg  # noqa: F401
    import pyarrow.csv
    import pyarrow.dataset
    import pyarrow.parquet  # noqa: F401

    crashes = Crashes(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
    died = crashes.all()
    crashes.together()
    print(f"died {died}", flush=True)


if __name__ == "__main__":
    main()
