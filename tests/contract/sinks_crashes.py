"""Publishers that are killed, each a process of its own: forked from one that has loaded everything
and started no thread.

    python -m tests.contract.sinks_crashes FOLDER TAG KIND...

FOLDER is a `World`'s, with `snapshots.json` and `expected.json`. Prints for each
kind its name, one line for each thing that is wrong, and how many died.
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

import pipeline.runtime.publish
from pipeline.model.snapshot import Snapshot
from pipeline.stores.local.store import LocalStore
from tests.contract.sinks_world import World, flow, runtime

WRITES = re.compile(r"(INSERT|UPDATE|DELETE|COMMIT)\b")
"""Statements before which a publisher dies; those that make or change tables belong to the same
transactions.
"""
FIRST, LATER = "first", "columns"


class Killer:
    """Counts the steps of a publisher; SIGKILL at the n-th."""

    def __init__(self, n: int) -> None:
        self.left = n
        self.armed = False

    def arm(self, owner: Any, name: str) -> None:
        """Steps count from this call on: what is only read before changes nothing."""
        original = getattr(owner, name)

        def arming(*arguments: Any) -> Any:
            self.armed = True
            return original(*arguments)

        setattr(owner, name, arming)

    def step(self) -> None:
        self.left -= self.armed
        if self.armed and self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner: Any, name: str, *, texts: bool = False, after: bool = False) -> None:
        """Every call is a step just before it; `after`: and one after it. texts: only those whose
        statement writes.
        """
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


def watched(kind: str, n: int) -> Killer:
    """From here on this process dies at the n-th step of a publish; with 0 at none."""
    killer = Killer(n)
    killer.arm(pipeline.runtime.publish.Rows, "__enter__")
    if kind == "catalogue":
        killer.watch(LocalStore, "_place", after=True)
    if kind == "delta":
        killer.watch(LocalStore, "put_file")
        from deltalake import DeltaTable
        from deltalake.table import TableAlterer

        killer.watch(DeltaTable, "create_write_transaction", after=True)
        killer.watch(TableAlterer, "add_columns")
    if kind == "postgres":
        import psycopg

        killer.watch(psycopg.Connection, "execute", texts=True)
        killer.watch(psycopg.Copy, "write")
        killer.watch(psycopg.Transaction, "__exit__", after=True)
    if kind == "duckdb":
        import sinks.copies.duckdb_file

        killer.watch(sinks.copies.duckdb_file._File, "execute", texts=True)
        killer.watch(sinks.copies.duckdb_file, "_committed", after=True)
    return killer


def in_child(work: Callable[[], object]) -> int:
    """What became of a process that does this: its exit code, or minus the signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return _run(work)


def must(work: Callable[[], object]) -> None:
    """Do it in a process that ends well."""
    code = in_child(work)
    if code < 0:
        print(f"a publisher that nobody killed died by signal {-code}", flush=True)


def _run(work: Callable[[], object]) -> int:
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
        self.snapshots = msgspec.json.decode(
            (folder / "snapshots.json").read_bytes(), type=dict[str, Snapshot]
        )
        self.expected = json.loads((folder / "expected.json").read_text())
        self.world = World.__new__(World)
        self.world.folder, self.world.bucket = folder, folder / "bucket"
        self.world.make = flow
        self.world.runtime = runtime(flow(), self.world.bucket)

    def publish(self, tag: str, stage: str) -> None:
        target = self.world.target(self.kind, tag)
        done = asyncio.run(self.world.publisher(target, self.snapshots[stage]).publish("it"))
        assert done.problem == "", done.problem

    def check(self, tag: str, stage: str) -> None:
        for table in ("sales", "by_kind"):
            assert self.world.held(self.kind, tag, table) == self.expected[stage][table], (
                f"{tag}, {stage}, {table}: other rows"
            )

    def all(self) -> int:
        """Kill at each step of a later publish, and around the commit of a first one; publish
        again; look. How many died.
        """
        firsts = self.steps(f"{self.tag}_count", FIRST)
        laters = self.steps(f"{self.tag}_count", LATER)
        # before and after the commit: what comes earlier is as in a later publish
        around = (firsts - 1, firsts)
        dead = {f"{self.tag}_f{n}": (FIRST, n) for n in around}
        dead |= {f"{self.tag}_l{n}": (LATER, n) for n in range(1, laters + 1)}
        must(
            lambda: [self.publish(tag, FIRST) for tag, (stage, _) in dead.items() if stage == LATER]
        )
        for tag, (stage, n) in dead.items():
            code = in_child(lambda t=tag, s=stage, n=n: (watched(self.kind, n), self.publish(t, s)))  # type: ignore[misc]
            if code != -signal.SIGKILL:
                print(f"step {n} of {stage} was not reached", flush=True)
        must(
            lambda: [
                (self.publish(tag, stage), self.check(tag, stage))
                for tag, (stage, _) in dead.items()
            ]
        )
        return len(dead)

    def steps(self, tag: str, stage: str) -> int:
        """How many steps a publish has."""

        def count() -> None:
            killer = watched(self.kind, 0)
            self.publish(tag, stage)
            os._exit(-killer.left)

        return in_child(count)

    def together(self, publishers: int = 2) -> None:
        """Several at the same time, from nothing and then from a commit to a later one."""
        tag = f"{self.tag}_all"
        for stage in (FIRST, LATER):
            gate, opened = os.pipe()
            children = []
            for _ in range(publishers):
                child = os.fork()
                if not child:
                    _run(lambda s=stage, g=gate: (os.read(g, 1), self.publish(tag, s)))  # type: ignore[misc]
                children.append(child)
            os.write(opened, b"x" * publishers)
            for child in children:
                if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
                    print(f"{stage}: one of {publishers} publishers failed", flush=True)
            must(lambda s=stage: self.check(tag, s))  # type: ignore[misc]


def main() -> None:
    import deltalake  # noqa: F401
    import duckdb  # noqa: F401
    import psutil  # noqa: F401
    import psycopg  # noqa: F401
    import pyarrow.csv
    import pyarrow.dataset
    import pyarrow.parquet  # noqa: F401

    import sinks.copies.catalogue
    import sinks.copies.change_rows
    import sinks.copies.delta
    import sinks.copies.duckdb_file
    import sinks.copies.postgres

    # one thread: else a copy has as many steps as DuckDB happens to make batches
    sinks.copies.change_rows.Warehouse = functools.partial(
        sinks.copies.change_rows.Warehouse, threads=1
    )  # type: ignore[misc, assignment]
    for kind in sys.argv[3:]:
        print(kind, flush=True)
        crashes = Crashes(Path(sys.argv[1]), kind, sys.argv[2])
        died = crashes.all()
        crashes.together()
        print(f"died {died}", flush=True)


if __name__ == "__main__":
    main()
