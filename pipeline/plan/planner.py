"""What a commit should say, given the state and what was seen.

Pure: the same inputs give the same commit.

`propose` may run several times for the same evidence, each time against a newer state, until its
commit wins the race for the next sequence number. So every rule here asks the state it is given and
remembers nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from pipeline.errors import InputRejected
from pipeline.model import keys
from pipeline.model.commit import FORMAT_VERSION, Backlog, Commit, Deleted, Quarantined, Respawn
from pipeline.model.policy import Policy
from pipeline.model.receipt import Receipt
from pipeline.model.settings import PipelineSettings, TransformSettings
from pipeline.model.task import RENTED, Inputs, Task
from pipeline.plan.commit_entries import cancelled, is_about, is_stored, settled, split
from pipeline.plan.evidence import Evidence, Loss, fits
from pipeline.plan.task_sizes import task_ranges
from pipeline.state.generations import changed
from pipeline.state.state import State

MERGE_MS = 2 * 3_600_000
"""How long a compaction may take; then its outputs are free for another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposer:
    """Makes commits for one pipeline.

    Everything it depends on besides state and evidence is fixed here.
    """

    settings: PipelineSettings
    policy: Policy
    owner: str
    writer: str
    parallelism: int
    is_gone: Callable[[str], bool]
    unify: Callable[[str | None, str], str]
    """The table's schema with another one added; raises InputRejected where they contradict each
    other.
    """

    def propose(self, state: State, evidence: Evidence, *, now_ms: int, commit_id: str) -> Commit:
        """The commit that should follow `state`; possibly empty."""
        draft = _Draft(self, state, evidence, now_ms, commit_id)
        draft.settle()
        draft.cancel()
        if evidence.runs_work:
            draft.expire()
        draft.requeue()
        draft.discover()
        draft.forget()
        draft.merge()
        draft.vacuumed()
        draft.remember_backlog()
        draft.change_generations()
        return draft.commit

    def blank(self, state: State, *, now_ms: int, commit_id: str) -> Commit:
        """An empty commit that follows `state`."""
        return Commit(
            format=FORMAT_VERSION,
            sequence=state.sequence + 1,
            id=commit_id,
            previous=state.id,
            pipeline=self.settings.name,
            generation=self.settings.generation,
            writer=self.writer,
            written_ms=now_ms,
        )


