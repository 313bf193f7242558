"""The values that travel between the parts and that are written into the bucket.

Frozen, typed, no behaviour beyond themselves.

Types that are stored (`Commit`, `Receipt`, `Checkpoint`, ...) are msgspec structs: decoding checks
every field's type, so an object that somebody else wrote is refused by name and never half
understood. Times named `_ms` are milliseconds since 1970 UTC by the clock the field names;
`modified_us` is the store's own last-modified time in microseconds.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pipeline.model.receipt import OutputFile, Receipt, SourceProblem
from pipeline.model.task import Task

FORMAT_VERSION = 3
"""Version of every stored object.

A larger number in the bucket was written by a newer Tidemill and is refused.

1: outputs in the checkpoint alone. 2: runs in levels, of outputs too, and commits give runs up
before they are deleted. 3: compaction of outputs; generations.
"""


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a commit that ends one task with one receipt."""

    task: str
    nonce: str
    rows: list[int]
    rejected: list[int]
    problems: list[SourceProblem]
    files: list[OutputFile]
    seconds: float
    bytes_read: int = 0
    slots: float = 0.0
    merged_dead: list[int] = []
    """See `Receipt.merged_dead`."""
    broken: dict[str, int] = {}
    """See `Receipt.broken`."""

    @classmethod
    def of(cls, receipt: Receipt) -> Settled:
        """The end of a task by this receipt."""
        shared = {name: getattr(receipt, name) for name in cls.__struct_fields__}
        return cls(**shared)


class Respawn(msgspec.Struct, frozen=True, kw_only=True):
    """A new dispatch of an open task."""

    task: str
    attempt: int
    losses: int
    deadline_ms: int
    owner: str
    detached: bool = False
    """See `Task.detached`."""
    reason: str = ""


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """A source version that is not processed again by itself, or not before `retry_at_ms`."""

    key: str
    etag: str
    kind: Literal["failed", "lost", "key", "cancelled"]
    """failed: the user's own code or result, final for this version. lost: attempts died without an
    answer, retried with backoff. key: the key itself cannot be processed. cancelled: a person
    cancelled the job it was in.
    """
    reason: str
    detail: str = ""
    tries: int = 1
    retry_at_ms: int = 0
    """0: never by itself."""
    task: str = ""
    transform: str = ""
    version: str = ""
    size_bytes: int = 0


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """A committed or quarantined source that no longer exists in the bucket."""

    key: str
    output: str | None
    """The output that held its rows, None if it was only quarantined."""


class AggregateFile(msgspec.Struct, frozen=True, kw_only=True):
    """One aggregate as computed over the snapshot just before the commit that carries it."""

    name: str
    definition: str
    """Fingerprint of the SQL and its groups: another one means computing from scratch."""
    key: str
    size_bytes: int
    rows: int


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """New and changed objects that a listing found and its pass left to later ones: limits, costs,
    as many open tasks as may be.
    """

    files: int = 0
    size_bytes: int = 0
    oldest_us: int | None = None
    """The oldest one's last-modified time by the store."""
    at_ms: int = 0
    """When a listing first found it so, by the writer's clock; for people."""
    complete: bool = True
    """False: the listing was not read to its end, so there may be more."""


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of a pipeline's table: all its rows, as one version of the code made them."""

    number: int
    versions: dict[str, str] = {}
    """Transform -> version of the code it is filled with; empty for the first, which takes what
    comes.
    """
    created_ms: int = 0
    sample: int | None = None
    """It was filled with so many objects only, to be looked at."""


class Generations(msgspec.Struct, frozen=True, kw_only=True):
    """Which generations a pipeline's table has, and which of them readers see.

    Kept in the log of the first one.
    """

    live: int = 0
    previous: int | None = None
    """The one that was live before: rolling back makes it so again."""
    candidate: int | None = None
    """The one that is being filled, to be published."""
    uploads: Literal["both", "live", "new"] = "new"
    """Where runs of the candidate's code put new uploads; runs of other code always fill the live
    one.
    """
    kept: list[Generation] = []
    dropped: list[int] = []
    """Their files are to be deleted; a number is never used again."""

    def get(self, number: int) -> Generation | None:
        """The generation of that number, None where there is none."""
        return next((generation for generation in self.kept if generation.number == number), None)


class Commit(msgspec.Struct, kw_only=True):
    """One log entry: everything that becomes true at one sequence number."""

    format: int
    sequence: int
    id: str
    previous: str | None
    pipeline: str
    generation: int
    writer: str
    written_ms: int
    """The writer's clock, for people; no rule depends on it."""
    plan: list[Task] = []
    respawn: list[Respawn] = []
    retire: list[str] = []
    """Tasks that end without a receipt: split into smaller ones, or their source quarantined."""
    settle: list[Settled] = []
    quarantine: list[Quarantined] = []
    requeue: list[str] = []
    """Quarantined keys to plan again."""
    deleted: list[Deleted] = []
    schema: str | None = None
    """The table's schema from here on, where it changed."""
    aggregates: list[AggregateFile] = []
    vacuumed: list[str] = []
    """Removed outputs whose files are gone for good."""
    collected: list[str] = []
    """Ledger runs to be deleted: no checkpoint from here on may name them."""
    backlog: Backlog | None = None
    """What the writer's listing left for later, where that is not what is known already."""
    generations: Generations | None = None
    """Which generations there are from here on, where that changed."""

    def is_empty(self) -> bool:
        """Whether nothing would change: such a commit is never appended."""
        return not (
            self.plan
            or self.respawn
            or self.retire
            or self.settle
            or self.quarantine
            or self.requeue
            or self.deleted
            or self.schema
            or self.aggregates
            or self.vacuumed
            or self.collected
            or self.backlog
            or self.generations
        )
