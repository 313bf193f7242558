"""The values that travel between the parts and that are written into the bucket. Frozen, typed, no behaviour beyond themselves.

Types that are stored (`Commit`, `Receipt`, `Checkpoint`, ...) are msgspec structs: decoding checks every field's type,
so an object that somebody else wrote is refused by name and never half understood. Times named `_ms` are milliseconds
since 1970 UTC by the clock the field names; `modified_us` is the store's own last-modified time in microseconds.
"""

from __future__ import annotations

from typing import Literal

import msgspec

FORMAT_VERSION = 3
"""Version of every stored object. A larger number in the bucket was written by a newer Tidemill and is refused.

1: outputs in the checkpoint alone. 2: runs in levels, of outputs too, and commits give runs up before they are deleted.
3: compaction of outputs; generations."""

RENTED = "modal:"
"""How the owner of tasks begins whose attempts run detached in rented containers: they queue there, and note that they began."""

MAIN_TABLE = "rows"
REJECTED_TABLE = "rejected"

SourceStatus = Literal["ok", "failed", "stale", "gone", "deferred"]
"""What an attempt did with one source.

ok: its rows are in the outputs. failed: the user's function raised, or what it returned cannot be stored.
stale / gone: the object was overwritten / deleted after planning. deferred: the attempt's time was used up before its turn.
"""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a listing: parallel columns in UTF-8 byte order of `keys`.

    `unusable` holds printable forms of names that cannot be object keys at all (say, file names that are not UTF-8).
    """

    keys: list[str]
    etags: list[str]
    sizes: list[int]
    modified_us: list[int]
    unusable: list[str] = []


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a store knows of one object without its bytes."""

    key: str
    etag: str
    size_bytes: int
    modified_us: int


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """One object as read: the bytes and the version they belong to."""

    body: bytes
    etag: str
    size_bytes: int
    """Size of the whole object, also when only a range was read."""
    modified_us: int


class Inputs(msgspec.Struct, kw_only=True):
    """The source objects of one task, as parallel columns in the order they are processed."""

    keys: list[str]
    etags: list[str]
    sizes: list[int]
    modified_us: list[int]
    replaces: list[str | None]
    """For each key, the output that holds the rows of its previous version (None where there is none)."""

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, indexes: list[int]) -> Inputs:
        """The inputs at these positions, in this order."""
        return Inputs(
            keys=[self.keys[i] for i in indexes],
            etags=[self.etags[i] for i in indexes],
            sizes=[self.sizes[i] for i in indexes],
            modified_us=[self.modified_us[i] for i in indexes],
            replaces=[self.replaces[i] for i in indexes],
        )


class Task(msgspec.Struct, kw_only=True):
    """A unit of work that was committed: some source objects, one transform at one version, into one generation."""

    id: str
    transform: str
    version: str
    generation: int
    inputs: Inputs
    attempt: int
    """1 for the first dispatch; rises when an attempt died or ran past its deadline."""
    losses: int
    """Dispatches whose whole runner vanished; they do not count as attempts until there are many."""
    deadline_ms: int
    """After this moment of the committing runner's clock anyone may dispatch the task again."""
    owner: str
    """Who dispatched it last (see `ports.Executor.owner`)."""
    reason: str = ""
    """Why the last attempt did not finish, where somebody saw it."""
    again: bool = False
    """Of objects that are processed once more at their committed version (a backfill): such tasks leave room for others."""
    merges: list[str] = []
    """A compaction: the outputs whose live rows are written anew, together. It has no transform and no inputs."""

    @property
    def dispatch(self) -> int:
        """Counts every dispatch of the task, whatever ended the one before: names what an attempt notes about itself."""
        return self.attempt + self.losses


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """A task as handed to a worker: the task, the attempt's own nonce, and the table's schema so far."""

    pipeline: str
    task: Task
    nonce: str
    schema: str | None
    """Base64 of the Arrow IPC schema message of the table so far, or None before the first rows."""