class _Draft:
    """One commit being written, with the keys it has already decided about."""

    def __init__(
        self, proposer: Proposer, state: State, evidence: Evidence, now_ms: int, commit_id: str
    ) -> None:
        self.p = proposer
        self.state = state
        self.evidence = evidence
        self.now_ms = now_ms
        self.schema = state.schema
        self.decided: set[str] = set()
        self.ended: set[str] = set()
        self.commit = proposer.blank(state, now_ms=now_ms, commit_id=commit_id)

    # -- receipts ----------------------------------------------------------------------------------

    def settle(self) -> None:
        """End each open task that has a receipt, with the first one seen.

        Receipts of any other task are ignored.
        """
        for task_id, receipt in self.evidence.receipts.items():
            task = self.state.tasks.get(task_id)
            if task is None or not fits(receipt, task, self.p.settings.output):
                continue
            if task.merges and not self._still_holds(task, receipt):
                self.ended.add(task_id)
                self.commit.retire.append(task_id)
                continue
            try:
                schema = (
                    self.p.unify(self.schema, receipt.schema) if receipt.schema else self.schema
                )
            except InputRejected:
                self._run_anew(task)
                continue
            self.schema = schema
            self.ended.add(task_id)
            self.decided.update(k for k in task.inputs.keys if self.state.is_wanted(k, task_id))
            self.commit.settle.append(settled(receipt))
            self._replan_deferred(task, receipt)
        mended = self.evidence.mended
        if mended is not None and mended.before == self.schema:
            self.schema = mended.after
        if self.schema != self.state.schema:
            self.commit.schema = self.schema

    def _still_holds(self, task: Task, receipt: Receipt) -> bool:
        """Whether the outputs of a compaction are still there to be replaced; else a later one sees
        to what is left of them.
        """
        found = [self.state.outputs.get(name) for name in task.merges]
        pairs = zip(found, receipt.merged_dead, strict=True)
        return all(
            output is not None and is_stored(output) and 0 <= seen <= len(output.dead)
            for output, seen in pairs
        )

    def _run_anew(self, task: Task) -> None:
        """Its receipt contradicts the table as it is by now: a new task meets the table's types,
        and finds no such receipt.
        """
        self.ended.add(task.id)
        self.commit.retire.append(task.id)
        wanted = [i for i, key in enumerate(task.inputs.keys) if self.state.is_wanted(key, task.id)]
        if wanted:
            self._plan_again(task, task.inputs.take(wanted))

    def _replan_deferred(self, task: Task, receipt: Receipt) -> None:
        """Inputs whose turn never came go into a new task at once."""
        left = [p.index for p in receipt.problems if p.status == "deferred"]
        left = [i for i in left if self.state.is_wanted(task.inputs.keys[i], task.id)]
        if left:
            self._plan_again(task, task.inputs.take(left))

    # -- attempts without an answer ----------------------------------------------------------------

    def expire(self) -> None:
        """Dispatch again, split or quarantine every open task whose attempt is lost, overdue, or
        whose runner is gone.
        """
        for task in self.state.tasks.values():
            if task.id in self.ended:
                continue
            loss = self.evidence.losses.get(task.id)
            if loss is not None and is_about(loss, task):
                self._lost(task, loss)
            elif task.deadline_ms <= self.now_ms:
                if (
                    task.owner.startswith(RENTED)
                    and (task.id, task.dispatch) not in self.evidence.began
                ):
                    self._runner_vanished(
                        task, "it was never begun: lost on its way, or too long in the queue"
                    )
                else:
                    self._attempt_failed(
                        task, Loss(task.attempt, task.owner, "no answer before its deadline")
                    )
            elif self.p.is_gone(task.owner):
                self._runner_vanished(task, "its runner ended")

    def _lost(self, task: Task, loss: Loss) -> None:
        if not loss.innocent:
            self._attempt_failed(task, loss)
        elif task.losses + 1 < self.p.policy.innocent_losses_max:
            self._respawn(task, attempt=task.attempt, losses=task.losses + 1, reason=loss.reason)
        else:
            self._give_back(task, loss)

    def _give_back(self, task: Task, loss: Loss) -> None:
        """An outage says nothing about the inputs: a later pass finds those that are still there
        and plans them. One that is committed, and was to be processed once more, would not be
        found: it waits in quarantine for that.
        """
        self.commit.retire.append(task.id)
        for i, key in enumerate(task.inputs.keys):
            if self.state.is_wanted(key, task.id):
                self.decided.add(key)
                entry = self.state.entry(key)
                if entry is not None and entry.etag == task.inputs.etags[i]:
                    self._quarantine_lost(task, i, loss)

    def _runner_vanished(self, task: Task, reason: str) -> None:
        transform = self.p.settings.transform(task.transform)
        may_rerun = transform is None or transform.safe_to_rerun or task.owner.startswith(RENTED)
        if task.losses + 1 < self.p.policy.losses_max and may_rerun:
            self._respawn(task, attempt=task.attempt, losses=task.losses + 1, reason=reason)
        else:
            self._attempt_failed(task, Loss(task.attempt, task.owner, "its runners kept ending"))

    def _attempt_failed(self, task: Task, loss: Loss) -> None:
        transform = self.p.settings.transform(task.transform)
        alone = len(task.inputs) == 1
        if (
            transform is not None
            and (alone or loss.suspect is None)
            and task.attempt < transform.max_attempts
        ):
            self._respawn(task, attempt=task.attempt + 1, losses=task.losses, reason=loss.reason)
            return
        self.commit.retire.append(task.id)
        wanted = [i for i, key in enumerate(task.inputs.keys) if self.state.is_wanted(key, task.id)]
        self.decided.update(task.inputs.keys[i] for i in wanted)
        if transform is None or transform.version != task.version:
            return  # the code is another by now: the next listing plans these objects anew
        if alone or not transform.safe_to_rerun:
            for i in wanted:
                self._quarantine_lost(task, i, loss)
            return
        for part in split(wanted, loss.suspect):
            self._plan_again(task, task.inputs.take(part))

    def _respawn(self, task: Task, *, attempt: int, losses: int, reason: str) -> None:
        transform = self.p.settings.transform(task.transform)
        if transform is None or transform.version != task.version:
            self.commit.retire.append(task.id)
            return
        self.commit.respawn.append(
            Respawn(
                task=task.id,
                attempt=attempt,
                losses=losses,
                deadline_ms=self._deadline_ms(transform),
                owner=self.p.owner,
                reason=reason,
            )
        )

    def _quarantine_lost(self, task: Task, i: int, loss: Loss) -> None:
        """No attempt gave an answer: the file may be poison or the machines unwell, so it is tried
        again, ever later.
        """
        policy, key, etag = self.p.policy, task.inputs.keys[i], task.inputs.etags[i]
        before = self.state.quarantine.get(key)
        tries = (
            before.tries + 1
            if before is not None and before.etag == etag and before.kind == "lost"
            else 1
        )
        transform = self.p.settings.transform(task.transform)
        for_good = tries >= policy.lost_tries_max or (
            transform is not None and not transform.safe_to_rerun
        )
        wait_s = min(policy.lost_backoff_s * 2 ** (tries - 1), policy.lost_backoff_max_s)
        self.commit.quarantine.append(
            Quarantined(
                key=key,
                etag=etag,
                kind="lost",
                reason=loss.reason,
                detail=loss.detail,
                tries=tries,
                retry_at_ms=0 if for_good else self.now_ms + int(1000 * wait_s),
                task=task.id,
                transform=task.transform,
                version=task.version,
                size_bytes=task.inputs.sizes[i],
            )
        )

    def cancel(self) -> None:
        """End tasks that a person does not want any more; what they would have published waits for
        a person.
        """
        for task_id, reason in self.evidence.cancel.items():
            task = self.state.tasks.get(task_id)
            if task is None or task_id in self.ended:
                continue
            self.ended.add(task_id)
            self.commit.retire.append(task_id)
            for i, key in enumerate(task.inputs.keys):
                if self.state.is_wanted(key, task_id):
                    self.decided.add(key)
                    self.commit.quarantine.append(cancelled(task, i, reason))

    # -- the listing -------------------------------------------------------------------------------

    def requeue(self) -> None:
        """Let quarantined keys go, so that the next listing plans them."""
        for key in self.evidence.requeue:
            if key in self.state.quarantine:
                self.commit.requeue.append(key)
                self.decided.add(key)

    def discover(self) -> None:
        """Plan new and changed objects; quarantine names that cannot be processed."""
        for found in self.evidence.found:
            transform = self.p.settings.transform(found.transform)
            fresh = [i for i in range(len(found.inputs)) if self._is_new(found.inputs, i)]
            if transform is None or not fresh:
                continue
            inputs = found.inputs if len(fresh) == len(found.inputs) else found.inputs.take(fresh)
            for start, end in self._ranges(inputs.sizes, transform):
                if self._is_full(found.again):
                    break  # the next pass finds the rest
                self._plan(
                    transform,
                    transform.version,
                    inputs.take(list(range(start, end))),
                    again=found.again,
                )
        for entry in self.evidence.unusable:
            before = self.state.quarantine.get(entry.key)
            if before is None or before.etag != entry.etag:
                self.commit.quarantine.append(entry)

    def _is_new(self, inputs: Inputs, i: int) -> bool:
        key, etag = inputs.keys[i], inputs.etags[i]
        if key in self.decided or self.state.decided_since(key, self.evidence.base):
            return False
        return self.state.is_due(key, etag, self.now_ms)

    def _is_full(self, again: bool) -> bool:
        """Whether no further task may be open; those of a backfill take a share at most, so that
        new objects find room.
        """
        most, share = self.p.policy.open_tasks_max, self.p.policy.again_tasks_max
        if most is None or share is None:
            return False
        if len(self.state.tasks) + len(self.commit.plan) >= most:
            return True
        return (
            again
            and sum(task.again for task in (*self.state.tasks.values(), *self.commit.plan)) >= share
        )

    def _ranges(self, sizes: list[int], transform: TransformSettings) -> list[tuple[int, int]]:
        policy = self.p.policy
        return task_ranges(
            sizes,
            policy,
            workers=(
                self.p.parallelism
                if policy.containers_max is None
                else policy.containers(transform)
            ),
            batch=transform.batch_size or 1,
            seconds_per_file=self.state.usage.took(transform.name).seconds_per_file,
            more_to_come=self.evidence.more_to_come,
        )

    def forget(self) -> None:
        """Record sources that are gone, unless something newer than the listing is known or under
        way.
        """
        for key in self.evidence.missing:
            if (
                key in self.decided
                or key in self.state.wanted
                or self.state.decided_since(key, self.evidence.base)
            ):
                continue
            entry = self.state.entry(key)
            if entry is not None or key in self.state.quarantine:
                self.commit.deleted.append(Deleted(key=key, output=entry.output if entry else None))

    def merge(self) -> None:
        """Plan a compaction of what is still there of the wanted outputs, and in nobody else's."""
        running = (
            t
            for t in self.state.tasks.values()
            if t.deadline_ms > self.now_ms and not self.p.is_gone(t.owner)
        )
        taken = {name for task in running for name in task.merges}
        names = [
            name
            for name in self.evidence.merge
            if name not in taken and is_stored(self.state.outputs.get(name))
        ]
        if names:
            self.commit.plan.append(
                self._task("", "", deadline_ms=self.now_ms + MERGE_MS, merges=names)
            )

    def vacuumed(self) -> None:
        """Record removed outputs whose files are gone, and give up ledger runs that are not named
        any more.
        """
        self.commit.vacuumed = [
            output for output in self.evidence.vacuumed if output in self.state.removed
        ]
        if self.evidence.collected:
            named = self.state.run_names
            self.commit.collected = [run for run in self.evidence.collected if run not in named]

    def remember_backlog(self) -> None:
        """Leave word of what the listing left for later, unless that is known; the time alone is no
        news.
        """
        seen, known = self.evidence.backlog, self.state.backlog or Backlog()
        if seen is not None and msgspec.structs.replace(seen, at_ms=known.at_ms) != known:
            self.commit.backlog = seen

    def change_generations(self) -> None:
        """Begin, publish, roll back or drop a generation.

        Raises SettingsError where that makes no sense by now.
        """
        if self.evidence.change is not None:
            before = self.state.generations
            after = changed(self.state.pipeline, before, self.evidence.change, self.now_ms)
            self.commit.generations = after if after != before else None

    # -- tasks -------------------------------------------------------------------------------------

    def _plan_again(self, task: Task, inputs: Inputs) -> None:
        transform = self.p.settings.transform(task.transform)
        if transform is not None and transform.version == task.version:
            self._plan(transform, task.version, inputs, again=task.again)

    def _plan(
        self, transform: TransformSettings, version: str, inputs: Inputs, *, again: bool
    ) -> None:
        self.decided.update(inputs.keys)
        self.commit.plan.append(
            self._task(
                transform.name,
                version,
                deadline_ms=self._deadline_ms(transform),
                inputs=inputs,
                again=again,
            )
        )

    def _task(self, transform: str, version: str, *, deadline_ms: int, **rest: Any) -> Task:
        rest.setdefault("inputs", Inputs(keys=[], etags=[], sizes=[], modified_us=[], replaces=[]))
        return Task(
            id=keys.task_id(self.commit.sequence, len(self.commit.plan)),
            transform=transform,
            version=version,
            generation=self.commit.generation,
            attempt=1,
            losses=0,
            deadline_ms=deadline_ms,
            owner=self.p.owner,
            **rest,
        )

    def _deadline_ms(self, transform: TransformSettings) -> int:
        ahead = len(self.state.tasks) + len(self.commit.plan)
        return self.now_ms + self.p.policy.lease_ms(transform, ahead=ahead)
