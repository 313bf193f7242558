"""What was seen outside the log, on its way into a proposal: found objects, receipts, losses.

Pure values.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.model import keys
from pipeline.model.commit import Backlog, Quarantined
from pipeline.model.loss import Loss
from pipeline.model.receipt import MAIN_TABLE, REJECTED_TABLE, OutputFile, Receipt
from pipeline.model.task import Inputs, Task
from pipeline.state.generations import Change


@dataclass(frozen=True, slots=True)
class LostAttempt:
    """One attempt that ended without a receipt, as its executor or its note says."""

    attempt: int
    owner: str
    loss: Loss
    dispatch: int | None = None
    """The dispatch that was lost, where that is known (see `Task.dispatch`)."""


@dataclass(slots=True)
class Found:
    """New or changed objects of one transform, as parallel columns, with the output their previous
    version is in.
    """

    transform: str
    inputs: Inputs
    again: bool = False
    """They are at their committed version, and to be processed once more."""


class ByTransform:
    """Objects that were found, in columns by transform."""

    def __init__(self) -> None:
        self._columns: dict[tuple[bool, str], Inputs] = {}

    def of(self, transform: str, *, again: bool) -> Inputs:
        """The columns to append to."""
        return self._columns.setdefault((again, transform), Inputs.empty())

    def found(self) -> list[Found]:
        """As they came, with what is processed once more at the end."""
        found = [Found(name, inputs, again) for (again, name), inputs in self._columns.items()]
        return sorted(found, key=lambda one: one.again)


@dataclass(frozen=True, slots=True)
class Repaired:
    """The table's columns as they are to be, where they are still what they were `before` (see
    `tables/schema_repair.py`).
    """

    before: str | None
    after: str


@dataclass(slots=True)
class Evidence:
    """What was seen outside the log.

    `base` is the sequence that was loaded before `found` and `missing` were listed.
    """

    base: int = 0
    found: list[Found] = field(default_factory=list)
    more_to_come: bool = False
    """Further pages follow: tasks need not shrink towards the end yet."""
    missing: list[str] = field(default_factory=list)
    """Known keys that neither the listing nor a request for them found."""
    unusable: list[Quarantined] = field(default_factory=list)
    receipts: dict[str, Receipt] = field(default_factory=dict)
    losses: dict[str, LostAttempt] = field(default_factory=dict)
    runs_work: bool = True
    """Whether the proposer can dispatch: otherwise attempts without an answer are left to somebody
    who can.
    """
    began: set[tuple[str, int]] = field(default_factory=set)
    """Tasks and dispatches that noted their beginning (see `Task.detached`)."""
    requeue: list[str] = field(default_factory=list)
    cancel: dict[str, str] = field(default_factory=dict)
    """Tasks to end without an answer, each with the reason to show."""
    merge: list[str] = field(default_factory=list)
    """Outputs to be merged into one: a task for that is to be planned."""
    vacuumed: list[str] = field(default_factory=list)
    collected: list[str] = field(default_factory=list)
    """Ledger runs that no checkpoint needs any more, as far as was known."""
    change: Change | None = None
    """Of generations: one to begin, publish, roll back or drop."""
    repaired: Repaired | None = None
    backlog: Backlog | None = None
    """What the listing left for later passes, once that is known."""


def fits(receipt: Receipt, task: Task, output: str) -> bool:
    """Whether the receipt speaks of this task's inputs, and names only files that its own attempt
    may have written below `output`.

    A damaged or foreign one is ignored: what it names would be read by queries, and deleted by a
    vacuum one day.
    """
    n = len(task.inputs)
    return (
        receipt.task == task.id
        and receipt.version == task.version
        and len(receipt.rows) == len(receipt.rejected) == n
        and len(receipt.merged_dead) == len(task.merges)
        and min(receipt.rows + receipt.rejected, default=0) >= 0
        and all(0 <= p.index < n for p in receipt.problems)
        and len({p.index for p in receipt.problems}) == len(receipt.problems)
        and len({file.key for file in receipt.files}) == len(receipt.files)
        and all(
            _is_own(file, keys.output_id(task.id, receipt.nonce), output) for file in receipt.files
        )
    )


def _is_own(file: OutputFile, output_id: str, output: str) -> bool:
    prefix = {
        MAIN_TABLE: keys.rows_prefix(output),
        REJECTED_TABLE: keys.rejected_prefix(output),
    }.get(file.table)
    if prefix is None or not file.key.startswith(prefix) or min(file.size_bytes, file.rows) < 0:
        return False
    folders = file.key.removeprefix(prefix).split("/")[:-1]
    return keys.output_of(file.key) == output_id and not any(
        part in ("", ".", "..") for part in folders
    )