class OutputFile(msgspec.Struct, frozen=True, kw_only=True):
    """One Parquet file that an attempt wrote. Its key is new for each attempt and never overwritten."""

    table: str
    """`rows` or `rejected`."""
    key: str
    size_bytes: int
    rows: int
    partition: dict[str, str | None]
    """Hive partition values of the file's rows, in the declared order; empty where the table is not partitioned."""
    schema_id: str
    """Fingerprint of the file's Arrow schema: files with the same one can be scanned together."""
    sha256: str


class SourceProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Why one source of an attempt is not `ok`."""

    index: int
    """Position in the task's inputs."""
    status: SourceStatus
    reason: str = ""
    """One line: exception type and message, or what was expected and what came."""
    detail: str = ""
    """The traceback in the user's code, without values of variables."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt did, source by source. Written last, under a new key; the only thing that can publish rows."""

    format: int
    task: str
    nonce: str
    version: str
    rows: list[int]
    """Rows of each source in the main table, parallel to the task's inputs (0 unless ok)."""
    rejected: list[int]
    """Rows of each source in the rejected table, parallel to the task's inputs."""
    problems: list[SourceProblem]
    """Every source that is not ok, by index."""
    files: list[OutputFile]
    schema: str | None
    """Base64 of the Arrow IPC schema of the main table's rows of this attempt, partition columns included."""
    seconds: float
    """Wall time of the attempt."""
    bytes_read: int
    engine: str = ""
    """Where it ran: a host and process, or a Modal call id."""
    slots: float = 0.0
    """For batch transforms: the sum over all sources of batch_size / size of the source's batch; sources / slots is the fill."""
    mounted: bool = False
    """The attempt read and wrote through a file system without versions: whoever settles it asks the store first."""
    unverified: list[int] = []
    """Sources, by index, whose bytes the attempt could not tie to the planned version by itself."""
    merged_dead: list[int] = []
    """Of a compaction: how many keys of each merged output were dead when its rows were read (see `snapshot.Output.dead`)."""
    broken: dict[str, int] = {}
    """Rows that broke each declared check, whatever became of them; checks that none broke are left out."""


class LossNote(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt's own word that it cannot give a receipt. Written under a name of its own for each attempt."""

    format: int
    task: str
    dispatch: int
    """See `Task.dispatch`."""
    reason: str
    suspect: int | None = None
    detail: str = ""
    innocent: bool = False
    """The attempt could not even begin (say, the code cannot be loaded): that says nothing about the inputs."""


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


class Respawn(msgspec.Struct, frozen=True, kw_only=True):
    """A new dispatch of an open task."""

    task: str
    attempt: int
    losses: int
    deadline_ms: int
    owner: str
    reason: str = ""


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """A source version that is not processed again by itself, or not before `retry_at_ms`."""

    key: str
    etag: str
    kind: Literal["failed", "lost", "key", "cancelled"]
    """failed: the user's own code or result, final for this version. lost: attempts died without an answer, retried with
    backoff. key: the key itself cannot be processed. cancelled: a person cancelled the job it was in."""
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
    """New and changed objects that a listing found and its pass left to later ones: limits, costs, as many open tasks as may be."""

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
    """Transform -> version of the code it is filled with; empty for the first, which takes what comes."""
    created_ms: int = 0
    sample: int | None = None
    """It was filled with so many objects only, to be looked at."""


class Generations(msgspec.Struct, frozen=True, kw_only=True):
    """Which generations a pipeline's table has, and which of them readers see. Kept in the log of the first one."""

    live: int = 0
    previous: int | None = None
    """The one that was live before: rolling back makes it so again."""
    candidate: int | None = None
    """The one that is being filled, to be published."""
    uploads: Literal["both", "live", "new"] = "new"
    """Where runs of the candidate's code put new uploads; runs of other code always fill the live one."""
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
