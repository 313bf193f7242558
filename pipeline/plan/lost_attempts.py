"""What becomes of tasks whose attempts gave no answer: dispatched again, split, or set aside."""

from __future__ import annotations

from pipeline.model.loss import Loss
from pipeline.model.task import Task
from pipeline.plan.commit_entries import is_about, split
from pipeline.plan.draft import Draft


def expire(draft: Draft) -> None:
    """Dispatch again, split or quarantine every open task whose attempt is lost, overdue, or
    whose runner is gone.
    """
    for task in draft.state.tasks.values():
        if task.id in draft.ended:
            continue
        seen = draft.evidence.losses.get(task.id)
        if seen is not None and is_about(seen, task):
            _lost(draft, task, seen.loss)
        elif task.deadline_ms <= draft.now_ms:
            if task.detached and (task.id, task.dispatch) not in draft.evidence.began:
                _runner_vanished(
                    draft, task, "it was never begun: lost on its way, or too long in the queue"
                )
            else:
                _attempt_failed(draft, task, Loss(reason="no answer before its deadline"))
        elif draft.writer.is_gone(task.owner):
            _runner_vanished(draft, task, "its runner ended")


def _lost(draft: Draft, task: Task, loss: Loss) -> None:
    if not loss.innocent:
        _attempt_failed(draft, task, loss)
    elif task.losses + 1 < draft.writer.policy.innocent_losses_max:
        draft.respawn(task, attempt=task.attempt, losses=task.losses + 1, reason=loss.reason)
    else:
        _give_back(draft, task, loss)


def _give_back(draft: Draft, task: Task, loss: Loss) -> None:
    """An outage says nothing about the inputs: a later pass finds those that are still there
    and plans them. One that is committed, and was to be processed once more, would not be
    found: it waits in quarantine for that.
    """
    draft.commit.retire.append(task.id)
    for i, key in enumerate(task.inputs.keys):
        if draft.state.is_wanted(key, task.id):
            draft.decided.add(key)
            entry = draft.state.entry(key)
            if entry is not None and entry.etag == task.inputs.etags[i]:
                draft.quarantine_lost(task, i, loss)


def _runner_vanished(draft: Draft, task: Task, reason: str) -> None:
    transform = draft.writer.settings.transform(task.transform)
    may_rerun = transform is None or transform.safe_to_rerun or task.detached
    if task.losses + 1 < draft.writer.policy.losses_max and may_rerun:
        draft.respawn(task, attempt=task.attempt, losses=task.losses + 1, reason=reason)
    else:
        _attempt_failed(draft, task, Loss(reason="its runners kept ending"))


def _attempt_failed(draft: Draft, task: Task, loss: Loss) -> None:
    transform = draft.writer.settings.transform(task.transform)
    alone = len(task.inputs) == 1
    if (
        transform is not None
        and (alone or loss.suspect is None)
        and task.attempt < transform.max_attempts
    ):
        draft.respawn(task, attempt=task.attempt + 1, losses=task.losses, reason=loss.reason)
        return
    draft.commit.retire.append(task.id)
    wanted = [i for i, key in enumerate(task.inputs.keys) if draft.state.is_wanted(key, task.id)]
    draft.decided.update(task.inputs.keys[i] for i in wanted)
    if transform is None or transform.version != task.version:
        return  # the code is another by now: the next listing plans these objects again
    if alone or not transform.safe_to_rerun:
        for i in wanted:
            draft.quarantine_lost(task, i, loss)
        return
    for part in split(wanted, loss.suspect):
        draft.plan_again(task, task.inputs.take(part))
