"""What a pass is given, asked for, and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.model.commit import AggregateFile, OutputFile
from pipeline.model.settings import PipelineSettings, Policy, TransformSettings
from pipeline.model.snapshot import Output, Snapshot
from pipeline.ports import Clock, Executor, Ids, Store
from pipeline.state.state import State


@dataclass(slots=True)
class PassReport:
    """What one pass saw and did; the numbers are of sources unless named otherwise."""

    listed: int = 0
    listed_bytes: int = 0
    planned: int = 0
    planned_bytes: int = 0
    committed: int = 0
    committed_bytes: int = 0
    rows: int = 0
    rejected: int = 0
    quarantined: int = 0
    deleted: int = 0
    changed: int = 0
    """Sources that were overwritten or deleted under way, or whose transform is no longer declared: a further pass sees to them."""
    respawned: int = 0
    """Sources whose attempt was lost and that were dispatched again."""
    unread: int = 0
    """Sources that the store did not give, or whose rows it did not take: a later pass tries them again."""
    unread_reason: str = ""
    unmatched: int = 0
    unmatched_sample: list[str] = field(default_factory=list)
    elsewhere: int = 0
    """Sources in open tasks of other runners at the end of the pass."""
    over_budget: int = 0
    """New sources that the cost limits did not allow."""
    held_back: bool = False
    """As many tasks are open as may be: the next pass goes on."""
    limited: bool = False
    """The limits of the request were reached, and something is left or was not looked at."""
    left: int = 0
    """Sources that were seen and wait for a later pass: by limits, costs, or because as many tasks are open as may be."""
    left_bytes: int = 0
    left_oldest_us: int | None = None
    commits: int = 0
    aggregates: int = 0
    aggregates_failed: str = ""
    """Why they could not be brought up to date. The rows are committed all the same."""
    complete: bool = False
    """The listing was read to its end."""


class Budget(Protocol):
    """Says how many more files may be dispatched (see `cost.Budget`)."""

    def files_affordable(self, state: State, transform: TransformSettings, mean_bytes: float, now_ms: int) -> int | None: ...
    def take(self, state: State, transform: TransformSettings, files: int, mean_bytes: float) -> None: ...


class Aggregator(Protocol):
    """Computes the declared aggregates over a snapshot."""

    async def prepare(self) -> None:
        """Look at what else they are computed from, once for each pass."""
        ...

    def is_behind(self, state: State) -> bool:
        """Whether the state's aggregates do not follow from its rows and the declarations."""
        ...

    async def compute(self, snapshot: Snapshot, nonce: str) -> list[AggregateFile]:
        """Write all aggregates of this snapshot under new keys; those that need no change keep their file."""
        ...


class Rewriter(Protocol):
    """Writes live rows of several outputs anew, together."""

    async def rewrite(self, outputs: Mapping[str, Output], task: str, nonce: str, schema: str | None) -> list[OutputFile]:
        """Write the outputs' live rows as one output of this task and nonce, in the table's schema as it is now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
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
    on_progress: Callable[[PassReport], None] = lambda report: None
    on_columns: Callable[[str], None] = lambda schema: None
    """Called with the table's columns, encoded, after a commit that changed them."""
    stopping: Callable[[], bool] = lambda: False
