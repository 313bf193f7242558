"""Parsed settings: plain values that the core reads.

`declare.Pipeline` makes them from what the user wrote and checks them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Protocol, runtime_checkable

from pipeline.model import keys

DAY_S = 86_400.0
SchemaMode = Literal["evolve", "freeze", "rescue"]
CheckAction = Literal["quarantine", "reject", "warn"]
Widen = Literal["none", "float", "string"]
MEMORY_MB_DEFAULT = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLimits:
    """Dollars after which nothing new is dispatched; None: no limit."""

    run_usd: float | None = None
    day_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Priority:
    """Which objects go first where not all can go at once.

    order: `key` is the listing's own. prefixes: of the key, without the source prefix; what is
    below the first one goes first, and so on, then the rest (with order `key` alone).
    """

    order: Literal["key", "newest", "oldest"] = "key"
    prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a transform's containers get on Modal.

    On one's own machine only `memory_mb` is enforced.
    """

    cpu: float = 1.0
    memory_mb: int | None = None
    """Bound on a worker's memory; None: no bound here, MEMORY_MB_DEFAULT on Modal."""
    gpu: tuple[str, ...] = ()
    """Cards in order of preference, such as `L4` or `H100:2`."""
    retries: int = 0
    """Times the engine itself runs a failed container's work again, at once; the protocol's own
    attempts come later.
    """
    min_containers: int = 0
    max_containers: int | None = None
    scaledown_window_s: int = 60
    region: tuple[str, ...] = ()
    volumes: dict[str, str] = field(default_factory=dict)
    """Mount path to the name of a Modal volume, for model weights."""
    pip: tuple[str, ...] = ()
    apt: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    memory_snapshot: bool = False
    """Whether containers start from a snapshot of memory taken after `load`."""

    @property
    def memory_mb_deployed(self) -> int:
        """Memory that is reserved, and paid for, on Modal."""
        return self.memory_mb or MEMORY_MB_DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformSettings:
    """One declared function or class, and what it may use."""

    name: str
    version: str
    match: tuple[str, ...]
    """Globs over the key without the source prefix; the first transform that matches takes the
    object.
    """
    timeout_s: float = 600.0
    """Bound on one call of the user's code."""
    max_attempts: int = 3
    batch_size: int | None = None
    """Objects handed to one call (the function takes and returns lists), or None for one object a
    call.
    """
    batch_wait_ms: int = 0
    """How long a container waits for further small tasks to fill a batch."""
    safe_to_rerun: bool = True
    """False: after an attempt without an answer the file waits for a person."""
    keeps_state: bool = False
    """A class: made once in each container, its `load` run once."""
    resources: Resources = field(default_factory=Resources)

    @property
    def memory_mb(self) -> int | None:
        """Bound on a worker's memory on one's own machine."""
        return self.resources.memory_mb


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateSettings:
    """One declared SQL aggregate: `by` maps output columns to SQL expressions over the table's
    rows.
    """

    name: str
    by: dict[str, str]
    sql: str
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSettings:
    """One declared condition over a row, as an SQL expression; a row for which it is false breaks
    it.
    """

    name: str
    sql: str
    action: CheckAction
    columns: tuple[str, ...]
    """The columns that it names."""
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class DimensionSettings:
    """A table that aggregates and queries may join: a file of the bucket, or all files below a
    prefix (which ends with `/`).
    """

    name: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillSettings:
    """A scheduled backfill: which objects that were processed before are processed again."""

    name: str
    schedule: str | float
    prefix: str
    """Of the key, without the source prefix."""
    since_s: float | None
    """Objects that changed at most so long ago; None: all."""
    outdated: bool
    """Only those whose rows were made by another version of the code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSettings:
    """When and how a deployed pipeline runs.

    A schedule is a cron string, a period in seconds, or None.
    """

    schedule: str | float | None = None
    sweep: str | float | None = None
    """With a sweep, only the sweep lists the bucket; scheduled ticks settle, and take the keys that
    were hinted.
    """
    timezone: str = "UTC"
    access: Literal["mount", "api"] = "mount"
    """How workers reach the bucket: through mounts and without credentials, or by the S3 API."""
    pip: tuple[str, ...] = ()
    """Packages in every container; those of one transform alone are its own."""
    apt: tuple[str, ...] = ()
    backfills: tuple[BackfillSettings, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """One pipeline: which objects, which code, which table."""

    name: str
    source: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    output: str
    partition_by: tuple[str, ...]
    widen: Widen
    transforms: tuple[TransformSettings, ...]
    aggregates: tuple[AggregateSettings, ...]
    retention_s: float = 7 * DAY_S
    """How long files stay after their last row was superseded."""
    deployment: DeploymentSettings = field(default_factory=DeploymentSettings)
    cost: CostLimits = field(default_factory=CostLimits)
    listing: Literal["auto", "whole", "growing"] = "auto"
    """Whether passes between two whole listings list from the last key on: where listings showed
    that keys grow, never, always.
    """
    order_by: tuple[str, ...] = ()
    """Columns by which compaction sorts the rows of each file."""
    file_bytes: int = 128 * 2**20
    """Size of the Parquet files that compaction aims at."""
    priority: Priority = field(default_factory=Priority)
    dimensions: tuple[DimensionSettings, ...] = ()
    schema_mode: SchemaMode = "evolve"
    checks: tuple[CheckSettings, ...] = ()
    generation: int = 0
    """Which generation of the table this is about: 0, the first one, lies where the pipeline's own
    home and output are.
    """

    @property
    def home(self) -> str:
        """The home prefix of this generation."""
        return keys.of_generation(keys.home(self.name), self.generation)

    def of_generation(self, generation: int) -> PipelineSettings:
        """The same declarations for another generation."""
        base = self.output.removesuffix(keys.of_generation("", self.generation))
        return replace(self, generation=generation, output=keys.of_generation(base, generation))

    @property
    def timezone(self) -> str:
        """Where days begin and end: in queries, checks and aggregates, and for the schedule."""
        return self.deployment.timezone

    @property
    def versions(self) -> dict[str, str]:
        """Transform -> version of its code."""
        return {transform.name: transform.version for transform in self.transforms}

    def transform(self, name: str) -> TransformSettings | None:
        """The transform of that name, None if it is no longer declared."""
        return next((t for t in self.transforms if t.name == name), None)


@runtime_checkable
class SinkTarget(Protocol):
    """Where else the tables are kept: `Delta(...)` and its like in `sinks`."""

    @property
    def writes(self) -> str | None:
        """What the keys of the bucket begin with that it writes; None if it writes none."""
        ...

    needs: ClassVar[tuple[str, ...]]
    """Packages beside Tidemill's own."""
    stays_here: ClassVar[bool]
    """Whether no container reaches it."""

    @property
    def modal_secret(self) -> str | None:
        """The Modal secret that it needs once deployed."""
        ...
