"""What readers see: one pipeline at one sequence number, whole.

Readers use this file list and never a listing or a glob.
"""

from __future__ import annotations

import msgspec

from pipeline.model.commit import AggregateFile, Quarantined
from pipeline.model.receipt import OutputFile


class Output(msgspec.Struct, kw_only=True):
    """The files of one settled attempt, shared by the sources that attempt processed; or of a
    compaction of several such.
    """

    files: list[OutputFile]
    live: int
    """Sources whose current rows are in these files."""
    dead: list[str] = []
    """Source keys whose rows in these files do not count any more: superseded, deleted, or never
    published. Only added to.
    """
    dead_tasks: list[str] = []
    """For each of `dead`, the `_task` of those rows; empty where it is the output's own."""
    into: str | None = None
    """The output that has its rows since a compaction: this one has no files, and stays known while
    sources name it.
    """


def dead_rows(output_id: str, output: Output) -> list[tuple[str, str]]:
    """The rows in the output's files that do not count, as pairs of `_task` and `_source_key`."""
    if output.dead_tasks:
        return list(zip(output.dead_tasks, output.dead, strict=True))
    task = output_id.partition(".")[0]
    return [(task, key) for key in output.dead]


class Removed(msgspec.Struct, kw_only=True):
    """An output without live sources.

    Its files stay until retention has passed, for readers and aggregates in flight.
    """

    files: list[OutputFile]
    removed_ms: int
    """When it stopped being live, by the store's clock."""
    merged: bool = False
    """Its rows were of other tasks than its own: it came from a compaction."""


class Changes(msgspec.Struct, kw_only=True):
    """What happened to the main table since the aggregates were last committed."""

    added: list[str] = []
    """Outputs published since (they may have been removed again)."""
    gone: list[tuple[str, str]] = []
    """(output, source key) pairs whose rows ceased to be live since, whether published before or
    since.
    """
    everything: bool = False
    """The two lists would be too long: compute from scratch."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One pipeline at one sequence.

    `outputs` maps output ids (`task.nonce`) to their files and dead keys. A row is live if its file
    belongs to an output here and its `_task` and `_source_key` are not among that output's
    `dead_rows`. An output never holds two versions of a key.
    """

    pipeline: str
    sequence: int
    schema: str | None
    """Base64 of the Arrow IPC schema of the main table: partition columns included, provenance
    columns not.
    """
    outputs: dict[str, Output]
    removed: dict[str, Removed]
    aggregates: dict[str, AggregateFile]
    changes: Changes
    quarantine: dict[str, Quarantined]
    generation: int = 0
    """Of the table (see `commit.Generations`), where somebody said so."""
