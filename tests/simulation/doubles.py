"""What stands in for the user's code, the executors, the Parquet sink and the SQL aggregates in the
simulated world.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pipeline.model import keys
from pipeline.model.commit import AggregateFile
from pipeline.model.loss import Loss
from pipeline.model.receipt import OutputFile
from pipeline.model.snapshot import Output, Snapshot, dead_rows
from pipeline.model.task import Assignment
from pipeline.ports import Finished
from pipeline.state.state import State
from pipeline.work.object import Object

from .kernel import Died, Process, Request

if TYPE_CHECKING:
    from .world import World

Row = tuple[str, str, str, str]
"""Source key, the etag it was planned at, its body, and the version of the code that made the row.
"""


class Ids:
    """Names that depend on the process alone, not on who moved before."""

    def __init__(self, name: str) -> None:
        self.name, self.count = name, 0

    def nonce(self) -> str:
        self.count += 1
        return f"{self.name}{self.count}"


def user_code(version: str) -> Callable[[Object], object]:
    """The user's function as it was deployed at one version."""

    def call(obj: Object) -> object:
        body = obj.read().decode()
        if body == "dies":
            raise Died
        if body == "raises":
            raise ValueError("broken")
        return [body, version]

    return call


class SimExecutor:
    """Detached (work is picked up by `World.pump`) or attached (this runner's own worker
    processes).
    """

    def __init__(self, world: World, *, attached: bool, version: str) -> None:
        self.world, self.attached, self.version = world, attached, version
        self.on_modal = world.on_modal and not attached
        self.owner = "modal:app" if self.on_modal else world.kernel.nonce()
        self.detached = self.on_modal
        self.parallelism = 2
        self.running: dict[str, tuple[Process, Assignment]] = {}
        self.ended: list[Finished] = []

    @property
    def outstanding(self) -> int:
        return len(self.running)

    async def dispatch(self, assignments: Sequence[Assignment]) -> None:
        if not self.attached:
            self.world.waiting.extend((assignment, self.version) for assignment in assignments)
            return
        for assignment in assignments:
            process = self.world.work(assignment, self.version, self)
            self.running[assignment.nonce] = (process, assignment)

    async def finished(self) -> list[Finished]:
        while self.running:
            known = {f.nonce for f in self.ended}
            for nonce, (process, assignment) in self.running.items():
                if not process.alive and nonce not in known:
                    suspect = 0 if self.world.kernel.rng.random() < 0.5 else None
                    self.ended.append(
                        Finished(
                            task=assignment.task.id,
                            nonce=nonce,
                            loss=Loss(reason="died", suspect=suspect),
                        )
                    )
            ended, self.ended = self.ended, []
            for finished in ended:
                del self.running[finished.nonce]
            if ended:
                return ended
            await Request("pause")
        return []

    def is_gone(self, owner: str) -> bool:
        """Right about dead runners, and now and then wrong about living ones: that must be
        harmless.
        """
        if self.on_modal:
            return False
        process = self.world.owners.get(owner)
        dead = process is None or not process.alive
        return (dead and self.attached) or (
            self.world.kernel.faults and self.world.kernel.rng.random() < 0.02
        )

    async def close(self) -> None:
        return None


class SimWriter:
    """One output file for all inputs of an attempt; its bytes tell which version of which key they
    came from.
    """

    def __init__(self, assignment: Assignment, out: str = "out/") -> None:
        self.assignment = assignment
        self.out = keys.of_generation(out, assignment.task.generation)
        self.lines: list[tuple[int, str, str, Any]] = []

    def add(
        self,
        index: int,
        key: str,
        etag: str,
        result: Any,
        rejected: Sequence[tuple[object, str]] = (),
    ) -> None:
        self.lines.append((index, key, etag, result))

    def finish(self) -> Any:
        files = []
        if self.lines:
            task = self.assignment.task.id
            file, body = output_file(
                [[k, e, *r, task] for _, k, e, r in self.lines],
                self.out,
                task,
                self.assignment.nonce,
            )
            files = [SimpleNamespace(file=file, body=body, path=None)]
        rows = {i: 1 for i, *_ in self.lines}
        return SimpleNamespace(
            rows=rows, rejected={}, problems={}, schema=None, files=files, broken={}
        )

    def close(self) -> None:
        return None


