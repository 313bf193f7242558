"""Which rows came and went since the aggregates were committed, as the snapshot says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.model.receipt import MAIN_TABLE, OutputFile
from pipeline.model.snapshot import Output, Snapshot, dead_rows


@dataclass(slots=True)
class Went:
    """Rows that counted and do not now, by task and key, and the outputs that hold them."""

    pairs: list[tuple[str, str]] = field(default_factory=list)
    outputs: dict[str, None] = field(default_factory=dict)


def rows_that_went(snapshot: Snapshot) -> tuple[Went, Went] | None:
    """Those of outputs as they were written, and those of merged ones: what an output had before it
    was merged is in the merged one, too.

    None where an output was merged or removed meanwhile.
    """
    tasks = {output.partition(".")[0] for output in snapshot.changes.added}
    found = Went(), Went()
    for holder, key in snapshot.changes.gone:
        live, removed = snapshot.outputs.get(holder), snapshot.removed.get(holder)
        if (live is None and removed is None) or (removed is not None and removed.merged):
            return None
        went = found[live is not None and bool(live.dead_tasks)]
        # else it came and went in between
        went.pairs += [row for row in _rows(holder, live, key) if row[0] not in tasks]
        went.outputs[holder] = None
    return found


def _rows(holder: str, live: Output | None, key: str) -> list[tuple[str, str]]:
    """Of a source that is gone: of all tasks whose dead rows a live output holds."""
    if live is None:
        return [(holder.partition(".")[0], key)]
    return [row for row in dead_rows(holder, live) if row[1] == key]


def of_rows_in(gone: str, scans: Iterable[str]) -> list[str]:
    """SELECTs of those rows alone that a table of tasks and keys names."""
    is_gone = (
        f"WHERE EXISTS (SELECT 1 FROM {gone} g WHERE g.task = f._task AND g.key = f._source_key)"
    )
    return [f"{scan} {is_gone}" for scan in scans]


def main_files(
    holders: Mapping[str, Iterable[OutputFile]], outputs: Iterable[str]
) -> list[OutputFile]:
    """Those of the main table, each output's once."""
    return [
        file
        for output in dict.fromkeys(outputs)
        for file in holders[output]
        if file.table == MAIN_TABLE
    ]
