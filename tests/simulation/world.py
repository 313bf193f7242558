"""Tidemill in the simulated world: passes, workers, vacuums and readers, and the invariants they must keep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec

from pipeline import keys
from pipeline.contents import FetchedContents
from pipeline.desk import Desk
from pipeline.errors import ObjectNotFound, TidemillError
from pipeline.log import Log
from pipeline.model import RENTED, AggregateFile, Assignment, Commit, OutputFile
from pipeline.objects import Object
from pipeline.orders import Answer, Order, order_for
from pipeline.parts import Parts
from pipeline.ports import Finished
from pipeline.runner import Outdated, Pass
from pipeline.settings import AggregateSettings, PipelineSettings, Policy, TransformSettings
from pipeline.snapshot import Snapshot
from pipeline.state import State
from pipeline.worker import Code, Worker

from .kernel import Died, Kernel, Process, Request, SimClock, Violation
from .rented import MountBox, MountedContents, StoreBox
from .store import SimStore

RETENTION_S = 400
SOURCE = "src/"


class World:
    """One history: `run()` raises Violation if an invariant breaks."""

    def __init__(self, seed: int) -> None:
        self.kernel = Kernel(seed)
        self.store = self.kernel.store = SimStore(self.kernel)
        rng = self.kernel.rng
        self.store.stale_listings = rng.random() < 0.25
        self.duplicate, self.lose = rng.choice([0, 0.3]), rng.choice([0, 0.2])
        self.attached = rng.random() < 0.4
        self.rented = rng.random() < 0.5
        """Whether detached work runs in rented containers, by orders; `mounted`: and through mounts."""
        self.mounted = rng.random() < 0.6
        self.settings = PipelineSettings(
            name="p",
            source=SOURCE,
            include=("**",),
            exclude=(),
            output="out/",
            partition_by=(),
            widen="none",
            transforms=(TransformSettings(name="t", version="v1", match=("**",), timeout_s=0, max_attempts=3),),
            aggregates=(AggregateSettings(name="a", by={"g": "g"}, sql=""),),
            retention_s=RETENTION_S,
        )
        self.policy = Policy(
            task_files_max=rng.choice([1, 2, 4]),
            attempt_budget_s=rng.choice([20, 1000]),
            lease_margin_s=rng.choice([40, 80, 150]) - 20,
            lost_backoff_s=60,
            lost_backoff_max_s=3600,
            losses_max=4,
            checkpoint_every=rng.choice([1, 4, 64]),
            settle_sources_min=rng.choice([1, 4]),
            outstanding_sources_max=rng.choice([2, 100]),
        )
        self.waiting: list[Assignment] = []
        self.owners: dict[str, Process] = {}
        self.oracle = Oracle(self)
        self.store.on_put = self.oracle.on_put
        self.store.on_delete = self.oracle.on_delete

    # -- the parts under test ----------------------------------------------------------------------------------------

    def parts(self, executor: SimExecutor, skew_s: int) -> Parts:
        return Parts(
            settings=self.settings,
            policy=self.policy,
            store=self.store,
            executor=executor,
            clock=SimClock(self.kernel, skew_s),
            ids=self.kernel,
            writer="sim",
            unify=lambda before, new: new,
            aggregator=SimAggregator(self),
        )

    def skew(self) -> int:
        return self.kernel.rng.randint(-self.kernel.skew_max, self.kernel.skew_max)

    async def tick(self, executor: SimExecutor, skew_s: int, vacuum: bool) -> None:
        try:
            running = Pass(self.parts(executor, skew_s))
            await running.run()
            if vacuum:
                await running.vacuum()
        except (TidemillError, Outdated) as error:
            self.kernel.stats[f"gave up: {type(error).__name__}"] += 1
            self.oracle.no_corruption(error)

    async def execute(self, order: Order) -> None:
        """One execution of an order in a rented container."""
        box = (MountBox if self.mounted else StoreBox)(self.store)
        desk = Desk("p", box, SimClock(self.kernel, 0), self.kernel)
        found = await desk.begin(order)
        if isinstance(found, Answer):
            self.kernel.stats["orders refused"] += 1
            return
        worker = Worker(
            store=box,
            contents=MountedContents(self.store) if self.mounted else FetchedContents(self.store),
            home=keys.home("p"),
            code={"t": Code(call=user_code, batch_size=None)}.get,
            make_writer=SimWriter,
            clock=SimClock(self.kernel, 0),
            budget_s=self.policy.attempt_budget_s,
        )
        [result] = await worker.run_together([found], lambda i: None)
        receipt, lost = (None, str(result)) if isinstance(result, Exception) else (result, "")
        await desk.end(found, Finished(task=found.task.id, nonce=found.nonce, receipt=receipt, lost=lost))

    async def settle(self, tasks: list[str], skew_s: int) -> None:
        """The committer: settles some tasks, and dispatches nothing."""
        try:
            await Pass(self.parts(SimExecutor(self, attached=False), skew_s)).settle(tasks)
        except (TidemillError, Outdated) as error:
            self.kernel.stats[f"gave up: {type(error).__name__}"] += 1
            self.oracle.no_corruption(error)

    def start_tick(self, *, steady: bool = False, vacuum: bool | None = None) -> Process:
        rng = self.kernel.rng
        attached = self.attached and not steady
        executor = SimExecutor(self, attached=attached)
        wants_vacuum = rng.random() < 0.3 if vacuum is None else vacuum
        process = self.kernel.start("tick", self.tick(executor, 0 if steady else self.skew(), wants_vacuum), executor.owner)
        self.owners[executor.owner] = process
        return process

    async def work(self, assignment: Assignment, executor: SimExecutor | None = None) -> None:
        worker = Worker(
            store=self.store,
            contents=FetchedContents(self.store),
            home=keys.home("p"),
            code={"t": Code(call=user_code, batch_size=None)}.get,
            make_writer=SimWriter,
            clock=SimClock(self.kernel, 0),
            budget_s=self.policy.attempt_budget_s,
        )
        receipt, lost = None, ""
        try:
            receipt = await worker.run(assignment, lambda i: None)
        except TidemillError as error:
            lost = str(error)
        if executor is not None:
            task = assignment.task.id
            executor.ended.append(Finished(task=task, nonce=assignment.nonce, receipt=receipt, lost=lost))

    def pump(self) -> None:
        """Hand waiting assignments to workers, sometimes twice, sometimes never."""
        rng = self.kernel.rng
        while self.waiting and (not self.kernel.faults or rng.random() < 0.5):
            assignment = self.waiting.pop(0)
            if self.kernel.faults and rng.random() < self.lose:
                continue
            if self.rented:
                order, _ = order_for(assignment, keys.home("p"))
                for _ in range(1 + (self.kernel.faults and rng.random() < self.duplicate)):
                    self.kernel.start("worker", self.execute(order))
                if self.kernel.faults and rng.random() < 0.2:
                    self.kernel.start("tick", self.settle([assignment.task.id], self.skew()))
                continue
            self.kernel.start("worker", self.work(assignment))
            if self.kernel.faults and rng.random() < self.duplicate:
                again = msgspec.structs.replace(assignment, nonce=self.kernel.nonce())
                self.kernel.start("worker", self.work(again))

    async def read(self) -> None:
        started = self.kernel.now
        try:
            state = await Log(self.store, "p", clock=SimClock(self.kernel, 0), policy=self.policy).load()
            await self.oracle.check_snapshot(state, started)
        except TidemillError as error:
            self.oracle.no_corruption(error)

    async def live_in(self) -> None:
        """The user's side: upload, overwrite, delete."""
        rng = self.kernel.rng
        names = rng.choice([3, 6, 14])
        for i in range(rng.randint(4, 30)):
            key = f"{SOURCE}{rng.randrange(names):02d}"
            body = rng.choice([f"v{i}"] * 12 + ["dies", "raises"])
            draw = rng.random()
            if draw < 0.75:
                await Request("put", key, body.encode(), False, None)
            elif draw < 0.9:
                await Request("delete", key)
            for _ in range(rng.choice([0, 1, 5, 20, 60])):
                await Request("pause")

    # -- a history ---------------------------------------------------------------------------------------------------

    def run(self, steps: int = 1000) -> None:
        kernel, rng = self.kernel, self.kernel.rng
        kernel.start("world", self.live_in())
        for _ in range(steps):
            if rng.random() < 0.06 and sum(p.kind == "tick" for p in kernel.processes) < 3:
                self.start_tick()
            if rng.random() < 0.03:
                kernel.start("reader", self.read())
            self.pump()
            kernel.step()
        self.heal()
        self.oracle.check_final()

    def heal(self) -> None:
        """No more faults: everything must come to rest in a bounded number of passes."""
        kernel = self.kernel
        kernel.faults = self.store.stale_listings = False
        for process in kernel.processes:
            process.wake = 0
        for rounds in range(40):
            self.settle_down()
            kernel.now += 20_000
            self.start_tick(steady=True, vacuum=rounds % 3 == 0)
            self.settle_down()
            if rounds >= 8 and self.oracle.at_rest():
                return
        raise Violation("does not come to rest")

    def settle_down(self) -> None:
        kernel, steps = self.kernel, 0
        while kernel.processes or kernel.dead_letters or self.waiting:
            self.pump()
            if kernel.dead_letters and not kernel.processes:
                kernel.perform(kernel.dead_letters.pop())
            else:
                kernel.step()
            steps += 1
            if steps > 60_000:
                raise Violation("no progress")


