"""What a commit says about tasks that run detached in containers on Modal: they queue, begin late,
get lost, are cancelled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputRejected
from pipeline.model.commit import Commit
from pipeline.model.loss import Loss
from pipeline.model.policy import Policy, deployed_policy
from pipeline.model.receipt import OutputFile, Receipt, SourceProblem
from pipeline.model.settings import Resources, TransformSettings
from pipeline.model.task import Inputs, Task
from pipeline.plan.evidence import Evidence, Found, LostAttempt
from pipeline.plan.planner import Proposer
from pipeline.state.state import State
from pipeline.state.usage import Took
from tests.support.builders import inputs_of, pipeline_settings, receipt_of

OWNER = "modal:app"
SOON, LATE = 1_000, 10_000_000_000
"""Before and after every deadline that these tests give out."""


def transform(**options: Any) -> TransformSettings:
    return TransformSettings(
        **{"name": "f", "version": "v1", "match": ("**",), "timeout_s": 10.0, "max_attempts": 3}
        | options
    )


def proposer(
    *transforms: TransformSettings,
    policy: Policy | None = None,
    owner: str = OWNER,
    parallelism: int = 4,
) -> Proposer:
    return Proposer(
        settings=pipeline_settings(*transforms or (transform(),)),
        policy=policy or deployed_policy(),
        owner=owner,
        detached=owner == OWNER,
        writer="test",
        parallelism=parallelism,
        is_gone=lambda owner: False,
        unify=lambda before, new: new,
    )


def inputs(*names: str, etag: str = "e1", size: int = 10) -> Inputs:
    return inputs_of(
        *(f"up/{name}" for name in names), etags=[etag] * len(names), sizes=[size] * len(names)
    )


class History:
    """A pipeline's state, and commits that follow it as a proposer makes them."""

    def __init__(
        self, *transforms: TransformSettings, policy: Policy | None = None, owner: str = OWNER
    ) -> None:
        self.proposer = proposer(*transforms, policy=policy, owner=owner)
        self.state = State("p")

    def commit(self, evidence: Evidence, now_ms: int = 0) -> Commit:
        commit = self.proposer.propose(
            self.state, evidence, now_ms=now_ms, commit_id=f"c{self.state.sequence + 1}"
        )
        if not commit.is_empty():
            self.state.apply(commit, now_ms)
        return commit

    def plan(self, found: Inputs, now_ms: int = 0) -> list[Task]:
        evidence = Evidence(base=self.state.sequence, found=[Found("f", found)])
        return [self.state.tasks[task.id] for task in self.commit(evidence, now_ms).plan]

    def only_task(self) -> Task:
        [task] = self.state.tasks.values()
        return task

    def deploy(self, *transforms: TransformSettings) -> None:
        """From now on another code proposes."""
        self.proposer = proposer(*transforms, policy=self.proposer.policy)


def began(task: Task) -> Evidence:
    return Evidence(began={(task.id, task.dispatch)})


def lost(task: Task, **options: Any) -> Evidence:
    whose = {"attempt": task.attempt, "owner": task.owner, "dispatch": task.dispatch}
    whose |= {name: options.pop(name) for name in whose if name in options}
    found = LostAttempt(loss=Loss(**{"reason": "it died"} | options), **whose)
    return Evidence(losses={task.id: found})


def receipt(task: Task, *problems: SourceProblem, files: tuple[OutputFile, ...] = ()) -> Receipt:
    return receipt_of(task, *problems, files=list(files))


# -- overdue ---------------------------------------------------------------------------------------


def test_an_overdue_task_that_was_never_begun_is_dispatched_again_and_costs_no_attempt() -> None:
    history = History()
    history.plan(inputs("a", "b"))
    commit = history.commit(Evidence(), LATE)
    [respawn] = commit.respawn
    assert (respawn.attempt, respawn.losses, respawn.owner) == (1, 1, OWNER)
    assert respawn.deadline_ms > LATE
    assert "never begun" in respawn.reason
    assert (commit.retire, commit.quarantine, commit.plan) == ([], [], [])


