"""What a commit should say, given the state and what was seen.

Pure: the same inputs give the same commit.

`propose` may run several times for the same evidence, each time against a newer state, until its
commit wins the race for the next sequence number. So every rule here asks the state it is given and
remembers nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from pipeline.errors import InputRejected
from pipeline.model.commit import Backlog, Commit, Deleted, Settled
from pipeline.model.receipt import Receipt
from pipeline.model.settings import TransformSettings
from pipeline.model.task import Inputs, Task
from pipeline.plan.commit_entries import cancelled, is_stored
from pipeline.plan.draft import Draft, Writer
from pipeline.plan.evidence import Evidence, fits
from pipeline.plan.lost_attempts import expire
from pipeline.plan.task_sizes import task_ranges
from pipeline.state.generations import changed
from pipeline.state.state import State

MERGE_MS = 2 * 3_600_000
"""How long a compaction may take; then its outputs are free for another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposer(Writer):
    """Makes commits for one pipeline.

    Everything it depends on besides state and evidence is fixed here.
    """

    def propose(self, state: State, evidence: Evidence, *, now_ms: int, commit_id: str) -> Commit:
        """The commit that should follow `state`; possibly empty."""
        draft = _Rules(self, state, evidence, now_ms, commit_id)
        draft.settle()  # first: it changes the columns, and what is settled cannot be lost any more
        draft.cancel()  # before `expire`: what a person ends is not dispatched again
        if evidence.runs_work:
            expire(draft)
        draft.requeue()  # before `discover`: the same commit must not plan what it lets go
        draft.discover()  # after all that plan keys again, or set them aside
        draft.forget()  # after `discover`: a key that came again is not gone
        draft.merge()
        draft.vacuumed()
        draft.remember_backlog()
        draft.change_generations()
        return draft.commit


class _Rules(Draft):
    """One commit, rule by rule."""

    # -- receipts ----------------------------------------------------------------------------------

    def settle(self) -> None:
        """End each open task that has a receipt, with the first one seen.

        Receipts of any other task are ignored.
        """
        for task_id, receipt in self.evidence.receipts.items():
            task = self.state.tasks.get(task_id)
            if task is None or not fits(receipt, task, self.writer.settings.output):
                continue
            if task.merges and not self._still_holds(task, receipt):
                self.ended.add(task_id)
                self.commit.retire.append(task_id)
                continue
            try:
                schema = (
                    self.writer.unify(self.schema, receipt.schema)
                    if receipt.schema
                    else self.schema
                )
            except InputRejected:
                self._run_anew(task)
                continue
            self.schema = schema
            self.ended.add(task_id)
            self.decided.update(k for k in task.inputs.keys if self.state.is_wanted(k, task_id))
            self.commit.settle.append(Settled.of(receipt))
            self._replan_deferred(task, receipt)
        repaired = self.evidence.repaired
        if repaired is not None and repaired.before == self.schema:
            self.schema = repaired.after
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
            self.plan_again(task, task.inputs.take(wanted))

    def _replan_deferred(self, task: Task, receipt: Receipt) -> None:
        """Inputs whose turn never came go into a new task at once."""
        left = [p.index for p in receipt.problems if p.status == "deferred"]
        left = [i for i in left if self.state.is_wanted(task.inputs.keys[i], task.id)]
        if left:
            self.plan_again(task, task.inputs.take(left))

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
            transform = self.writer.settings.transform(found.transform)
            fresh = [i for i in range(len(found.inputs)) if self._is_new(found.inputs, i)]
            if transform is None or not fresh:
                continue
            inputs = found.inputs if len(fresh) == len(found.inputs) else found.inputs.take(fresh)
            for start, end in self._ranges(inputs.sizes, transform):
                if self._is_full(found.again):
                    break  # the next pass finds the rest
                self.plan(
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
        most, share = self.writer.policy.open_tasks_max, self.writer.policy.again_tasks_max
        if most is None or share is None:
            return False
        if len(self.state.tasks) + len(self.commit.plan) >= most:
            return True
        return (
            again
            and sum(task.again for task in (*self.state.tasks.values(), *self.commit.plan)) >= share
        )

    def _ranges(self, sizes: list[int], transform: TransformSettings) -> list[tuple[int, int]]:
        policy = self.writer.policy
        return task_ranges(
            sizes,
            policy,
            workers=(
                self.writer.parallelism
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
            if t.deadline_ms > self.now_ms and not self.writer.is_gone(t.owner)
        )
        taken = {name for task in running for name in task.merges}
        names = [
            name
            for name in self.evidence.merge
            if name not in taken and is_stored(self.state.outputs.get(name))
        ]
        if names:
            self.commit.plan.append(
                self.task("", "", deadline_ms=self.now_ms + MERGE_MS, merges=names)
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
        """Note what the listing left for later, unless that is known; the time alone is no
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
