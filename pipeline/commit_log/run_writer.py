"""Writing sorted runs: what changed becomes a new run, and levels that are too large are merged
downwards, a piece at a time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.commit_log import run_reader
from pipeline.model import keys
from pipeline.ports import Ids, Store
from pipeline.state import sorted_runs
from pipeline.state.sorted_runs import Merge, Run, SortedRuns

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(slots=True)
class Compaction:
    """One table's runs on their way into the next checkpoint.

    Nothing that is stored is changed: runs are only added.
    """

    store: Store
    home: str
    sequence: int
    ids: Ids
    runs: SortedRuns
    schema: pa.Schema
    run_rows: int
    fanout: int

    async def run(self, changed: pa.Table, doomed: Collection[str]) -> None:
        """Merge `changed` into `runs`, and rewrite doomed ones under other names.

        Raises RunGone, StateInvalid.
        """
        for run in [run for run in self.runs.runs if run.key in doomed]:
            await self._rewrite(run)
        if changed.num_rows:
            await self._add(changed)
        while (merge := self.runs.next_merge(self.run_rows, self.fanout)) is not None:
            await self._merge(merge)

    async def _rewrite(self, run: Run) -> None:
        """The same rows under a new name, in the same place: level 0 is in order of age."""
        table = (await run_reader.tables(self.store, self.runs, [run], self.schema))[0]
        rewritten = await self._write(table, run.level)
        self._become(
            [rewritten if other.key == run.key else other for other in self.runs.runs],
            {rewritten.key: table},
        )

    async def _add(self, changed: pa.Table) -> None:
        absorbed = self.runs.absorbed(changed.num_rows)
        old = await run_reader.tables(self.store, self.runs, absorbed, self.schema)
        table = sorted_runs.merge(
            [*old, changed], drop_tombstones=len(absorbed) == len(self.runs.runs)
        )
        await self._replace(absorbed, table, 0)

    async def _merge(self, merge: Merge) -> None:
        if merge.is_move:
            moved = sorted_runs.moved(merge.inputs[0], merge.level)
            self._become([moved if run.key == moved.key else run for run in self.runs.runs], {})
            return
        old = await run_reader.tables(self.store, self.runs, merge.inputs, self.schema)
        await self._replace(
            merge.inputs,
            sorted_runs.merge(old, drop_tombstones=merge.drops_tombstones),
            merge.level,
        )

    async def _replace(self, inputs: list[Run], table: pa.Table, level: int) -> None:
        parts = sorted_runs.parts_of(table, self.run_rows)
        written = [await self._write(part, level) for part in parts]
        gone = {run.key for run in inputs}
        tables = {run.key: part for run, part in zip(written, parts, strict=True)}
        self._become([*(run for run in self.runs.runs if run.key not in gone), *written], tables)

    async def _write(self, table: pa.Table, level: int) -> Run:
        body = sorted_runs.encode(table)
        run = sorted_runs.described(
            table, body, keys.ledger_run(self.home, self.sequence, self.ids.nonce()), level
        )
        await self.store.put(run.key, body)
        return run

    def _become(self, runs: list[Run], tables: dict[str, pa.Table]) -> None:
        self.runs = self.runs.with_runs(runs)
        for run in self.runs.runs:
            if run.key in tables:
                self.runs.hold(run, tables[run.key])
