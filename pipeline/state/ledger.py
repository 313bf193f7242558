"""The ledger: for every source key, which version is committed and which output holds its rows.

Stored as sorted runs (`pipeline.runs`), plus an overlay of what commits changed since
(`state.State.overlay`). Rows with `output` null are tombstones: the key was deleted. Pure: what a
commit needs to know is looked up before it is applied (`Log.look_up`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import InvariantViolated
from pipeline.state.sorted_runs import Run, SortedRuns

if TYPE_CHECKING:
    import pyarrow as pa


class Entry(NamedTuple):
    """The committed version of one source key."""

    etag: str
    size_bytes: int
    modified_us: int
    rows: int
    rejected: int
    transform: str
    version: str
    generation: int
    output: str
    sequence: int


class Ledger:
    """The runs of a checkpoint, and the entries that were looked up in them."""

    __slots__ = ("_found", "runs")

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self.runs: SortedRuns = SortedRuns(runs)
        self._found: dict[str, Entry | None] = {}

    def knows(self, key: str) -> bool:
        """Whether `get` can answer."""
        return key in self._found or not self.runs.may_hold(key)

    def get(self, key: str) -> Entry | None:
        """The entry of one key. Raises InvariantViolated if it had to be looked up first."""
        if not self.knows(key):
            raise InvariantViolated(f"{key!r} was not looked up in the ledger")
        return self._found.get(key)

    def learn(self, names: Iterable[str], rows: pa.Table) -> None:
        """What the runs hold for these keys: `rows`, and nothing for the others."""
        self._found.update(dict.fromkeys(names))
        columns = [rows.column(name).to_pylist() for name in ("key", *Entry._fields)]
        for key, *values in zip(*columns, strict=True):
            entry = Entry(*values)
            self._found[key] = entry if entry.output is not None else None

    def replace(self, runs: SortedRuns, changed: Mapping[str, Entry | None]) -> None:
        """The runs were rewritten with `changed` merged in."""
        self.runs = runs
        self._found.update((key, entry) for key, entry in changed.items() if key in self._found)

    def forget(self) -> None:
        """Let go of what was looked up."""
        self._found.clear()


@cache
def schema() -> pa.Schema:
    """Of a ledger run."""
    import pyarrow as pa

    return pa.schema(
        [
            ("key", pa.string()),
            ("etag", pa.string()),
            ("size_bytes", pa.int64()),
            ("modified_us", pa.int64()),
            ("rows", pa.int64()),
            ("rejected", pa.int64()),
            ("transform", pa.string()),
            ("version", pa.string()),
            ("generation", pa.int32()),
            ("output", pa.string()),
            ("sequence", pa.int64()),
        ]
    )


def table_of(overlay: Mapping[str, Entry | None]) -> pa.Table:
    """The overlay as a sorted table; a None entry becomes a tombstone."""
    import pyarrow as pa

    keys = sorted(overlay)
    blank = Entry("", 0, 0, 0, 0, "", "", 0, None, 0)  # type: ignore[arg-type]
    entries: Sequence[Entry] = [overlay[key] or blank for key in keys]
    columns = list(zip(*entries, strict=True)) if entries else [()] * len(Entry._fields)
    arrays = [pa.array(keys, pa.string())]
    arrays += [pa.array(values, schema().field(i + 1).type) for i, values in enumerate(columns)]
    return pa.Table.from_arrays(arrays, schema=schema())


def overlay_between(
    overlay: Mapping[str, Entry | None], after: str, upto: str | None
) -> Iterable[tuple[str, Entry | None]]:
    """The overlay's items with `after` < key <= `upto`."""
    return ((k, e) for k, e in overlay.items() if k > after and (upto is None or k <= upto))
