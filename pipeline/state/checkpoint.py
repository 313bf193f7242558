"""What a checkpoint holds: the small head of the state, and the names of the runs that hold the
rest.
"""

from __future__ import annotations

import msgspec

from pipeline.model.commit import AggregateFile, Backlog, Generations, Quarantined
from pipeline.model.snapshot import Changes, Output, Removed
from pipeline.model.task import Task
from pipeline.state.key_growth import Growth
from pipeline.state.sorted_runs import Run
from pipeline.state.usage import Usage


class Totals(msgspec.Struct, kw_only=True):
    """What counts now, added up."""

    sources: int = 0
    rows: int = 0
    """Of the main table."""
    files: int = 0
    size_bytes: int = 0


class Checkpoint(msgspec.Struct, kw_only=True):
    """The log folded up to one sequence: the small head, and the names of the runs that hold the
    rest.
    """

    format: int
    pipeline: str
    sequence: int
    id: str
    schema: str | None
    tasks: dict[str, Task]
    outputs: dict[str, Output]
    """Those that changed since `output_runs` were written."""
    removed: dict[str, Removed]
    quarantine: dict[str, Quarantined]
    aggregates: dict[str, AggregateFile]
    changes: Changes
    runs: list[Run]
    """The ledger, oldest first."""
    output_runs: list[Run] = []
    outputs_gone: list[str] = []
    """Outputs in `output_runs` that are not live any more."""
    totals: Totals | None = None
    """None: written by format 1, which did not add up."""
    superseded: dict[str, list[int]] = {}
    """Inputs of open tasks that may not publish any more, by position: a newer task took or already
    settled their key.
    """
    growth: Growth | None = None
    """Advice for listings, from whoever wrote the checkpoint."""
    usage: Usage = msgspec.field(default_factory=Usage)
    backlog: Backlog | None = None
    generations: Generations | None = None
