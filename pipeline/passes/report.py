"""What a pass did, counted commit by commit. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pipeline.model.commit import Commit, Settled
from pipeline.model.pass_report import PassReport
from pipeline.model.receipt import Receipt
from pipeline.model.settings import PipelineSettings
from pipeline.model.task import Task
from pipeline.plan.evidence import LostAttempt
from pipeline.state.state import State


def commit(  # noqa: PLR0917
    report: PassReport,
    done: Commit,
    tasks: Mapping[str, Task],
    state: State,
    settings: PipelineSettings,
    counted: set[str],
) -> None:
    """Add a commit. tasks: those that it ended, as they were before. state: with the commit.
    counted: the tasks whose sources are in `planned`: what they leave without an answer is taken
    out again, so that a file counts once, however many attempts it takes.
    """
    report.commits += 1
    report.planned += sum(len(t.inputs) for t in done.plan if t.owner)
    report.planned_bytes += sum(sum(t.inputs.sizes) for t in done.plan)
    counted.update(t.id for t in done.plan if t.owner)
    report.deleted += len(done.deleted)
    report.quarantined += len(done.quarantine)
    again = [state.tasks[one.task] for one in done.respawn if one.task in state.tasks]
    report.respawned += sum(len(task.inputs) for task in again)
    _add_retired(report, done, tasks, settings, counted)
    for settled in done.settle:
        _add_settled(report, settled, tasks[settled.task], settings, counted)


def _add_retired(
    report: PassReport,
    done: Commit,
    tasks: Mapping[str, Task],
    settings: PipelineSettings,
    counted: set[str],
) -> None:
    """Tasks that ended without rows."""
    ended = {entry.key for entry in done.quarantine}
    for task in (tasks[task_id] for task_id in done.retire):
        if task.id in counted:
            left = [i for i, key in enumerate(task.inputs.keys) if key not in ended]
            _give_back(report, task, left)
        if _is_of_other_code(task, settings):
            report.changed += len(task.inputs)


def _add_settled(
    report: PassReport, settled: Settled, task: Task, settings: PipelineSettings, counted: set[str]
) -> None:
    """A task that ended with a receipt."""
    if task.id in counted:
        _give_back(report, task, [p.index for p in settled.problems if p.status != "failed"])
    statuses = Counter(problem.status for problem in settled.problems)
    report.committed += len(settled.rows) - len(settled.problems)
    report.committed_bytes += sum(task.inputs.sizes)
    report.rows += sum(settled.rows)
    report.rejected += sum(settled.rejected)
    report.quarantined += statuses["failed"]
    report.changed += statuses["stale"] + statuses["gone"]
    if _is_of_other_code(task, settings):
        report.changed += statuses["deferred"]


def _give_back(report: PassReport, task: Task, indexes: Sequence[int]) -> None:
    report.planned -= len(indexes)
    report.planned_bytes -= sum(task.inputs.sizes[i] for i in indexes)


def losses(
    report: PassReport,
    done: Commit,
    tasks: Mapping[str, Task],
    known: Mapping[str, LostAttempt],
    settings: PipelineSettings,
) -> None:
    """Add the sources that a commit put off: what became of their attempts says
    nothing about them.
    """
    for task_id in done.retire:
        lost = known.get(task_id)
        if lost is None or not lost.loss.innocent:
            continue
        if not _is_of_other_code(tasks[task_id], settings):
            report.unread += len(tasks[task_id].inputs)
            report.unread_reason = lost.loss.reason


def expected(report: PassReport, waiting: Iterable[Receipt]) -> PassReport:
    """Progress as the user sees it: a finished attempt counts before its commit."""
    receipts = list(waiting)
    seen = PassReport(planned=report.planned, planned_bytes=report.planned_bytes)
    seen.committed = report.committed + sum(len(r.rows) - len(r.problems) for r in receipts)
    seen.rows = report.rows + sum(sum(r.rows) for r in receipts)
    seen.quarantined = report.quarantined + sum(
        1 for r in receipts for p in r.problems if p.status == "failed"
    )
    seen.committed_bytes = report.committed_bytes + sum(r.bytes_read for r in receipts)
    return seen


def _is_of_other_code(task: Task, settings: PipelineSettings) -> bool:
    """Whether its transform is not declared any more, or at another version: what is left of it is
    planned again.
    """
    transform = settings.transform(task.transform)
    return transform is None or transform.version != task.version