def test_a_task_within_its_lease_is_left_alone_begun_or_not() -> None:
    history = History()
    [task] = history.plan(inputs("a"))
    assert history.commit(Evidence(), SOON).is_empty()
    assert history.commit(began(task), SOON).is_empty()
    assert not history.commit(Evidence(), task.deadline_ms).is_empty(), (
        "the lease ends at its deadline"
    )


def test_what_is_never_begun_counts_as_an_attempt_only_after_many_dispatches() -> None:
    history = History(policy=Policy(losses_max=4, containers_max=10))
    history.plan(inputs("a"))
    seen = []
    for i in range(1, 6):
        history.commit(Evidence(), i * LATE)
        seen.append((history.only_task().attempt, history.only_task().losses))
    assert seen == [(1, 1), (1, 2), (1, 3), (2, 3), (3, 3)]
    commit = history.commit(Evidence(), 6 * LATE)
    assert [(q.key, q.kind) for q in commit.quarantine] == [("up/a", "lost")]
    assert history.state.tasks == {}


def test_an_overdue_task_that_was_begun_costs_an_attempt() -> None:
    history = History()
    [task] = history.plan(inputs("a"))
    [respawn] = history.commit(began(task), LATE).respawn
    assert (respawn.attempt, respawn.losses, respawn.reason) == (
        2,
        0,
        "no answer before its deadline",
    )


def test_the_beginning_of_an_earlier_dispatch_says_nothing_about_this_one() -> None:
    history = History()
    [task] = history.plan(inputs("a"))
    evidence = began(task)
    history.commit(Evidence(), LATE)
    [respawn] = history.commit(evidence, 2 * LATE).respawn
    assert (respawn.attempt, respawn.losses) == (1, 2)


def test_whatever_ended_a_dispatch_the_next_one_has_another_number() -> None:
    history = History(transform(max_attempts=50))
    history.plan(inputs("a"))
    seen = set()
    for i in range(1, 12):
        task = history.only_task()
        assert task.dispatch not in seen
        seen.add(task.dispatch)
        history.commit(began(task) if i % 3 == 0 else Evidence(), i * LATE)


def test_a_local_task_needs_no_beginning_to_be_overdue() -> None:
    history = History(owner="local:here")
    history.plan(inputs("a"))
    [respawn] = history.commit(Evidence(), LATE).respawn
    assert (respawn.attempt, respawn.losses) == (2, 0)


def test_who_cannot_dispatch_leaves_overdue_tasks_to_others() -> None:
    history = History()
    history.plan(inputs("a"))
    assert history.commit(Evidence(runs_work=False), LATE).is_empty()


# -- loss notes ------------------------------------------------------------------------------------


def test_a_loss_note_counts_as_an_attempt_at_once() -> None:
    history = History()
    [task] = history.plan(inputs("a"))
    [respawn] = history.commit(lost(task), SOON).respawn
    assert (respawn.attempt, respawn.losses, respawn.reason) == (2, 0, "it died")


def test_an_innocent_loss_costs_no_attempt() -> None:
    history = History()
    [task] = history.plan(inputs("a"))
    [respawn] = history.commit(lost(task, innocent=True), SOON).respawn
    assert (respawn.attempt, respawn.losses) == (1, 1)


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_an_outage_gives_files_back_to_a_later_pass_and_quarantines_none(names: list[str]) -> None:
    history = History(
        transform(max_attempts=1), policy=Policy(innocent_losses_max=3, containers_max=10)
    )
    history.plan(inputs(*names))
    for losses in (1, 2):
        history.commit(lost(history.only_task(), innocent=True), SOON)
        assert (history.only_task().attempt, history.only_task().losses) == (1, losses)
    task = history.only_task()
    commit = history.commit(lost(task, innocent=True), SOON)
    assert (commit.retire, commit.respawn, commit.plan, commit.quarantine) == (
        [task.id],
        [],
        [],
        [],
    )
    assert history.state.quarantine == {}
    [again] = history.plan(inputs(*names), SOON)
    assert (again.attempt, again.losses, len(again.inputs)) == (1, 0, len(names))


def committed(history: History, name: str) -> None:
    [task] = history.plan(inputs(name))
    history.commit(Evidence(receipts={task.id: receipt(task)}), SOON)
    assert history.state.entry(f"up/{name}") is not None


