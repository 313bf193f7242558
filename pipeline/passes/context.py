"""What a pass is given, asked for, and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pipeline.commit_log.log import Log
from pipeline.model.commit import AggregateFile
from pipeline.model.events import Listener, nobody
from pipeline.model.policy import Policy
from pipeline.model.receipt import OutputFile
from pipeline.model.settings import PipelineSettings, TransformSettings
from pipeline.model.snapshot import Output, Snapshot
from pipeline.plan.planner import Proposer
from pipeline.ports import Clock, Executor, Ids, Store
from pipeline.state.state import State


class Budget(Protocol):
    """Says how many more files may be dispatched (see `cost.Budget`)."""

    def files_affordable(
        self, state: State, transform: TransformSettings, mean_bytes: float, now_ms: int
    ) -> int | None: ...
    def take(
        self, state: State, transform: TransformSettings, files: int, mean_bytes: float
    ) -> None: ...


class Aggregator(Protocol):
    """Computes the declared aggregates over a snapshot."""

    async def prepare(self) -> None:
        """Look at what else they are computed from, once for each pass."""
        ...

    def is_behind(self, state: State) -> bool:
        """Whether the state's aggregates do not follow from its rows and the declarations."""
        ...

    async def compute(self, snapshot: Snapshot, nonce: str) -> list[AggregateFile]:
        """Write all aggregates of this snapshot under new keys; those that need no change keep
        their file.
        """
        ...


class Rewriter(Protocol):
    """Rewrites live rows of several outputs, together."""

    async def rewrite(
        self, outputs: Mapping[str, Output], task: str, nonce: str, schema: str | None
    ) -> list[OutputFile]:
        """Write the outputs' live rows as one output of this task and nonce, in the table's schema
        as it is now.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PassContext:
    """What a pass is made of; the composition root fills it in."""

    settings: PipelineSettings
    policy: Policy
    store: Store
    executor: Executor
    clock: Clock
    ids: Ids
    writer: str
    unify: Callable[[str | None, str], str]
    aggregator: Aggregator | None = None
    rewriter: Rewriter | None = None
    budget: Budget | None = None
    listener: Listener = nobody
    stopping: Callable[[], bool] = lambda: False

    def log(self) -> Log:
        """The log of the pipeline, in its generation."""
        s = self.settings
        return Log(
            self.store, s.name, clock=self.clock, policy=self.policy, generation=s.generation
        )

    def proposer(self) -> Proposer:
        """What makes the commits of this pass."""
        return Proposer(
            settings=self.settings,
            policy=self.policy,
            owner=self.executor.owner,
            detached=self.executor.detached,
            writer=self.writer,
            parallelism=max(self.executor.parallelism, 1),
            is_gone=self.executor.is_gone,
            unify=self.unify,
        )
