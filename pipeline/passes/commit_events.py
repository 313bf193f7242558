"""A commit as events, for listeners. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.model.commit import Commit, Settled
from pipeline.model.events import (
    ColumnsChanged,
    Committed,
    Dispatched,
    Event,
    Lost,
    Planned,
    Quarantined,
)
from pipeline.model.task import Task
from pipeline.state.state import State


def events_of(
    commit: Commit, ended: Mapping[str, Task], reasons: Mapping[str, str], state: State
) -> Iterator[Event]:
    """What a commit that was appended says. ended: the tasks that it ended, as they were before.

    reasons: why attempts of tasks were lost. state: with the commit.
    """
    named: dict[str, Any] = {"pipeline": commit.pipeline, "generation": commit.generation}
    of_commit: dict[str, Any] = {**named, "sequence": commit.sequence}
    planned = [task for task in commit.plan if not task.merges]
    if planned:
        size_bytes = sum(sum(task.inputs.sizes) for task in planned)
        files = sum(len(task.inputs) for task in planned)
        yield Planned(**of_commit, files=files, size_bytes=size_bytes)
    yield from _losses(commit, ended, reasons, state, of_commit)
    for settled in commit.settle:
        yield from _failures(settled, ended[settled.task], of_commit)
    for one in commit.quarantine:
        yield Quarantined(
            **of_commit,
            key=one.key,
            kind=one.kind,
            reason=one.reason,
            transform=one.transform,
            task=one.task,
        )
    if commit.settle or commit.deleted:
        yield Committed(
            **of_commit,
            files=sum(len(s.rows) - len(s.problems) for s in commit.settle),
            rows=sum(sum(s.rows) for s in commit.settle),
            rejected=sum(sum(s.rejected) for s in commit.settle),
            size_bytes=sum(sum(ended[s.task].inputs.sizes) for s in commit.settle),
            deleted=len(commit.deleted),
        )
    if commit.schema is not None:
        yield ColumnsChanged(**named, schema=commit.schema)


def dispatched(task: Task, pipeline: str) -> Dispatched:
    """An attempt that is handed to the executor."""
    return Dispatched(
        pipeline=pipeline,
        generation=task.generation,
        task=task.id,
        transform=task.transform,
        attempt=task.attempt,
        files=len(task.inputs),
    )


def _losses(
    commit: Commit,
    ended: Mapping[str, Task],
    reasons: Mapping[str, str],
    state: State,
    of_commit: dict[str, Any],
) -> Iterator[Lost]:
    again = [(state.tasks[one.task], one.reason) for one in commit.respawn]
    given_up = [(ended[task_id], reasons.get(task_id, "")) for task_id in commit.retire]
    for task, reason in again + given_up:
        if reason:
            yield Lost(
                **of_commit,
                task=task.id,
                transform=task.transform,
                files=len(task.inputs),
                reason=reason,
                again=task.id in state.tasks,
            )


def _failures(settled: Settled, task: Task, of_commit: dict[str, Any]) -> Iterator[Quarantined]:
    for problem in settled.problems:
        if problem.status == "failed":
            yield Quarantined(
                **of_commit,
                key=task.inputs.keys[problem.index],
                kind="failed",
                reason=problem.reason,
                transform=task.transform,
                task=task.id,
            )
