"""Entries of a commit made from tasks and receipts, and what can be asked of them without the
state. Pure.
"""

from __future__ import annotations

from pipeline.model.commit import Quarantined
from pipeline.model.snapshot import Output
from pipeline.model.task import Task
from pipeline.plan.evidence import LostAttempt


def is_stored(output: Output | None) -> bool:
    """Whether the output has files of its own: it is live, and was not merged into another."""
    return output is not None and output.into is None


def is_about(lost: LostAttempt, task: Task) -> bool:
    """Whether the loss is that of the task's current attempt."""
    same = (lost.attempt, lost.owner) == (task.attempt, task.owner)
    return same and lost.dispatch in (None, task.dispatch)


def cancelled(task: Task, i: int, reason: str) -> Quarantined:
    """An input of a task that a person does not want any more."""
    return Quarantined(
        key=task.inputs.keys[i],
        etag=task.inputs.etags[i],
        kind="cancelled",
        reason=reason,
        task=task.id,
        transform=task.transform,
        version=task.version,
        size_bytes=task.inputs.sizes[i],
    )


def split(indexes: list[int], suspect: int | None) -> list[list[int]]:
    """The rest and the suspect, or two halves; never an empty part."""
    if suspect in indexes:
        parts = [[i for i in indexes if i != suspect], [suspect] if suspect is not None else []]
    else:
        middle = len(indexes) // 2
        parts = [indexes[:middle], indexes[middle:]]
    return [part for part in parts if part]
