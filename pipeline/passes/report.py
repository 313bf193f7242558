"""What a pass did, counted commit by commit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pipeline.model.commit import Commit
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
    retired = [tasks[task_id] for task_id in done.retire]
    ended = {entry.key for entry in done.quarantine}
    for task in retired:
        if task.id in counted:
            _give_back(
                report, task, [i for i, key in enumerate(task.inputs.keys) if key not in ended]
            )
    report.changed += sum(len(t.inputs) for t in retired if _is_of_other_code(t, settings))
    report.quarantined += len(done.quarantine)
    report.respawned += sum(
        len(state.tasks[r.task].inputs) for r in done.respawn if r.task in state.tasks
    )
    for settled in done.settle:
        if settled.task in counted:
            _give_back(
                report,
                tasks[settled.task],
                [p.index for p in settled.problems if p.status != "failed"],
            )
        by_status: dict[str, int] = {}
        for problem in settled.problems:
            by_status[problem.status] = by_status.get(problem.status, 0) + 1
        report.committed += len(settled.rows) - len(settled.problems)
        report.committed_bytes += sum(tasks[settled.task].inputs.sizes)
        report.rows += sum(settled.rows)
        report.rejected += sum(settled.rejected)
        report.quarantined += by_status.get("failed", 0)
        report.changed += by_status.get("stale", 0) + by_status.get("gone", 0)
        if _is_of_other_code(tasks[settled.task], settings):
            report.changed += by_status.get("deferred", 0)


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
    planned anew.
    """
    transform = settings.transform(task.transform)
    return transform is None or transform.version != task.version
