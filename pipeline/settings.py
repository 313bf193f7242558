"""Parsed settings: plain values that the core reads. `api.Pipeline` makes them from what the user wrote and checks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformSettings:
    """One declared function or class, and what it may use."""

    name: str
    version: str
    match: tuple[str, ...]
    """Globs over the key without the source prefix; the first transform that matches takes the object."""
    timeout_s: float = 600.0
    """Bound on one call of the user's code."""
    max_attempts: int = 3
    memory_mb: int | None = None
    batch_size: int | None = None
    """Objects handed to one call (the function takes and returns lists), or None for one object a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateSettings:
    """One declared SQL aggregate: `by` maps output columns to SQL expressions over the table's rows."""

    name: str
    by: dict[str, str]
    sql: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """One pipeline: which objects, which code, which table."""

    name: str
    source: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    output: str
    partition_by: tuple[str, ...]
    widen: Literal["none", "float", "string"]
    transforms: tuple[TransformSettings, ...]
    aggregates: tuple[AggregateSettings, ...]
    retention_s: float = 7 * DAY_S
    """How long files stay after their last row was superseded."""

    def transform(self, name: str) -> TransformSettings | None:
        """The transform of that name, None if it is no longer declared."""
        return next((t for t in self.transforms if t.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Bounds of the protocol. The defaults serve one machine; the simulation shrinks them."""

    task_bytes_max: int = 16 * 2**20
    task_files_max: int = 2_000
    file_weight_bytes: int = 2048
    """What a file costs besides its bytes when tasks are sized."""
    attempt_budget_s: float = 30.0
    """An attempt starts no further input after this long; the rest is planned anew."""
    lease_margin_s: float = 60.0
    """Added to an attempt's longest regular time to give its deadline."""
    losses_max: int = 20
    """Dispatches whose runner vanished, before they count as failed attempts."""
    lost_backoff_s: float = 60.0
    lost_backoff_max_s: float = DAY_S
    lost_tries_max: int = 12
    """Tries of a source whose attempts end without an answer, before it waits for a person."""
    proposals_max: int = 16
    """Lost races for a sequence number before a commit gives up."""
    sends_max: int = 6
    """Times one log entry is sent while the store does not answer."""
    loads_max: int = 20
    """Times a state is loaded anew because the log moved underneath."""
    outstanding_sources_max: int = 20_000
    """Sources dispatched and not settled before listing goes on."""
    settle_sources_min: int = 4_000
    """Sources whose receipts are gathered before they are committed, while attempts are outstanding."""
    checkpoint_every: int = 64
    """Commits between checkpoints."""
    overlay_max: int = 20_000
    """Changed ledger entries held in memory before they are written out, unless the ledger is four times larger still."""
    vacuum_every: int = 512
    """Commits after which a pass ends with a vacuum."""

    def lease_ms(self, transform: TransformSettings) -> int:
        """How long an attempt may take before anyone may dispatch its task again."""
        return int(1000 * (self.attempt_budget_s + transform.timeout_s + self.lease_margin_s))
