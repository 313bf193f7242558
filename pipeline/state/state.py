"""The folded state: what is true after a number of commits.

Pure; `apply` is the only thing that changes it.

Every rule about what a commit means is here, and nowhere else: runner, readers, vacuum and audit
all fold the same log.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pipeline.errors import InvariantViolated, StateInvalid
from pipeline.model import keys
from pipeline.model.commit import (
    Backlog,
    Commit,
    Deleted,
    Generations,
    Quarantined,
    Respawn,
    Settled,
)
from pipeline.model.receipt import SourceProblem
from pipeline.model.snapshot import Output, Snapshot
from pipeline.model.task import Task, named_detached
from pipeline.state.checkpoint import Checkpoint
from pipeline.state.key_growth import Growth
from pipeline.state.ledger import Entry, Ledger
from pipeline.state.needs import Needs
from pipeline.state.table_files import TableFiles
from pipeline.state.usage import Usage, note


class State(TableFiles):
    """One pipeline's state at `sequence`.

    tasks: open tasks. wanted: source key -> the only task that may publish it, and at which etag.
    outputs, removed: files with and without live rows. usage: what attempts took so far. overlay:
    ledger entries changed since the runs were written (None: deleted). base: the sequence of the
    checkpoint that the runs are from. doomed: runs that commits since gave up. touched: source key
    -> the commit that last decided about it, for commits applied in this process. growth: advice
    for listings; no commit changes it. backlog: what the last listing that said so left for later.
    generations: only in the log of the first one; None: there never was another.
    """

    __slots__ = (
        "backlog",
        "base",
        "doomed",
        "generations",
        "growth",
        "id",
        "ledger",
        "overlay",
        "pipeline",
        "quarantine",
        "schema",
        "sequence",
        "tasks",
        "touched",
        "usage",
        "wanted",
    )

    def __init__(self, pipeline: str) -> None:
        super().__init__()
        self.pipeline: str = pipeline
        self.sequence: int = 0
        self.id: str | None = None
        self.schema: str | None = None
        self.tasks: dict[str, Task] = {}
        self.wanted: dict[str, tuple[str, str]] = {}
        self.quarantine: dict[str, Quarantined] = {}
        self.growth: Growth | None = None
        self.base: int = 0
        self.ledger: Ledger = Ledger()
        self.overlay: dict[str, Entry | None] = {}
        self.doomed: set[str] = set()
        self.touched: dict[str, int] = {}
        self.usage: Usage = Usage()
        self.backlog: Backlog | None = None
        self.generations: Generations | None = None

    # -- reading -----------------------------------------------------------------------------------

    def entry(self, key: str) -> Entry | None:
        """The committed version of a source key.

        Raises InvariantViolated if it had to be looked up first (`Log.look_up`).
        """
        return self.overlay[key] if key in self.overlay else self.ledger.get(key)

    def needed_for(self, commit: Commit) -> Needs:
        """What must be looked up before this commit can be applied."""
        needs = Needs(sources=list(commit.requeue))
        for settled in commit.settle:
            if settled.task in self.tasks:
                self.settling(self.tasks[settled.task], needs)
        for deleted in commit.deleted:
            if deleted.output is not None:
                needs.sources.append(deleted.key)
                needs.outputs.append(deleted.output)
        return needs

    @staticmethod
    def settling(task: Task, needs: Needs) -> None:
        """Add what the end of a task by a receipt asks."""
        needs.outputs += task.merges
        for key, replaced in zip(task.inputs.keys, task.inputs.replaces, strict=True):
            if replaced is not None:
                needs.sources.append(key)
                needs.outputs.append(replaced)

    def decided_since(self, key: str, base: int) -> bool:
        """Whether a commit above `base` decided about the key: a listing taken at `base` must not
        judge it.
        """
        return self.touched.get(key, 0) > base

    def is_wanted(self, key: str, task_id: str) -> bool:
        """Whether this task is the one that may publish the key."""
        wanted = self.wanted.get(key)
        return wanted is not None and wanted[0] == task_id

    def is_due(self, key: str, etag: str, now_ms: int) -> bool:
        """Whether this version, found in the bucket and not committed, may be planned: nobody has
        it, and it is not set aside.
        """
        quarantined, wanted = self.quarantine.get(key), self.wanted.get(key)
        if quarantined is not None and quarantined.etag == etag:
            retry_at_ms = quarantined.retry_at_ms
            if retry_at_ms == 0 or retry_at_ms > now_ms:
                return False
        return wanted is None or wanted[1] != etag

    def snapshot(self, sources: Iterable[str] | None = None) -> Snapshot:
        """What readers see now.

        Shares its values with the state: take it, use it, do not apply commits meanwhile.

        sources: with the outputs alone that have rows of these, which must have been looked up.
        Raises InvariantViolated if they were not, or, where all are wanted, if the outputs were not
        loaded whole (`Log.load_outputs`).
        """
        return Snapshot(
            pipeline=self.pipeline,
            sequence=self.sequence,
            schema=self.schema,
            outputs=self.stored() if sources is None else self._holders(sources),
            removed=self.removed,
            aggregates=self.aggregates,
            changes=self.changes,
            quarantine=self.quarantine,
        )

    def _holders(self, sources: Iterable[str]) -> dict[str, Output]:
        entries = (self.entry(key) for key in sources)
        names = {self.holder_of(entry.output) for entry in entries if entry is not None}
        return {name: self.outputs[name] for name in names if name is not None}

    # -- changing ----------------------------------------------------------------------------------

    def apply(self, commit: Commit, at_ms: int) -> None:
        """Make one commit true. `at_ms` is the log entry's time by the store's clock.

        Raises StateInvalid if the commit does not follow this state.
        """
        if commit.sequence != self.sequence + 1 or commit.previous != self.id:
            raise StateInvalid(f"log entry {commit.sequence} does not follow entry {self.sequence}")
        self.sequence, self.id = commit.sequence, commit.id
        self._apply_to_sources(commit, at_ms)
        self._apply_to_table(commit, at_ms)
        self.backlog = commit.backlog or self.backlog
        if commit.generations is not None:
            self.generations = commit.generations
            if 0 in commit.generations.dropped:
                self._forget_rows()

    def _apply_to_sources(self, commit: Commit, at_ms: int) -> None:
        """What it says of tasks, and of the sources that they are about."""
        for settled in commit.settle:
            self._settle(settled, at_ms)
        for respawn in commit.respawn:
            self._respawn(respawn)
        for task_id in commit.retire:
            self._retire(task_id)
        self._set_aside(commit.quarantine)
        for key in commit.requeue:
            self._release(key)
        for planned in commit.plan:
            self._plan(planned)
        self._delete(commit.deleted, at_ms)

    def _apply_to_table(self, commit: Commit, at_ms: int) -> None:
        self.doomed.update(commit.collected)
        if commit.schema is not None:
            self.schema = commit.schema
        if commit.aggregates:
            self._replace_aggregates(commit, at_ms)
        for output in commit.vacuumed:
            self.removed.pop(output, None)

    def _respawn(self, respawn: Respawn) -> None:
        task = self._open(respawn.task)
        task.attempt, task.losses = respawn.attempt, respawn.losses
        task.detached = respawn.detached or named_detached(respawn.owner)
        task.deadline_ms, task.owner, task.reason = (
            respawn.deadline_ms,
            respawn.owner,
            respawn.reason,
        )

    def _set_aside(self, entries: Iterable[Quarantined]) -> None:
        for entry in entries:
            self.quarantine[entry.key] = entry
            self.touched[entry.key] = self.sequence

    def _delete(self, sources: Iterable[Deleted], at_ms: int) -> None:
        for deleted in sources:
            self.quarantine.pop(deleted.key, None)
            self.touched[deleted.key] = self.sequence
            if deleted.output is not None:
                self._bury(deleted.output, deleted.key, at_ms)
                self.overlay[deleted.key] = None

    def _replace_aggregates(self, commit: Commit, at_ms: int) -> None:
        if commit.settle or commit.deleted:
            raise StateInvalid(
                f"log entry {commit.sequence} mixes aggregates with the rows they were computed"
                " from"
            )
        self.publish_aggregates(commit.aggregates, at_ms)

    def _forget_rows(self) -> None:
        """The first generation was dropped: what is left here is the log, which says what became of
        the others.
        """
        super().__init__()
        self.tasks, self.wanted, self.quarantine, self.overlay = {}, {}, {}, {}
        self.ledger, self.schema, self.backlog = Ledger(), None, None
        self.base = self.sequence  # no checkpoint of before may give its runs back

    def _release(self, key: str) -> None:
        """The next listing plans it.

        One that is committed, and was to be processed once more, is due for that.
        """
        self.touched[key] = self.sequence
        waiting, entry = self.quarantine.pop(key, None), self.entry(key)
        if waiting is not None and entry is not None and entry.etag == waiting.etag:
            self.quarantine[key] = msgspec.structs.replace(waiting, retry_at_ms=1)

    def _open(self, task_id: str) -> Task:
        task = self.tasks.get(task_id)
        if task is None:
            raise StateInvalid(f"log entry {self.sequence} names task {task_id}, which is not open")
        return task

    def _plan(self, task: Task) -> None:
        # A copy: attempt, deadline and owner change with later commits, the commit itself must not.
        self.tasks[task.id] = msgspec.structs.replace(task)
        for key, etag in zip(task.inputs.keys, task.inputs.etags, strict=True):
            self.wanted[key] = (task.id, etag)
            self.touched[key] = self.sequence

    def _retire(self, task_id: str) -> None:
        for key in self._open(task_id).inputs.keys:
            if self.is_wanted(key, task_id):
                del self.wanted[key]
                self.touched[key] = self.sequence
        del self.tasks[task_id]

    def _settle(self, settled: Settled, at_ms: int) -> None:
        task = self._open(settled.task)
        if not len(settled.rows) == len(settled.rejected) == len(task.inputs):
            raise StateInvalid(
                f"log entry {self.sequence} settles task {task.id} with a wrong number of sources"
            )
        del self.tasks[task.id]
        if task.merges:
            self.merge(task, settled, at_ms)
            return
        note(self.usage, task, settled, at_ms)
        self._settle_sources(task, settled, at_ms)

    def _settle_sources(self, task: Task, settled: Settled, at_ms: int) -> None:
        output = keys.output_id(task.id, settled.nonce)
        problems = {p.index: p for p in settled.problems}
        live, dead = 0, []
        for i, key in enumerate(task.inputs.keys):
            problem, wanted = problems.get(i), self.is_wanted(key, task.id)
            if not wanted or problem is not None:
                if problem is None or settled.rows[i] or settled.rejected[i]:
                    dead.append(key)
                if not wanted:
                    continue
            del self.wanted[key]
            self.touched[key] = self.sequence
            if problem is None:
                live += 1
                self._publish(task, i, settled, output, at_ms)
            elif problem.status == "failed":
                self.quarantine[key] = _failed(task, problem)
        self.publish(output, settled, live, dead, at_ms)

    def _publish(self, task: Task, i: int, settled: Settled, output: str, at_ms: int) -> None:
        inputs = task.inputs
        key, replaced = inputs.keys[i], inputs.replaces[i]
        if replaced is not None:
            self._bury(replaced, key, at_ms)
        self.totals.sources += 1
        self.totals.rows += settled.rows[i]
        self.overlay[key] = Entry(
            inputs.etags[i],
            inputs.sizes[i],
            inputs.modified_us[i],
            settled.rows[i],
            settled.rejected[i],
            task.transform,
            task.version,
            task.generation,
            output,
            self.sequence,
        )
        if self.quarantine:
            self.quarantine.pop(key, None)

    def _bury(self, output: str, key: str, at_ms: int) -> None:
        entry = self.entry(key)
        if entry is None:
            raise InvariantViolated(f"{key!r} is not committed at sequence {self.sequence}")
        self.bury(output, key, entry.rows, at_ms)

    # -- checkpoints -------------------------------------------------------------------------------

    def rebase(self, checkpoint: Checkpoint) -> None:
        """Look into the runs of another checkpoint, between `base` and `sequence`, from now on:
        those of before are gone.

        What changed since `base` is in the overlay, and what did not is the same in both
        checkpoints.
        """
        if not self.base <= checkpoint.sequence <= self.sequence:
            raise InvariantViolated(
                f"checkpoint {checkpoint.sequence} is not between {self.base} and {self.sequence}"
            )
        self.base = checkpoint.sequence
        self.ledger.runs = self.ledger.runs.with_runs(checkpoint.runs)
        runs = self.outputs.runs.with_runs(checkpoint.output_runs)
        self.outputs.rebase(checkpoint.outputs, checkpoint.outputs_gone, runs)

    @property
    def run_names(self) -> set[str]:
        """The keys of all runs that a checkpoint of this state would name."""
        return {run.key for run in (*self.ledger.runs.runs, *self.outputs.runs.runs)}


def _failed(task: Task, problem: SourceProblem) -> Quarantined:
    i = problem.index
    return Quarantined(
        key=task.inputs.keys[i],
        etag=task.inputs.etags[i],
        kind="failed",
        reason=problem.reason,
        detail=problem.detail,
        task=task.id,
        transform=task.transform,
        version=task.version,
        size_bytes=task.inputs.sizes[i],
    )