@pytest.mark.parametrize("innocent", [True, False])
def test_a_backfill_without_an_answer_waits_and_is_planned_again_when_its_time_has_come(
    innocent: bool,
) -> None:
    history = History(
        transform(max_attempts=1), policy=Policy(innocent_losses_max=1, containers_max=10)
    )
    committed(history, "a")
    before = history.state.entry("up/a")
    [task] = history.plan(inputs("a"), SOON)
    [entry] = history.commit(lost(task, innocent=innocent), SOON).quarantine
    assert (entry.kind, history.state.entry("up/a")) == ("lost", before), "the old rows count"
    assert history.plan(inputs("a"), entry.retry_at_ms - 1) == []
    [again] = history.plan(inputs("a"), entry.retry_at_ms)
    history.commit(Evidence(receipts={again.id: receipt(again)}), entry.retry_at_ms)
    assert history.state.quarantine == {}


def test_a_backfill_that_failed_is_due_at_once_when_a_person_releases_it() -> None:
    history = History()
    committed(history, "a")
    [task] = history.plan(inputs("a"), SOON)
    failed = receipt(task, SourceProblem(index=0, status="failed", reason="ValueError"))
    history.commit(Evidence(receipts={task.id: failed}), SOON)
    assert history.plan(inputs("a"), LATE) == []
    history.commit(Evidence(requeue=["up/a"]), LATE)
    [again] = history.plan(inputs("a"), LATE)
    assert again.inputs.keys == ["up/a"]


@pytest.mark.parametrize("first", ["innocent", "overdue"])
def test_a_loss_note_counts_for_its_own_dispatch_only(first: str) -> None:
    history = History()
    [task] = history.plan(inputs("a"))
    note = lost(task)
    now_ms = SOON if first == "innocent" else LATE
    history.commit(lost(task, innocent=True) if first == "innocent" else Evidence(), now_ms)
    assert (history.only_task().attempt, history.only_task().losses) == (1, 1)
    assert history.commit(note, now_ms + 1).is_empty(), "the note is of the dispatch before"


def test_a_loss_without_a_dispatch_counts_for_the_attempt_it_names() -> None:
    history = History()
    [task] = history.plan(inputs("a"))
    assert history.commit(lost(task, dispatch=None, attempt=2), SOON).is_empty()
    assert history.commit(lost(task, dispatch=None, owner="modal:other"), SOON).is_empty()
    assert history.commit(lost(task, dispatch=None), SOON).respawn[0].attempt == 2


def test_a_receipt_whose_types_contradict_the_table_is_not_believed_again_and_again() -> None:
    """It stays in the bucket: every pass finds it, also once the files have run again and left a
    better one.
    """

    def contradicts(before: str | None, new: str) -> str:
        if before == "text" and new == "number":
            raise InputRejected("column v: number and text")
        return before or new

    history = History(policy=Policy(task_files_max=1, containers_max=2))
    history.proposer = replace(history.proposer, unify=contradicts)
    first, second = history.plan(inputs("a", "b"))
    bad = msgspec.structs.replace(receipt(second), schema="number")
    history.commit(
        Evidence(receipts={first.id: msgspec.structs.replace(receipt(first), schema="text")})
    )
    history.commit(Evidence(receipts={second.id: bad}))
    again = history.only_task()
    assert again.inputs.keys == second.inputs.keys, (
        "its files run once more, against the table as it is now"
    )
    assert history.commit(Evidence(receipts={second.id: bad})).is_empty()
    history.commit(
        Evidence(
            receipts={
                second.id: bad,
                again.id: msgspec.structs.replace(receipt(again), schema="text"),
            }
        )
    )
    assert history.state.tasks == {}
    assert {key: history.state.entry(key) is not None for key in ("up/a", "up/b")} == {
        "up/a": True,
        "up/b": True,
    }


def test_a_receipt_wins_over_a_loss_note() -> None:
    history = History()
    [task] = history.plan(inputs("a"))
    evidence = lost(task)
    evidence.receipts[task.id] = receipt(task)
    commit = history.commit(evidence, LATE)
    assert ([s.task for s in commit.settle], commit.respawn, commit.retire) == ([task.id], [], [])