def user_code(obj: Object) -> object:
    body = obj.read().decode()
    if body == "dies":
        raise Died
    if body == "raises":
        raise ValueError("broken")
    return body


class SimExecutor:
    """Detached (work is picked up by `World.pump`) or attached (this runner's own worker processes)."""

    def __init__(self, world: World, *, attached: bool) -> None:
        self.world, self.attached = world, attached
        self.rented = world.rented and not attached
        self.owner = f"{RENTED}app" if self.rented else world.kernel.nonce()
        self.parallelism = 2
        self.running: dict[str, tuple[Process, Assignment]] = {}
        self.ended: list[Finished] = []

    @property
    def outstanding(self) -> int:
        return len(self.running)

    async def dispatch(self, assignments: Sequence[Assignment]) -> None:
        if not self.attached:
            self.world.waiting.extend(assignments)
            return
        for assignment in assignments:
            process = self.world.kernel.start("worker", self.world.work(assignment, self))
            self.running[assignment.nonce] = (process, assignment)

    async def finished(self) -> list[Finished]:
        while self.running:
            known = {f.nonce for f in self.ended}
            for nonce, (process, assignment) in self.running.items():
                if not process.alive and nonce not in known:
                    suspect = 0 if self.world.kernel.rng.random() < 0.5 else None
                    self.ended.append(Finished(task=assignment.task.id, nonce=nonce, lost="died", suspect=suspect))
            ended, self.ended = self.ended, []
            for finished in ended:
                del self.running[finished.nonce]
            if ended:
                return ended
            await Request("pause")
        return []

    def is_gone(self, owner: str) -> bool:
        """Right about dead runners, and now and then wrong about living ones: that must be harmless."""
        if self.rented:
            return False
        process = self.world.owners.get(owner)
        dead = process is None or not process.alive
        return (dead and self.attached) or (self.world.kernel.faults and self.world.kernel.rng.random() < 0.02)

    async def close(self) -> None:
        return None


