"""Reading the sorted runs of a state: the few that a pass has to look into, one range after the
other, or all of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from pipeline.ports import Store
from pipeline.state import sorted_runs
from pipeline.state.sorted_runs import Run, SortedRuns

if TYPE_CHECKING:
    import pyarrow as pa

TOGETHER = 8
"""Runs that are asked for at the same time."""


class RunGone(Exception):
    """A run that the state names was deleted: a newer checkpoint has what it held."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.key)
        self.run = run


async def tables(
    store: Store, runs: SortedRuns, wanted: Sequence[Run], schema: pa.Schema
) -> list[pa.Table]:
    """The tables of these runs, in their order. Raises RunGone, StateInvalid."""
    found = {run.key: table for run in wanted if (table := runs.at_hand(run)) is not None}
    missing = [run for run in wanted if run.key not in found]
    for run, stored in zip(
        missing, await store.get_many([run.key for run in missing]) if missing else (), strict=True
    ):
        if stored is None:
            raise RunGone(run)
        found[run.key] = sorted_runs.decode(stored.body, run, schema)
        runs.hold(run, found[run.key])
    return [found[run.key] for run in wanted]


async def rows(store: Store, runs: SortedRuns, names: Sequence[str], schema: pa.Schema) -> pa.Table:
    """For sorted `names`: the youngest row of each key that has one, tombstones among them.

    Raises RunGone, StateInvalid.
    """
    left, found = set(names), [schema.empty_table()]
    holding = runs.holding(names)
    for some in (holding[i : i + TOGETHER] for i in range(0, len(holding), TOGETHER)):
        for table, (_, candidates) in zip(
            await tables(store, runs, [run for run, _ in some], schema), some, strict=True
        ):
            asked = [name for name in candidates if name in left]
            if asked:
                found.append(sorted_runs.rows_of(table, asked))
                left.difference_update(found[-1].column("key").to_pylist())
    import pyarrow as pa

    return pa.concat_tables(found)


async def between(
    store: Store, runs: SortedRuns, after: str, upto: str | None, schema: pa.Schema
) -> pa.Table | None:
    """The rows with `after` < key <= `upto` that count, sorted; None for none.

    Raises RunGone, StateInvalid.
    """
    wanted = runs.overlapping(after, upto)
    parts = [
        sorted_runs.between(table, after, upto)
        for table in await tables(store, runs, wanted, schema)
    ]
    parts = [part for part in parts if part.num_rows]
    if not parts:
        return None
    found = sorted_runs.merge(parts, drop_tombstones=True)
    return found if found.num_rows else None


async def everything(store: Store, runs: SortedRuns, schema: pa.Schema) -> AsyncIterator[pa.Table]:
    """All rows that count, range by range in order. Raises RunGone, StateInvalid."""
    after = ""
    for upto in (*runs.range_ends("", None), None):
        found = await between(store, runs, after, upto, schema)
        if found is not None:
            yield found
        after = upto or ""
