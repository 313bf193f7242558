"""Disks that fail, disks that remember, and a small pipeline in this process that works on them."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.declare.pipeline import Pipeline
from pipeline.model import keys
from pipeline.model.policy import Policy
from pipeline.model.snapshot import dead_rows
from pipeline.passes import upkeep
from pipeline.passes.audit import Audit, AuditReport
from pipeline.passes.runner import Pass
from pipeline.runtime.runtime import Runtime
from pipeline.runtime.system import WallClock
from pipeline.runtime.worker_process import loaded_on_use, table_spec
from pipeline.state.state import State
from pipeline.stores.local.disk import Disk
from pipeline.stores.local.store import LocalStore
from pipeline.testing.inline_executor import InlineExecutor
from pipeline.work.contents import LazyContents
from pipeline.work.seams import PlainCalls
from pipeline.work.worker import Worker
from sinks.parquet.writer import AttemptWriter

STEPS = (
    "create",
    "open",
    "write",
    "sync",
    "link",
    "replace",
    "unlink",
    "mkdir",
    "rmdir",
    "sync_folder",
)
GROWING = ("create", "write", "sync", "link", "mkdir", "sync_folder")
"""What a full disk refuses; the rest only gives back."""
_RUNS = itertools.count()


class FaultyDisk(Disk):
    """Refuses the n-th request (`lasting`: and all after it) with an error of the operating system.
    A write is half done first.
    """

    def __init__(
        self, at: int | None = None, number: int = errno.EIO, *, lasting: bool = False
    ) -> None:
        self.at, self.number, self.lasting = at, number, lasting
        self.steps: list[str] = []
        self.refused = 0

    def refuses(self, step: str) -> bool:
        self.steps.append(step)
        n = len(self.steps) - 1
        hit = self.at is not None and (n == self.at or (self.lasting and n > self.at))
        hit &= step in GROWING or self.number not in (errno.ENOSPC, errno.EDQUOT)
        self.refused += hit
        return hit


def _guarded(step: str) -> Callable[..., Any]:
    plain = getattr(Disk, step)

    def guarded(self: FaultyDisk, *arguments: Any) -> Any:
        if self.refuses(step):
            if step == "write":
                plain(self, arguments[0], arguments[1][: len(arguments[1]) // 2])
            raise OSError(self.number, os.strerror(self.number))
        # nobody pulls the plug here
        return None if step.startswith("sync") else plain(self, *arguments)

    return guarded


for _step in STEPS:
    setattr(FaultyDisk, _step, _guarded(_step))


class Stalled(BaseException):
    """The process stops here, and never goes on."""


class RecordedDisk(Disk):
    """Notes every request, in one list with others that share it.

    `stall`: the name of a request before which it stops.
    """

    def __init__(self, steps: list[tuple[Any, ...]] | None = None, stall: str = "") -> None:
        self.steps = [] if steps is None else steps
        self.stall = stall
        self._paths: dict[int, str] = {}

    def note(self, step: str, *words: Any) -> None:
        if step == self.stall:
            raise Stalled
        self.steps.append((step, *words))

    def create(self, path: str) -> int:
        self.note("create", path)
        descriptor = super().create(path)
        self._paths[descriptor] = path
        return descriptor

    def open(self, path: str) -> int:
        descriptor = super().open(path)
        self._paths[descriptor] = path
        return descriptor

    def write(self, descriptor: int, part: memoryview) -> int:
        self.note("write", self._paths[descriptor], bytes(part))
        return super().write(descriptor, part)

    def sync(self, descriptor: int) -> None:
        self.note("sync", self._paths[descriptor])

    def sync_folder(self, path: str) -> None:
        self.note("sync_folder", path)

    def link(self, path: str, target: str) -> None:
        super().link(path, target)
        self.note("link", path, target)

    def replace(self, path: str, target: str) -> None:
        body = Path(path).read_bytes()
        super().replace(path, target)
        self.note("replace", path, target, body)

    def unlink(self, path: str) -> None:
        super().unlink(path)
        self.note("unlink", path)

    def mkdir(self, path: str) -> None:
        super().mkdir(path)
        self.note("mkdir", path)

    def rmdir(self, path: str) -> None:
        super().rmdir(path)
        self.note("unlink", path)


class NotedStore(LocalStore):
    """Notes among the disk's requests when a put or a delete begins, and when a put
    has returned.
    """

    def __init__(self, root: Path, disk: RecordedDisk) -> None:
        super().__init__(root, disk=disk)
        self.disk = disk

    async def put(self, key: str, body: bytes, **conditions: Any) -> None:
        self.disk.note("putting", key, body)
        await super().put(key, body, **conditions)
        self.disk.note("put", key, body)

    async def put_file(self, key: str, path: Path) -> None:
        body = path.read_bytes()
        self.disk.note("putting", key, body)
        await super().put_file(key, path)
        self.disk.note("put", key, body)

    async def delete(self, names: Any) -> None:
        for key in names:
            self.disk.note("deleting", key)
        await super().delete(names)


class _Instant(WallClock):
    """Waits for nothing."""

    async def sleep(self, seconds: float) -> None:
        return None


class _Executor(InlineExecutor):
    """Every run of this process is another one, and only the newest still lives."""

    def is_gone(self, owner: str) -> bool:
        return owner != self.owner


def pipeline(partition_by: tuple[str, ...] = ("k",)) -> Pipeline:
    p = Pipeline("logs", source="up/", partition_by=list(partition_by), retention_days=0)

    @p.transform
    def parse(obj: Any) -> Any:
        return [json.loads(line) for line in obj.lines()]

    return p


@dataclass
class World:
    """A directory with uploads, and runs on it."""

    root: Path
    truth: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    bad: set[str] = field(default_factory=set)
    policy: Policy = field(
        default_factory=lambda: Policy(task_files_min=1, task_bytes_min=1, task_files_max=2)
    )

    def upload(self, name: str, *values: int, bad: bool = False) -> None:
        rows = [{"k": "ab"[v % 2], "v": v} for v in values]
        path = self.root / "up" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.root.parent / "beside"
        beside.write_text(
            "".join(json.dumps(row) + "\n" for row in rows) + ("no json" if bad else "")
        )
        beside.replace(path)
        self.truth[name] = [] if bad else rows
        (self.bad.add if bad else self.bad.discard)(name)

    def remove(self, name: str) -> None:
        (self.root / "up" / name).unlink()
        del self.truth[name]

    def runtime(self, disk: Disk | None = None) -> Runtime:
        p = pipeline()
        spec = table_spec(p)
        recorded = isinstance(disk, RecordedDisk)
        store = (
            NotedStore(self.root, disk)
            if recorded
            else LocalStore(self.root, disk=disk or FaultyDisk())
        )
        worker = Worker(
            store=store,
            contents=LazyContents(store),
            home=keys.home(p.name),
            code=loaded_on_use(p, PlainCalls()),
            make_writer=lambda a: AttemptWriter(
                spec, schema=a.schema, task=a.task.id, nonce=a.nonce, scratch=self.root.parent
            ),
            clock=_Instant(),
            budget_s=30.0,
        )
        return Runtime(
            p, p.settings(), store, self.policy, _Executor(worker, owner=f"inline-{next(_RUNS)}")
        )

    def run(self, disk: Disk | None = None, *, vacuum: bool = False) -> State:
        """What `tidemill run` does: home, passes until nothing changes, a checkpoint; then perhaps
        a compaction and a vacuum.
        """

        async def work() -> State:
            opened = self.runtime(disk)
            await opened.open()
            parts = replace(opened.context(), clock=_Instant())
            while True:
                passing = Pass(parts)
                report = await passing.run()
                await upkeep.keep_tidy(passing)
                if not report.changed:
                    break
            if vacuum:
                await upkeep.compact(Pass(parts), few=True, purge=True)
                await upkeep.vacuum(Pass(parts))
            return passing.state

        return asyncio.run(work())

    def state(self) -> State:
        return asyncio.run(self.runtime().log().load())

    def rows(self, state: State) -> dict[str, list[dict[str, Any]]]:
        """The live rows, read from the files that the state names and nothing else of ours."""
        found: dict[str, list[dict[str, Any]]] = {}
        for name, output in state.stored().items():
            dead = set(dead_rows(name, output))
            for file in output.files:
                for row in pq.ParquetFile(self.root / file.key).read().to_pylist():
                    if (row["_task"], row["_source_key"]) not in dead:
                        found.setdefault(row["_source_key"], []).append(
                            {"k": row["k"], "v": row["v"]}
                        )
        return found

    def audit(self) -> AuditReport:
        opened = self.runtime()
        return asyncio.run(
            Audit(
                opened.store,
                opened.settings,
                opened.log(),
                lambda state: Counter({key: len(rows) for key, rows in self.rows(state).items()}),
            ).run()
        )

    def check(self) -> None:
        """Rows are those of the files that are there, once each; the audit is clean; only bad files
        are quarantined.
        """
        state = self.state()
        found = {key: sorted(row["v"] for row in rows) for key, rows in self.rows(state).items()}
        assert found == {
            f"up/{name}": sorted(r["v"] for r in rows) for name, rows in self.truth.items() if rows
        }
        assert self.audit().problems == []
        assert set(state.quarantine) == {f"up/{name}" for name in self.bad}
        assert not state.tasks

    def objects_are_whole(self) -> None:
        """Whatever lies under a final name is a whole object."""
        for path in self.root.rglob("*"):
            if path.is_file() and ".tidemill" not in path.parts:
                if path.suffix == ".json":
                    json.loads(path.read_bytes())
                elif path.suffix == ".parquet":
                    pq.ParquetFile(path).read()

    def debris(self, age_s: float = 3600.0) -> list[str]:
        """Temporary files, made to look old, as they are when somebody comes back."""
        found = list((self.root / ".tidemill" / "tmp").glob("*"))
        for path in found:
            os.utime(path, (path.stat().st_mtime - age_s,) * 2)
        return [path.name for path in found]