class SimWriter:
    """One output file for all inputs of an attempt; its bytes tell which version of which key they came from."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.lines: list[tuple[int, str, str, object]] = []

    def add(self, index: int, key: str, etag: str, result: object, rejected: Sequence[tuple[object, str]] = ()) -> None:
        self.lines.append((index, key, etag, result))

    def finish(self) -> Any:
        files = []
        if self.lines:
            body = json.dumps([[k, e, r] for _, k, e, r in self.lines]).encode()
            output = keys.output_id(self.assignment.task.id, self.assignment.nonce)
            file = OutputFile(
                table="rows",
                key=f"out/rows/{output}.0.parquet",
                size_bytes=len(body),
                rows=len(self.lines),
                partition={},
                schema_id="s",
                sha256="",
            )
            files = [SimpleNamespace(file=file, body=body, path=None)]
        rows = {i: 1 for i, *_ in self.lines}
        return SimpleNamespace(rows=rows, rejected={}, problems={}, schema=None, files=files)

    def close(self) -> None:
        return None


def group_of(key: str) -> str:
    """The simulated aggregate counts rows and bodies for each of three groups of keys."""
    return f"g{int(key[-2:]) % 3}"


async def live_rows(world: World, snapshot: Snapshot) -> list[tuple[str, str, str]]:
    rows = []
    for output in list(snapshot.outputs.values()):
        for file in output.files:
            stored = await world.store.get(file.key)
            rows += [(k, e, r) for k, e, r in json.loads(stored.body) if k not in output.dead]
    return rows


def count_groups(rows: list[tuple[str, str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key, etag, body in rows:
        groups.setdefault(group_of(key), []).append(f"{key}={etag}={body}")
    return {g: sorted(values) for g, values in sorted(groups.items())}


class SimAggregator:
    """The incremental rule of aggregates in small: recompute the groups that `changes` touched, copy the others."""

    def __init__(self, world: World) -> None:
        self.world = world

    def is_behind(self, snapshot: Snapshot) -> bool:
        changes = snapshot.changes
        return bool(changes.added or changes.gone or changes.everything or (snapshot.outputs and not snapshot.aggregates))

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
                    touched.update(group_of(k) for k, _, _ in json.loads(stored.body))
            before = json.loads((await self.world.store.get(old.key)).body)
            kept = {g: v for g, v in before.items() if g not in touched}
            groups = dict(sorted({**kept, **{g: v for g, v in groups.items() if g in touched}}.items()))
        body = json.dumps(groups).encode()
        key = keys.aggregate_file("out/", "a", snapshot.sequence, nonce)
        await self.world.store.put(key, body)
        return [AggregateFile(name="a", definition="d", key=key, size_bytes=len(body), rows=len(groups))]


class Oracle:
    """Watches every object that reaches the store and knows what must hold."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.state = State("p")
        self.commits: dict[str, bytes] = {}
        self.present_since: dict[str, int] = {}
        self.versions: dict[str, str] = {}
        self.decided_at: dict[str, int] = {}

    @property
    def now(self) -> int:
        return self.world.kernel.now

    def on_put(self, key: str, body: bytes, existed: bool) -> None:
        if key.startswith(SOURCE):
            self.versions[self.world.store.objects[key].etag] = body.decode()
            if not existed:
                self.present_since[key] = self.now
        sequence = keys.log_sequence(key)
        if sequence is None:
            return
        if sequence <= self.state.sequence:
            self.world.kernel.stats["re-created below the floor"] += 1
            return
        self._commit(msgspec.json.decode(body, type=Commit))

    def on_delete(self, key: str) -> None:
        self.present_since.pop(key, None)

    def _commit(self, commit: Commit) -> None:
        for deleted in commit.deleted:
            since = self.present_since.get(deleted.key)
            if since is not None and since < self.decided_at.get(deleted.key, 0):
                raise Violation(f"rows of the present source {deleted.key} were removed")
        before = {k: self.state.entry(k) for s in commit.settle for k in self.state.tasks[s.task].inputs.keys}
        self.state.apply(commit, self.now * 1000)
        self.world.kernel.stats["commits"] += 1
        for key, old in before.items():
            new = self.state.entry(key)
            if old is not None and new is not None and int(new.etag[1:]) < int(old.etag[1:]):
                raise Violation(f"{key} went back from {old.etag} to {new.etag}")
        for key, sequence in self.state.touched.items():
            if sequence == commit.sequence:
                self.decided_at[key] = self.now

    def no_corruption(self, error: Exception) -> None:
        if type(error).__name__ in ("StateInvalid", "InvariantViolated"):
            raise Violation(f"{type(error).__name__}: {error}")

    async def check_snapshot(self, state: State, started: int) -> None:
        """A reader sees every committed source once, at its committed version, and aggregates that follow from that."""
        snapshot = state.snapshot()
        try:
            rows = await live_rows(self.world, snapshot)
            stored = [await self.world.store.get(f.key) for f in snapshot.aggregates.values()]
        except ObjectNotFound as error:
            if self.now - started > RETENTION_S // 2:
                self.world.kernel.stats["readers too slow"] += 1
                return
            raise Violation(f"a live file is missing: {error}") from None
        check_rows(rows, state, self.versions)
        current = stored and not (snapshot.changes.added or snapshot.changes.gone or snapshot.changes.everything)
        if current and json.loads(stored[0].body) != count_groups(rows):
            raise Violation("the aggregate is not the recomputation")
        self.world.kernel.stats["reads"] += 1

    def at_rest(self) -> bool:
        poison = {k for k, b in self.world.store.bodies.items() if b == b"dies"}
        return all(set(t.inputs.keys) <= poison for t in self.state.tasks.values())

    def check_final(self) -> None:
        world = self.world
        log = Log(world.store, "p", clock=SimClock(world.kernel, 0), policy=world.policy)
        state: State = world.kernel.run_alone(log.load())
        world.kernel.run_alone(self.check_snapshot(state, self.now))
        if state.outputs and not state.aggregates:
            raise Violation("no aggregate was ever committed")
        sources = {k: (world.store.objects[k].etag, b.decode()) for k, b in world.store.bodies.items() if k.startswith(SOURCE)}
        for key, (etag, body) in sources.items():
            entry, quarantined = state.entry(key), state.quarantine.get(key)
            if body in ("dies", "raises"):
                open_now = state.wanted.get(key)
                if not (quarantined and quarantined.etag == etag) and not (open_now and open_now[1] == etag):
                    raise Violation(f"poison {key} is not in quarantine")
            elif entry is None or entry.etag != etag:
                raise Violation(f"lost: {key} at {etag} is not committed, but {entry}")
            elif quarantined is not None:
                raise Violation(f"{key} is committed and in quarantine")
        known = set(state.overlay) | set(state.ledger.table.column("key").to_pylist() if state.ledger.table else ())
        for key in known:
            if key not in sources and state.entry(key) is not None:
                raise Violation(f"rows of the deleted source {key} are live")
        self._check_bounds(state)

    def _check_bounds(self, state: State) -> None:
        """What is stored does not grow with history: at most what is live, retained, or since the last vacuum."""
        objects = self.world.store.objects
        for prefix, most in (("log/", 60), ("checkpoint/", 60), ("ledger/", 60), ("receipts/", 60)):
            count = sum(k.startswith(keys.home("p") + prefix) for k in objects)
            if count > most:
                raise Violation(f"{count} objects under {prefix}")


def check_rows(rows: list[tuple[str, str, str]], state: State, versions: dict[str, str]) -> None:
    seen: dict[str, str] = {}
    for key, etag, body in rows:
        if versions[etag] != body:
            raise Violation(f"{key} at {etag} was {versions[etag]!r}, its row says {body!r}")
        if key in seen:
            raise Violation(f"{key} is read twice")
        seen[key] = etag
        entry = state.entry(key)
        if entry is None or entry.etag != etag:
            raise Violation(f"{key}: rows of {etag}, ledger {entry}")
    table = state.ledger.table
    known = set(state.overlay) | set(table.column("key").to_pylist() if table is not None else ())
    live = {key for key in known if state.entry(key) is not None}
    if live != set(seen):
        raise Violation(f"rows and ledger differ: {sorted(live ^ set(seen))}")
