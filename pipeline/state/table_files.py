"""The files that hold a table's rows as commits fold: which count, which did, and what changed
since the aggregates. Pure.
"""

from __future__ import annotations

from pipeline.errors import InvariantViolated, StateInvalid
from pipeline.model import keys
from pipeline.model.commit import AggregateFile, Settled
from pipeline.model.receipt import OutputFile
from pipeline.model.snapshot import Changes, Output, Removed, dead_rows
from pipeline.model.task import Task
from pipeline.state.checkpoint import Totals
from pipeline.state.outputs import Outputs

CHANGES_MAX = 20_000
"""Above so many changed outputs and rows the aggregates are computed from scratch, and the lists
are dropped.
"""


class TableFiles:
    """Outputs with and without live rows, and what is summed up over them. A part of
    `state.State`.
    """

    __slots__ = ("aggregates", "changes", "outputs", "removed", "totals")

    def __init__(self) -> None:
        self.outputs: Outputs = Outputs()
        self.removed: dict[str, Removed] = {}
        self.aggregates: dict[str, AggregateFile] = {}
        self.changes: Changes = Changes()
        self.totals: Totals = Totals()

    def publish(
        self, output: str, settled: Settled, live: int, dead: list[str], at_ms: int
    ) -> None:
        """An attempt settled: its files count where any of its sources is live in them."""
        if live:
            self.outputs[output] = Output(files=settled.files, live=live, dead=dead)
            self._count_files(settled.files, 1)
            self._note(added=output)
        elif settled.files:
            self.removed[output] = Removed(files=settled.files, removed_ms=at_ms)

    def bury(self, output: str, key: str, rows: int, at_ms: int) -> None:
        """A source's rows in this output, or in the one that has them by now, do not count any
        more.

        Raises InvariantViolated where they did not count before.
        """
        self.totals.sources -= 1
        self.totals.rows -= rows
        task, name = output.partition(".")[0], output
        while True:
            holder = self.outputs.get(name)
            if holder is None or (holder.into is None and (task, key) in dead_rows(name, holder)):
                raise InvariantViolated(f"{key!r} is not live in output {output}")
            holder.live -= 1
            self.outputs[name] = holder
            if holder.into is None:
                break
            if holder.live == 0:
                del self.outputs[name]
            name = holder.into
        holder.dead.append(key)
        if name != output:  # merged: such an output's rows are of many tasks
            holder.dead_tasks.append(task)
        self._note(gone=(name, key))
        if holder.live == 0:
            self._remove(name, holder, at_ms)
            del self.outputs[name]

    def merge(self, task: Task, settled: Settled, at_ms: int) -> None:
        """A compaction settled: its files have the rows of the outputs it merged, but for those
        that died since it read them.

        Raises StateInvalid where one of them has no live rows any more: then nobody knows which
        rows died.
        """
        merged = keys.output_id(task.id, settled.nonce)
        live, dead = 0, []
        for name, seen in zip(task.merges, settled.merged_dead, strict=True):
            holder = self._merged(task, name, seen)
            live += holder.live
            dead += dead_rows(name, holder)[seen:]
            self._remove(name, holder, at_ms)
            self.outputs[name] = Output(files=[], live=holder.live, into=merged)
        self.outputs[merged] = Output(
            files=settled.files,
            live=live,
            dead=[key for _, key in dead],
            dead_tasks=[task for task, _ in dead],
        )
        self._count_files(settled.files, 1)

    def _merged(self, task: Task, name: str, seen: int) -> Output:
        holder = self.outputs.get(name)
        if holder is None or holder.into is not None or len(holder.dead) < seen:
            raise StateInvalid(f"task {task.id} merged output {name}, which was not as it says")
        return holder

    def publish_aggregates(self, files: list[AggregateFile], at_ms: int) -> None:
        """The commit's aggregates were computed over the snapshot just before it, so nothing
        changed since.
        """
        kept = {file.key for file in files}
        for old in self.aggregates.values():
            if old.key not in kept:
                self.removed[f"aggregate:{old.key}"] = Removed(
                    files=[_as_output_file(old)], removed_ms=at_ms
                )
        self.aggregates = {file.name: file for file in files}
        self.changes = Changes()

    def stored(self) -> dict[str, Output]:
        """The outputs that have files.

        Raises InvariantViolated if not all were loaded (`Log.load_outputs`).
        """
        return {name: output for name, output in self.outputs.items() if output.into is None}

    def holder_of(self, output: str) -> str | None:
        """The output that has the rows of this one by now; None where it is not live.

        All on the way must have been looked up.
        """
        found = self.outputs.get(output)
        while found is not None and found.into is not None:
            output, found = found.into, self.outputs.get(found.into)
        return output if found is not None else None

    def _remove(self, name: str, holder: Output, at_ms: int) -> None:
        self._count_files(holder.files, -1)
        self.removed[name] = Removed(
            files=holder.files, removed_ms=at_ms, merged=bool(holder.dead_tasks)
        )

    def _count_files(self, files: list[OutputFile], sign: int) -> None:
        self.totals.files += sign * len(files)
        self.totals.size_bytes += sign * sum(file.size_bytes for file in files)

    def _note(self, *, added: str | None = None, gone: tuple[str, str] | None = None) -> None:
        if self.changes.everything:
            return
        if added is not None:
            self.changes.added.append(added)
        if gone is not None:
            self.changes.gone.append(gone)
        if len(self.changes.added) + len(self.changes.gone) > CHANGES_MAX:
            self.changes = Changes(everything=True)


def _as_output_file(file: AggregateFile) -> OutputFile:
    """A replaced aggregate waits in `removed` for its retention like any other file."""
    return OutputFile(
        table="aggregate",
        key=file.key,
        size_bytes=file.size_bytes,
        rows=file.rows,
        partition={},
        schema_id="",
        sha256="",
    )