def output_file(lines: list[Any], out: str, task: str, nonce: str) -> tuple[OutputFile, bytes]:
    """Rows as a file: each has the four parts of a `Row`, and the task that made it."""
    body = json.dumps(lines).encode()
    key = f"{out}rows/{keys.output_id(task, nonce)}.0.parquet"
    described = OutputFile(
        table="rows",
        key=key,
        size_bytes=len(body),
        rows=len(lines),
        partition={},
        schema_id="s",
        sha256="",
    )
    return described, body


class SimRewriter:
    """Copies live rows into one file."""

    def __init__(self, world: World, out: str) -> None:
        self.world, self.out = world, out

    async def rewrite(
        self, outputs: Mapping[str, Output], task: str, nonce: str, schema: str | None
    ) -> list[OutputFile]:
        lines = [
            line
            for name, output in outputs.items()
            for line in await live_lines(self.world, name, output)
        ]
        for _ in range(self.world.kernel.rng.choice([0, 0, 60])):  # large files take their time
            await Request("pause")
        if not lines:
            return []
        file, body = output_file(lines, self.out, task, nonce)
        await self.world.store.put(file.key, body)
        return [file]


async def live_lines(world: World, name: str, output: Output) -> list[list[str]]:
    """The lines of an output that count."""
    dead, lines = set(dead_rows(name, output)), []
    for file in output.files:
        stored = await world.store.get(file.key)
        lines += [line for line in json.loads(stored.body) if (line[4], line[0]) not in dead]
    return lines


def group_of(key: str) -> str:
    """The simulated aggregate counts rows and bodies for each of three groups of keys."""
    return f"g{int(key[-2:]) % 3}"


async def live_rows(world: World, snapshot: Snapshot) -> list[Row]:
    """What a query sees: the rows of the snapshot's files whose source counts there."""
    rows: list[Row] = []
    for name, output in list(snapshot.outputs.items()):
        rows += [(k, e, r, v) for k, e, r, v, _ in await live_lines(world, name, output)]
    return rows


def count_groups(rows: list[Row]) -> dict[str, list[str]]:
    """The simulated aggregate, computed from scratch."""
    groups: dict[str, list[str]] = {}
    for key, etag, body, version in rows:
        groups.setdefault(group_of(key), []).append(f"{key}={etag}={body}={version}")
    return {g: sorted(values) for g, values in sorted(groups.items())}


class SimAggregator:
    """The incremental rule of aggregates in small: recompute the groups that `changes` touched,
    copy the others.
    """

    def __init__(self, world: World, out: str) -> None:
        self.world, self.out = world, out

    async def prepare(self) -> None:
        return None

    def is_behind(self, state: State) -> bool:
        changes = state.changes
        return bool(
            changes.added
            or changes.gone
            or changes.everything
            or (state.totals.sources and not state.aggregates)
        )

    async def compute(self, snapshot: Snapshot, nonce: str) -> list[AggregateFile]:
        groups = count_groups(await live_rows(self.world, snapshot))
        old = snapshot.aggregates.get("a")
        if old is not None and not snapshot.changes.everything:
            touched = {group_of(key) for _, key in snapshot.changes.gone}
            for output in snapshot.changes.added:
                holder = snapshot.outputs.get(output) or snapshot.removed.get(output)
                if holder is None:
                    touched.update(("g0", "g1", "g2"))
                    continue
                for file in holder.files:
                    stored = await self.world.store.get(file.key)
                    touched.update(group_of(k) for k, *_ in json.loads(stored.body))
            before = json.loads((await self.world.store.get(old.key)).body)
            kept = {g: v for g, v in before.items() if g not in touched}
            groups = dict(
                sorted({**kept, **{g: v for g, v in groups.items() if g in touched}}.items())
            )
        body = json.dumps(groups).encode()
        key = keys.aggregate_file(self.out, "a", snapshot.sequence, nonce)
        await self.world.store.put(key, body)
        return [
            AggregateFile(name="a", definition="d", key=key, size_bytes=len(body), rows=len(groups))
        ]