def test_a_suspect_is_parted_from_the_rest() -> None:
    history = History()
    [task] = history.plan(inputs("a", "b", "c"))
    commit = history.commit(lost(task, suspect=1), SOON)
    assert commit.retire == [task.id]
    assert [t.inputs.keys for t in commit.plan] == [["up/a", "up/c"], ["up/b"]]


def test_what_is_left_of_a_backfills_task_is_of_the_backfill_too() -> None:
    history = History()
    evidence = Evidence(
        base=0, found=[Found("f", inputs("a", "b", "c"), again=True), Found("f", inputs("d"))]
    )
    first, new = (history.state.tasks[task.id] for task in history.commit(evidence).plan)
    assert (first.again, new.again) == (True, False)
    assert [task.again for task in history.commit(lost(first, suspect=1), SOON).plan] == [
        True,
        True,
    ]


# -- another code ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["lost", "innocent", "overdue", "begun and overdue", "last attempt"]
)
def test_a_task_of_other_code_is_retired_and_its_files_are_planned_by_the_code_of_now(
    how: str,
) -> None:
    attempts, names = (1, ["a"]) if how == "last attempt" else (3, ["a", "b"])
    history = History(transform(max_attempts=attempts))
    [task] = history.plan(inputs(*names))
    history.deploy(transform(version="v2", max_attempts=attempts))
    evidence = {
        "lost": lost(task),
        "innocent": lost(task, innocent=True),
        "overdue": Evidence(),
        "begun and overdue": began(task),
        "last attempt": lost(task),
    }[how]
    commit = history.commit(evidence, LATE)
    assert (commit.retire, commit.respawn, commit.plan, commit.quarantine) == (
        [task.id],
        [],
        [],
        [],
    )
    [again] = history.plan(inputs(*names), LATE)
    assert (again.version, again.inputs.keys) == ("v2", [f"up/{name}" for name in names])


def test_a_task_of_a_transform_that_is_gone_is_retired() -> None:
    history = History()
    [task] = history.plan(inputs("a"))
    history.deploy(transform(name="g"))
    commit = history.commit(lost(task), SOON)
    assert (commit.retire, commit.respawn, commit.quarantine) == ([task.id], [], [])


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_deferred_files_are_planned_again_at_once_unless_the_code_is_another(version: str) -> None:
    history = History()
    [task] = history.plan(inputs("a", "b"))
    history.deploy(transform(version=version))
    evidence = Evidence(
        receipts={task.id: receipt(task, SourceProblem(index=1, status="deferred"))}
    )
    commit = history.commit(evidence, SOON)
    assert [s.task for s in commit.settle] == [task.id], "what was done under the old code counts"
    assert [(t.version, t.inputs.keys) for t in commit.plan] == (
        [("v1", ["up/b"])] if version == "v1" else []
    )
    if version == "v2":
        [again] = history.plan(inputs("b"), SOON)
        assert (again.version, again.inputs.keys) == ("v2", ["up/b"])


# -- cancelling ------------------------------------------------------------------------------------


def test_cancelling_retires_the_task_and_sets_its_files_aside_for_a_person() -> None:
    history = History()
    [task] = history.plan(inputs("a", "b"))
    commit = history.commit(
        Evidence(runs_work=False, cancel={task.id: "cancelled with job-1"}), SOON
    )
    assert commit.retire == [task.id]
    assert [(q.key, q.kind, q.reason, q.retry_at_ms) for q in commit.quarantine] == [
        ("up/a", "cancelled", "cancelled with job-1", 0),
        ("up/b", "cancelled", "cancelled with job-1", 0),
    ]
    assert history.plan(inputs("a", "b"), LATE) == [], "a listing does not plan them again"
    [again] = history.plan(inputs("a", etag="e2"), LATE)
    assert again.inputs.keys == ["up/a"], "but a new version is new"


