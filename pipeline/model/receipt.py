"""What an attempt leaves: its receipt, the files that it wrote, or the note that it is lost."""

from __future__ import annotations

from typing import Literal

import msgspec

from pipeline.model.loss import Loss

MAIN_TABLE = "rows"
REJECTED_TABLE = "rejected"

SourceStatus = Literal["ok", "failed", "stale", "gone", "deferred"]
"""What an attempt did with one source.

ok: its rows are in the outputs. failed: the user's function raised, or what it returned cannot be
stored. stale / gone: the object was overwritten / deleted after planning. deferred: the attempt's
time was used up before its turn.
"""


class OutputFile(msgspec.Struct, frozen=True, kw_only=True):
    """One Parquet file that an attempt wrote.

    Its key is new for each attempt and never overwritten.
    """

    table: str
    """`rows` or `rejected`."""
    key: str
    size_bytes: int
    rows: int
    partition: dict[str, str | None]
    """Hive partition values of the file's rows, in the declared order; empty where the table is not
    partitioned.
    """
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
    """What one attempt did, source by source.

    Written last, under a new key; the only thing that can publish rows.
    """

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
    """Base64 of the Arrow IPC schema of the main table's rows of this attempt, partition columns
    included.
    """
    seconds: float
    """Wall time of the attempt."""
    bytes_read: int
    engine: str = ""
    """Where it ran: a host and process, or a Modal call id."""
    slots: float = 0.0
    """For batch transforms: the sum over all sources of batch_size / size of the source's batch;
    sources / slots is the fill.
    """
    mounted: bool = False
    """The attempt read and wrote through a file system without versions: whoever settles it asks
    the store first.
    """
    unverified: list[int] = []
    """Sources, by index, whose bytes the attempt could not tie to the planned version by itself."""
    merged_dead: list[int] = []
    """Of a compaction: how many keys of each merged output were dead when its rows were read (see
    `snapshot.Output.dead`).
    """
    broken: dict[str, int] = {}
    """Rows that broke each declared check, whatever became of them; checks that none broke are left
    out.
    """


class LossNote(Loss, frozen=True, kw_only=True):
    """An attempt's own statement that it cannot give a receipt: the loss, and what was lost.

    Written under a name of its own for each attempt.
    """

    format: int
    task: str
    dispatch: int
    """See `Task.dispatch`."""
