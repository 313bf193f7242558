"""Tidemill in the simulated world: one seed, one history."""

from __future__ import annotations

import msgspec

from pipeline.discover.request import Request as Wish
from pipeline.model import keys
from pipeline.model.task import Assignment
from pipeline.passes.context import PassContext
from pipeline.passes.runner import Pass
from pipeline.state.generations import filled
from pipeline.work.orders import order_for

from . import actors, downstream, scene
from .doubles import SimAggregator, SimExecutor, SimRewriter
from .downstream import SimSink
from .kernel import Kernel, Process, SimClock, Violation
from .oracle import Oracle
from .store import SimStore


class World:
    """One history: `run()` raises Violation if an invariant breaks."""

    def __init__(self, seed: int) -> None:
        self.kernel = Kernel(seed)
        self.store = self.kernel.store = SimStore(self.kernel)
        rng = self.kernel.rng
        self.store.stale_listings = rng.random() < 0.25
        self.duplicate, self.lose = rng.choice([0, 0.3]), rng.choice([0, 0.2])
        self.attached = rng.random() < 0.4
        self.on_modal = rng.random() < 0.5
        """Whether detached work runs in containers on Modal, by orders; `mounted`: and through
        mounts.
        """
        self.mounted = rng.random() < 0.6
        self.aggregates = True
        self.version = "v1"
        """Of the code that was deployed last."""
        self.policy = scene.policy(rng)
        self.cast = actors.cast(rng)
        self.sink = SimSink()
        self.waiting: list[tuple[Assignment, str]] = []
        """Dispatched work that nobody began yet, and the version of the code that its runner knows.
        """
        self.owners: dict[str, Process] = {}
        self.oracle = Oracle(self)
        """Of the first generation, and of what happens to sources."""
        self.oracles = {0: self.oracle}
        self.store.on_put = self._on_put
        self.store.on_delete = self.oracle.on_delete

    # -- the parts under test ----------------------------------------------------------------------

    def _on_put(self, key: str, body: bytes, existed: bool) -> None:
        for oracle in self.oracles.values():
            oracle.on_put(key, body, existed)
        known = self.oracle.state.generations
        for one in known.kept if known is not None else ():
            if one.number not in self.oracles:
                self.oracles[one.number] = Oracle(self, one.number, self.oracle)

    @property
    def filled(self) -> list[int]:
        """The generations that runs of the newest code bring up to date."""
        return filled(self.oracle.state.generations, scene.settings(self.version).versions)

    def context(
        self, executor: SimExecutor, skew_s: int, version: str, generation: int = 0
    ) -> PassContext:
        settings = scene.settings(version, generation)
        return PassContext(
            settings=settings,
            policy=self.policy,
            store=self.store,
            executor=executor,
            clock=SimClock(self.kernel, skew_s),
            ids=self.kernel,
            writer="sim",
            unify=lambda before, new: new,
            aggregator=SimAggregator(self, settings.output),
            rewriter=SimRewriter(self, settings.output),
        )

    def plain_pass(self, skew_s: int, generation: int = 0) -> Pass:
        """A pass of somebody who runs no work."""
        return Pass(
            self.context(
                SimExecutor(self, attached=False, version=self.version),
                skew_s,
                self.version,
                generation,
            )
        )

    def skew(self) -> int:
        return self.kernel.rng.randint(-self.kernel.skew_max, self.kernel.skew_max)

    def gave_up(self, error: Exception) -> None:
        self.kernel.stats[f"gave up: {type(error).__name__}"] += 1
        self.oracle.no_corruption(error)

    def start_tick(
        self, *, steady: bool = False, vacuum: bool | None = None, wish: Wish | None = None
    ) -> Process:
        rng = self.kernel.rng
        lags = not steady and rng.random() < 0.1
        executor = SimExecutor(
            self, attached=self.attached and not steady, version="v1" if lags else self.version
        )
        wants_vacuum = rng.random() < 0.3 if vacuum is None else vacuum
        work = actors.tick(self, executor, 0 if steady else self.skew(), wants_vacuum, wish)
        process = self.kernel.start("tick", work, executor.owner)
        self.owners[executor.owner] = process
        return process

    def work(
        self, assignment: Assignment, version: str, executor: SimExecutor | None = None
    ) -> Process:
        return self.kernel.start("worker", actors.work(self, assignment, version, executor))

    def pump(self) -> None:
        """Hand waiting assignments to workers, sometimes twice, sometimes never."""
        rng, faults = self.kernel.rng, self.kernel.faults
        while self.waiting and (not faults or rng.random() < 0.5):
            assignment, version = self.waiting.pop(0)
            if faults and rng.random() < self.lose:
                continue
            if self.on_modal:
                order, _ = order_for(assignment, keys.home("p"))
                for _ in range(1 + (faults and rng.random() < self.duplicate)):
                    self.kernel.start("worker", actors.execute(self, order))
                if faults and rng.random() < 0.2:
                    self.kernel.start(
                        "tick", actors.settle(self, [assignment.task.id], self.skew())
                    )
                continue
            self.work(assignment, version)
            if faults and rng.random() < self.duplicate:
                self.work(msgspec.structs.replace(assignment, nonce=self.kernel.nonce()), version)

    # -- a history ---------------------------------------------------------------------------------

    def run(self, steps: int = 2000) -> None:
        kernel = self.kernel
        kernel.start("world", actors.live_in(self))
        for _ in range(steps):
            self.appear()
            self.pump()
            kernel.step()
        self.heal()
        for number in self.filled:
            self.oracles[number].check_final()
        for _ in range(3):
            kernel.start("stage", downstream.stage(self))
            self.settle_down()
            kernel.now += 100_000  # beyond the deadlines of attempts that nobody can tell are dead
        kernel.run_alone(downstream.check_stage(self))
        kernel.run_alone(downstream.publish(self))
        downstream.check_sink(self)

    def appear(self) -> None:
        """Perhaps somebody begins to act."""
        draw = self.kernel.rng.random()
        for actor, chance in self.cast:
            draw -= chance
            if draw < 0:
                if sum(p.kind == actor.kind for p in self.kernel.processes) < actor.most:
                    actor.start(self)
                return

    def heal(self) -> None:
        """No more faults: everything must come to rest in a bounded number of passes."""
        kernel = self.kernel
        kernel.faults = self.store.stale_listings = False
        for process in kernel.processes:
            process.wake = 0
        calm = 0
        for rounds in range(40):
            self.settle_down()
            kernel.now += 20_000
            if any(
                q.kind == "cancelled"
                for n in self.filled
                for q in self.oracles[n].state.quarantine.values()
            ):
                kernel.start("tick", actors.release(self))
                self.settle_down()
            self.start_tick(steady=True, vacuum=rounds % 3 == 0)
            if rounds in (2, 3):
                kernel.start("world", actors.change(self))
            if rounds % 2:
                actors.ACTORS_AT_REST[kernel.rng.randrange(len(actors.ACTORS_AT_REST))](self)
            self.settle_down()
            calm = calm + 1 if all(self.oracles[n].at_rest() for n in self.filled) else 0
            if rounds >= 4 and calm >= 2:
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