def test_cancelling_takes_only_what_the_task_may_still_publish() -> None:
    history = History()
    [old] = history.plan(inputs("a", "b"))
    [new] = history.plan(inputs("a", etag="e2"))
    commit = history.commit(Evidence(runs_work=False, cancel={old.id: "no more"}), SOON)
    assert [(q.key, q.etag) for q in commit.quarantine] == [("up/b", "e1")]
    assert list(history.state.tasks) == [new.id]
    assert history.state.is_wanted("up/a", new.id)


def test_cancelling_what_is_over_does_nothing() -> None:
    history = History()
    [task] = history.plan(inputs("a"))
    history.commit(Evidence(receipts={task.id: receipt(task)}), SOON)
    assert history.commit(
        Evidence(runs_work=False, cancel={task.id: "too late", "no-such-task": ""}), SOON
    ).is_empty()


def test_a_receipt_that_is_there_already_wins_over_cancelling() -> None:
    history = History()
    [task] = history.plan(inputs("a"))
    commit = history.commit(
        Evidence(receipts={task.id: receipt(task)}, cancel={task.id: "too late"}), SOON
    )
    assert ([s.task for s in commit.settle], commit.retire, commit.quarantine) == (
        [task.id],
        [],
        [],
    )


def test_a_receipt_that_comes_after_cancelling_publishes_nothing() -> None:
    history = History()
    [task] = history.plan(inputs("a"))
    history.commit(Evidence(cancel={task.id: "no more"}), SOON)
    assert history.commit(Evidence(receipts={task.id: receipt(task)}), SOON).is_empty()


# -- safe_to_rerun=False ---------------------------------------------------------------------------

ONCE = transform(safe_to_rerun=False, max_attempts=1)


@pytest.mark.parametrize("how", ["begun and overdue", "lost", "lost at one of them"])
def test_what_must_not_run_twice_waits_for_a_person_once_it_was_begun(how: str) -> None:
    history = History(ONCE)
    [task] = history.plan(inputs("a", "b"))
    evidence = {
        "begun and overdue": began(task),
        "lost": lost(task),
        "lost at one of them": lost(task, suspect=0),
    }[how]
    commit = history.commit(evidence, LATE)
    assert (commit.respawn, commit.plan) == ([], [])
    assert [(q.key, q.kind, q.retry_at_ms) for q in commit.quarantine] == [
        ("up/a", "lost", 0),
        ("up/b", "lost", 0),
    ]
    assert history.plan(inputs("a", "b"), 9 * LATE) == []


@pytest.mark.parametrize("how", ["never begun", "innocent"])
def test_what_must_not_run_twice_is_dispatched_again_if_it_never_ran(how: str) -> None:
    history = History(ONCE)
    [task] = history.plan(inputs("a"))
    [respawn] = history.commit(
        Evidence() if how == "never begun" else lost(task, innocent=True), LATE
    ).respawn
    assert (respawn.attempt, respawn.losses) == (1, 1)


def test_on_ones_own_machine_what_must_not_run_twice_waits_after_its_runner_ended() -> None:
    history = History(ONCE, owner="local:here")
    history.plan(inputs("a"))
    history.proposer = replace(history.proposer, is_gone=lambda owner: True)
    commit = history.commit(Evidence(), SOON)
    assert (commit.respawn, [q.kind for q in commit.quarantine]) == ([], ["lost"])


def test_a_lost_file_is_otherwise_tried_again_ever_later() -> None:
    history = History(transform(max_attempts=1))
    [task] = history.plan(inputs("a"))
    [entry] = history.commit(lost(task), SOON).quarantine
    assert entry.retry_at_ms == SOON + 60_000
    [again] = history.plan(inputs("a"), entry.retry_at_ms)
    [entry] = history.commit(lost(again), SOON).quarantine
    assert (entry.tries, entry.retry_at_ms) == (2, SOON + 120_000)


# -- how much, how large, how long -----------------------------------------------------------------


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 40))
def test_no_more_than_so_many_tasks_are_open(most: int, before: int, after: int) -> None:
    history = History(policy=Policy(open_tasks_max=most, task_files_max=1, containers_max=2))
    for prefix, n in (("x", before), ("y", after)):
        if n:
            history.plan(inputs(*(f"{prefix}{i:02}" for i in range(n))))
    assert len(history.state.tasks) == min(most, before + after)


