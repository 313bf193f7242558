"""python -m tests.simulation.explore [--requests N]: every interleaving of a small world, not a
sample of a large one.

Two passes, the two workers they dispatch, two keys, one crash anywhere (whose last write may arrive
at any later moment, or never), one jump of time beyond every deadline, and, in two of the scenes,
an overwrite or a deletion. A step is one request of one process: it reaches the store, and its
answer the process. A process does nothing but what follows from its answers, so two ways to the
same objects and the same answers are one state, and what can follow is visited once.

In every state each process may die: what is left in the bucket alone must come to rest with nothing
lost and nothing doubled.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline.commit_log.log import Log, Outdated
from pipeline.errors import TidemillError
from pipeline.model.policy import Policy
from pipeline.model.task import Assignment
from pipeline.passes.context import PassContext
from pipeline.passes.runner import Pass

from . import actors, mutations, scene
from .doubles import Ids
from .kernel import Kernel, Request, SimClock, Violation
from .oracle import Oracle
from .store import SimStore

SCENES = ("plain", "overwrite", "delete")
WORKERS = 2
LATE_S = 100_000
Move = tuple[str, int]
"""What happens next: `go` or `crash` with a process, `late` with a write of a dead one, `time`,
`user`.
"""


class Executor:
    """Detached: work is begun at once by as many workers as there are; what is more is lost."""

    owner = "scope"
    parallelism = 2
    detached = False
    outstanding = 0

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def dispatch(self, assignments: Sequence[Assignment]) -> None:
        for assignment in assignments:
            if self.scope.workers < WORKERS:
                self.scope.workers += 1
                self.scope.start(actors.work(self.scope, assignment, "v1"))  # type: ignore[arg-type]

    async def finished(self) -> list[Any]:
        return []

    def is_gone(self, owner: str) -> bool:
        return False

    async def close(self) -> None:
        return None


@dataclass(slots=True)
class Actor:
    """One process: its coroutine, the request that is on its way, and a digest of all
    its answers.
    """

    coroutine: Any
    request: Request | None = None
    answers: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=8))


class Scope:
    """The small world in one state. Looks like a `World` to the oracle."""

    aggregates = False

    def __init__(self, scene_name: str) -> None:
        self.scene = scene_name
        self.kernel = Kernel(0)
        self.kernel.faults = False
        self.store = self.kernel.store = SimStore(self.kernel)
        self.policy = Policy(task_files_max=1, lease_margin_s=1000, losses_max=4, lost_backoff_s=60)
        self.oracle = Oracle(self)  # type: ignore[arg-type]
        self.store.on_put, self.store.on_delete = self.oracle.on_put, self.oracle.on_delete
        self.workers = 0
        self.actors: list[Actor | None] = []
        self.late: list[Request] = []
        self.left = {"crash": 1, "time": 1, "user": 0 if scene_name == "plain" else 1}
        for i in range(2):
            self.kernel.perform(Request("put", f"{scene.SOURCE}{i:02d}", b"v1", False, None))
        for name in ("a", "b"):
            self.start(self.tick(name))

    def context(self, name: str) -> PassContext:
        return PassContext(
            settings=scene.settings("v1"),
            policy=self.policy,
            store=self.store,
            executor=Executor(self),
            clock=SimClock(self.kernel, 0),
            ids=Ids(name),
            writer="scope",
            unify=lambda before, new: new,
        )

    async def tick(self, name: str) -> None:
        with suppress(TidemillError, Outdated):
            await Pass(self.context(name)).run()

    # -- moving ------------------------------------------------------------------------------------

    def start(self, coroutine: Any) -> None:
        actor = Actor(coroutine)
        self.actors.append(actor)
        self._advance(len(self.actors) - 1)

    def _advance(self, i: int) -> None:
        actor = self.actors[i]
        assert actor is not None
        try:
            actor.request = actor.coroutine.send(None)
        except StopIteration:
            self.actors[i] = None

    def moves(self) -> list[Move]:
        """Everything that may happen next."""
        alive = [i for i, actor in enumerate(self.actors) if actor is not None]
        found: list[Move] = [("go", i) for i in alive]
        found += [("late", i) for i in range(len(self.late))]
        if self.left["crash"]:
            found += [("crash", i) for i in alive]
        return found + [(name, 0) for name in ("time", "user") if self.left[name]]

    def make(self, move: Move) -> None:
        name, i = move
        if name == "go":
            self._go(i)
        elif name == "late":
            self.kernel.perform(self.late.pop(i))
        elif name == "crash":
            self._crash(i)
        elif name == "time":
            self.left["time"] -= 1
            self.kernel.now += LATE_S
        else:
            self.left["user"] -= 1
            key = f"{scene.SOURCE}00"
            self.kernel.perform(
                Request("put", key, b"v2", False, None)
                if self.scene == "overwrite"
                else Request("delete", key)
            )

    def _go(self, i: int) -> None:
        actor = self.actors[i]
        assert actor is not None and actor.request is not None
        request = actor.request
        self.kernel.perform(request)
        actor.answers.update(
            f"{request.name} {request.args[:1]} {request.result!r} {request.error!r}\n".encode()
        )
        self._advance(i)

    def _crash(self, i: int) -> None:
        actor = self.actors[i]
        assert actor is not None and actor.request is not None
        self.left["crash"] -= 1
        if actor.request.name in ("put", "delete"):
            self.late.append(actor.request)
        actor.coroutine.close()
        self.actors[i] = None

    # -- looking -----------------------------------------------------------------------------------

    def bucket(self) -> bytes:
        """A digest of all objects with their times, and of the clock."""
        digest = hashlib.blake2b(f"{self.kernel.now} {self.left['user']}".encode(), digest_size=16)
        for key in sorted(self.store.objects):
            digest.update(
                f"{key} {self.store.objects[key].modified_us}\n".encode() + self.store.bodies[key]
            )
        return digest.digest()

    def digest(self) -> bytes:
        """A digest of the whole state: equal for states from which the same things can follow."""
        whole = hashlib.blake2b(self.bucket(), digest_size=16)
        for actor in self.actors:
            whole.update(b"-" if actor is None else actor.answers.digest())
        whole.update(f"{self.left} {self.workers} {[(r.name, r.args) for r in self.late]}".encode())
        return whole.digest()

    def close(self) -> None:
        for actor in self.actors:
            if actor is not None:
                actor.coroutine.close()

    def abandoned(self) -> None:
        """Everybody is gone: passes over what the bucket holds must bring it to rest.

        Raises Violation.
        """
        rest = Scope.__new__(Scope)
        rest.kernel, rest.policy, rest.scene = Kernel(1), self.policy, self.scene
        rest.kernel.faults, rest.kernel.now = False, self.kernel.now
        rest.store = rest.kernel.store = SimStore(rest.kernel)
        rest.store.objects, rest.store.bodies = dict(self.store.objects), dict(self.store.bodies)
        rest.store._serial = self.store._serial
        rest.oracle = Oracle(rest)  # type: ignore[arg-type]
        rest.oracle.versions, rest.oracle.present_since = (
            dict(self.oracle.versions),
            dict(self.oracle.present_since),
        )
        log = Log(rest.store, "p", clock=SimClock(rest.kernel, 0), policy=rest.policy)
        rest.oracle.state = rest.kernel.run_alone(log.load())
        rest.store.on_put, rest.store.on_delete = rest.oracle.on_put, rest.oracle.on_delete
        for round_ in range(8):
            rest.actors, rest.workers, rest.late = [], 0, []
            rest.kernel.now += LATE_S
            rest.start(rest.tick(f"r{round_}x"))
            while any(rest.actors):
                for i, actor in enumerate(rest.actors):
                    if actor is not None:
                        rest._go(i)
            if round_ >= 2 and not rest.oracle.state.tasks:
                break
        rest.oracle.check_final()


def script_of(scene_name: str, script: Sequence[Move]) -> Scope:
    """The state that a sequence of moves leads to."""
    scope = Scope(scene_name)
    for move in script:
        scope.make(move)
    return scope


@dataclass(slots=True)
class Visited:
    """What an exploration saw."""

    states: int = 0
    buckets: int = 0
    deepest: int = 0
    cut: int = 0
    """States at the bound: what follows them was not visited."""


def explore(scene_name: str, requests: int) -> Visited:
    """Visit every state within so many steps of the beginning.

    Raises Violation, with the steps that led to it.
    """
    seen: dict[bytes, int] = {}
    buckets: set[bytes] = set()
    found = Visited()
    todo: list[tuple[Move, ...]] = [()]
    while todo:
        script = todo.pop()
        try:
            for state, depth in _follow(scene_name, script, requests, seen, todo):
                found.deepest = max(found.deepest, depth)
                bucket = state.bucket()
                if bucket not in buckets:
                    buckets.add(bucket)
                    state.abandoned()
        except Violation as violation:
            raise Violation(
                f"{violation}; scene {scene_name}, after {list(script)} and on"
            ) from None
    found.states, found.buckets = len(seen), len(buckets)
    found.cut = sum(depth == requests for depth in seen.values())
    return found


def _follow(
    scene_name: str,
    script: tuple[Move, ...],
    requests: int,
    seen: dict[bytes, int],
    todo: list[tuple[Move, ...]],
) -> Iterator[tuple[Scope, int]]:
    """New states along one way, from the end of `script`, each with its depth; what branches off
    goes to `todo`.
    """
    scope = script_of(scene_name, script)
    while True:
        digest = scope.digest()
        if seen.get(digest, requests + 1) <= len(script):
            break
        seen[digest] = len(script)
        yield scope, len(script)
        moves = scope.moves()
        if not moves or len(script) == requests:
            break
        todo.extend((*script, move) for move in moves[1:])
        script = (*script, moves[0])
        scope.make(moves[0])
    scope.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--scene", choices=SCENES, action="append")
    parser.add_argument("--mutation", default=None, choices=[None, *mutations.ALL])
    args = parser.parse_args()
    for name in args.scene or SCENES:
        started = time.perf_counter()
        with mutations.applied(args.mutation):
            found = explore(name, args.requests)
        whole = "all there are" if not found.cut else f"{found.cut:,} cut off"
        print(
            f"{name}: {found.states:,} states within {args.requests} steps ({whole}; the deepest at"
            f" {found.deepest}), {found.buckets:,} buckets abandoned and brought to rest, 0"
            f" violations, {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