def test_what_did_not_fit_is_planned_once_there_is_room() -> None:
    history = History(policy=Policy(open_tasks_max=2, task_files_max=1, containers_max=2))
    everything = inputs("a", "b", "c")
    first = history.plan(everything)
    assert history.plan(everything) == []
    history.commit(Evidence(receipts={first[0].id: receipt(first[0])}))
    [rest] = history.plan(inputs("c"))
    assert rest.inputs.keys == ["up/c"]


def test_a_bound_on_open_tasks_is_none_on_what_is_replanned() -> None:
    """Else deferred or split files would have to wait for a listing."""
    history = History(policy=Policy(open_tasks_max=1, containers_max=2))
    [task] = history.plan(inputs("a", "b", "c"))
    commit = history.commit(lost(task, suspect=1), SOON)
    assert [t.inputs.keys for t in commit.plan] == [["up/a", "up/c"], ["up/b"]]


def planned_sizes(history: History, n: int) -> list[int]:
    return [len(task.inputs) for task in history.plan(inputs(*(f"{i:05}" for i in range(n))))]


def test_tasks_hold_as_many_files_as_fit_their_time_by_what_files_took_so_far() -> None:
    history = History(transform(resources=Resources(max_containers=1)))
    assert planned_sizes(History(transform(resources=Resources(max_containers=1))), 250) == [250], (
        "nothing is known yet"
    )
    history.state.usage.by_transform["f"] = Took(files=10, seconds=30)
    assert planned_sizes(history, 25) == [10, 10, 5], "30 s at 3 s a file"


def test_a_file_that_takes_longer_than_a_tasks_time_has_a_task_of_its_own() -> None:
    history = History()
    history.state.usage.by_transform["f"] = Took(files=1, seconds=4_000)
    assert planned_sizes(history, 3) == [1, 1, 1]


def test_usage_is_folded_from_receipts_so_the_next_tasks_fit() -> None:
    history = History(transform(resources=Resources(max_containers=1)))
    [task] = history.plan(inputs("a"))
    slow = msgspec.structs.replace(receipt(task), seconds=15.0)
    history.commit(Evidence(receipts={task.id: slow}))
    assert planned_sizes(history, 4) == [2, 2]


def test_usage_of_one_transform_says_nothing_of_another() -> None:
    history = History()
    history.state.usage.by_transform["g"] = Took(files=1, seconds=4_000)
    assert planned_sizes(history, 3) == [3]


def test_tasks_are_spread_over_the_containers_that_a_transform_may_have() -> None:
    sizes = planned_sizes(History(transform(resources=Resources(max_containers=4))), 8_000)
    assert sum(sizes) == 8_000
    assert len(sizes) >= 8, "each container has some at the end"
    assert sizes[0] == 1_000


def test_the_lease_grows_with_the_queue_before_it() -> None:
    policy = Policy(attempt_budget_s=30, lease_margin_s=100, containers_max=10)
    f = transform(timeout_s=20)
    assert policy.lease_ms(f) == 150_000
    assert policy.lease_ms(f, ahead=40) == 150_000 + 4 * 30_000
    assert (
        policy.lease_ms(transform(timeout_s=20, resources=Resources(max_containers=2)), ahead=40)
        == 150_000 + 20 * 30_000
    )
    assert Policy(attempt_budget_s=30, lease_margin_s=100).lease_ms(f, ahead=40) == 150_000, (
        "nothing queues on one's own machine"
    )


def test_each_task_of_a_commit_waits_for_those_before_it() -> None:
    policy = Policy(attempt_budget_s=30, lease_margin_s=100, containers_max=10, task_files_max=1)
    history = History(transform(timeout_s=20), policy=policy)
    first = history.plan(inputs("a", "b"), 0)
    later = history.plan(inputs("c"), 0)
    assert [t.deadline_ms for t in first + later] == [150_000, 153_000, 156_000]
    [respawn] = history.commit(
        Evidence(began={(t.id, t.dispatch) for t in first[1:] + later}), 151_000
    ).respawn
    assert respawn.deadline_ms == 151_000 + 150_000 + 3 * 3_000
