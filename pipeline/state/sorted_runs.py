"""Sorted runs: a table as immutable Parquet objects in levels, of which a reader takes only what
overlaps the keys it looks at.

Level 0 is what checkpoints wrote lately: runs that may overlap, the oldest first. Each further
level holds runs that do not overlap, and may be `fanout` times larger than the one before; the
deeper, the older. For each key the youngest row counts; one whose `output` is null is a tombstone.
A merge takes one run, or level 0, and what it overlaps in the next level: never the whole table for
a small change (a log-structured merge tree with partial merges: O'Neil et al. 1996; LevelDB's notes
on levels). Pure.
"""

from __future__ import annotations

import hashlib
import io
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from pipeline.errors import StateInvalid

if TYPE_CHECKING:
    import pyarrow as pa

ABSORB_FACTOR = 4
"""What is written absorbs a run beside it that has at most this many times its own rows: each row
is rewritten a logarithmic number of times, and the number of small runs stays logarithmic too.
"""
SPLIT_ROWS = 16_384
"""Rows between the keys at which a run says that a listing may be split."""
HELD_ROWS_MAX = 300_000
"""Rows of tables kept at hand for the next look, at about 200 bytes each."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run as a checkpoint names it: where it is and what to expect there."""

    key: str
    rows: int
    first: str
    last: str
    sha256: str
    level: int = 0
    splits: list[str] = []
    """Its keys at every SPLIT_ROWS-th row."""


class Merge(NamedTuple):
    """The next thing to do about the levels: these runs, oldest first, become runs of `level`."""

    inputs: list[Run]
    level: int
    drops_tombstones: bool

    @property
    def is_move(self) -> bool:
        """Nothing overlaps: the run as it is goes one level down."""
        return len(self.inputs) == 1 and self.inputs[0].level > 0


class SortedRuns:
    """The runs that a checkpoint names, oldest first, and those of their tables that are at hand.
    Holds no more than it must.
    """

    __slots__ = ("_lasts", "_levels", "held", "runs")

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        recent, levels = _by_level(runs)
        self._levels = {
            level: sorted(levels[level], key=lambda run: run.first)
            for level in sorted(levels, reverse=True)
        }
        self._levels[0] = recent
        self._lasts = {
            level: [run.last for run in found] for level, found in self._levels.items() if level
        }
        self.runs: list[Run] = [run for found in self._levels.values() for run in found]
        self.held: OrderedDict[str, pa.Table] = OrderedDict()

    def level(self, number: int) -> list[Run]:
        """The runs of one level: of level 0 the oldest first, of others by key."""
        return self._levels.get(number, [])

    @property
    def deepest(self) -> int:
        """The number of the lowest level that has runs."""
        return max((level for level, found in self._levels.items() if found), default=0)

    @property
    def rows(self) -> int:
        """Rows in all runs; a key may have several."""
        return sum(run.rows for run in self.runs)

    def overlapping(self, after: str, upto: str | None) -> list[Run]:
        """Runs that may hold a key with `after` < key <= `upto` (no upper bound for None), oldest
        first.
        """
        found: list[Run] = []
        for level in self._levels:
            found += self._within(level, after, upto)
        return found

    def _within(self, level: int, after: str, upto: str | None) -> list[Run]:
        runs = self._levels.get(level, [])
        if level == 0:
            return [run for run in runs if run.last > after and (upto is None or run.first <= upto)]
        start = bisect_right(self._lasts.get(level, []), after)
        end = start
        while end < len(runs) and (upto is None or runs[end].first <= upto):
            end += 1
        return runs[start:end]

    def holding(self, names: Sequence[str]) -> list[tuple[Run, list[str]]]:
        """For sorted `names`: the runs that may hold one of them, youngest first, each with the
        names in question.
        """
        found: dict[str, tuple[Run, list[str]]] = {}
        for level in reversed(self._levels):
            for name in names:
                for run in self._of(level, name):
                    found.setdefault(run.key, (run, []))[1].append(name)
        recent = {run.key: i for i, run in enumerate(self.level(0))}
        return sorted(found.values(), key=lambda pair: (pair[0].level, -recent.get(pair[0].key, 0)))

    def _of(self, level: int, name: str) -> list[Run]:
        if level == 0:
            return [run for run in self.level(0) if run.first <= name <= run.last]
        runs, at = self._levels[level], bisect_left(self._lasts[level], name)
        return [runs[at]] if at < len(runs) and runs[at].first <= name else []

    def may_hold(self, name: str) -> bool:
        """Whether any run spans the key."""
        return any(self._of(level, name) for level in self._levels)

    def range_ends(self, after: str, upto: str | None) -> list[str]:
        """Keys strictly between the bounds at which ranges end that are not larger than a run of
        the deepest level.
        """
        runs = self._within(self.deepest, after, upto) if self.deepest else []
        return [run.last for run in runs if upto is None or run.last < upto]

    def split_keys(self, after: str, upto: str | None) -> list[str]:
        """Keys between the bounds, in order, at which a listing of the same keys may be split:
        quantiles of the deepest level.
        """
        found = (
            key
            for run in self._within(self.deepest, after, upto)
            for key in (*run.splits, run.last)
        )
        return sorted({key for key in found if key > after and (upto is None or key < upto)})

    # -- tables at hand ----------------------------------------------------------------------------

    def hold(self, run: Run, table: pa.Table) -> None:
        """Keep a run's table at hand; tables that were not looked at for longest are let go."""
        self.held[run.key] = table
        self.held.move_to_end(run.key)
        rows = sum(table.num_rows for table in self.held.values())
        while rows > HELD_ROWS_MAX and len(self.held) > 1:
            rows -= self.held.popitem(last=False)[1].num_rows

    def at_hand(self, run: Run) -> pa.Table | None:
        """The run's table, where it is held."""
        table = self.held.get(run.key)
        if table is not None:
            self.held.move_to_end(run.key)
        return table

    def with_runs(self, runs: Iterable[Run]) -> SortedRuns:
        """Other runs, with the tables that are still of use."""
        fresh = SortedRuns(runs)
        for run in fresh.runs:
            table = self.held.get(run.key)
            if table is not None:
                fresh.held[run.key] = table
        return fresh

    # -- levels ------------------------------------------------------------------------------------

    def absorbed(self, new_rows: int) -> list[Run]:
        """The newest runs of level 0 that a new one of `new_rows` takes in (see ABSORB_FACTOR)."""
        count, rows = 0, new_rows
        recent = self.level(0)
        for run in reversed(recent):
            if run.rows > ABSORB_FACTOR * max(rows, 1):
                break
            rows += run.rows
            count += 1
        return recent[len(recent) - count :]

    def next_merge(self, run_rows: int, fanout: int) -> Merge | None:
        """What to merge so that no level is larger than it may be: level 0 has room
        for `run_rows`.
        """
        if sum(run.rows for run in self.level(0)) > run_rows:
            return self._merge(self.level(0), 1, run_rows)
        for level in range(1, self.deepest + 1):
            room = run_rows * fanout**level
            if sum(run.rows for run in self.level(level)) > room:
                return self._merge([self._cheapest(level)], level + 1, run_rows)
        return None

    def _cheapest(self, level: int) -> Run:
        """The run of the level that overlaps the fewest rows of the next."""
        below = {
            run.key: sum(r.rows for r in self._beneath(run, level + 1)) for run in self.level(level)
        }
        return min(self.level(level), key=lambda run: (below[run.key], run.first))

    def _beneath(self, run: Run, level: int) -> list[Run]:
        start, end = self._span(level, run.first, run.last)
        return self.level(level)[start:end]

    def _span(self, level: int, first: str, last: str) -> tuple[int, int]:
        """Positions [start, end) of the level's runs that overlap [first, last]; not
        for level 0.
        """
        return bisect_left(self._lasts.get(level, []), first), bisect_right(
            [run.first for run in self.level(level)], last
        )

    def _merge(self, upper: list[Run], level: int, run_rows: int) -> Merge:
        first, last = min(run.first for run in upper), max(run.last for run in upper)
        runs = self.level(level)
        start, end = self._span(level, first, last)
        rows = sum(run.rows for run in (*upper, *runs[start:end]))
        while start > 0 and _is_small(runs[start - 1], rows, run_rows):
            start -= 1
            rows += runs[start].rows
        while end < len(runs) and _is_small(runs[end], rows, run_rows):
            rows += runs[end].rows
            end += 1
        inputs = [*runs[start:end], *upper]
        return Merge(inputs, level, not self._has_deeper(inputs, level))

    def _has_deeper(self, inputs: list[Run], level: int) -> bool:
        """Whether runs of a deeper level may have keys of these."""
        first, last = min(run.first for run in inputs), max(run.last for run in inputs)
        return any(
            run.last >= first and run.first <= last
            for n, found in self._levels.items()
            if n > level
            for run in found
        )


def _by_level(runs: Iterable[Run]) -> tuple[list[Run], dict[int, list[Run]]]:
    """The recent ones, and those of each level below."""
    recent = []
    levels: dict[int, list[Run]] = {}
    for run in runs:
        if run.level:
            levels.setdefault(run.level, []).append(run)
        else:
            recent.append(run)
    return recent, levels


def _is_small(run: Run, rows: int, run_rows: int) -> bool:
    """Whether a neighbour is worth rewriting, so that small runs do not gather."""
    return run.rows <= ABSORB_FACTOR * rows and rows + run.rows <= run_rows


# -- tables ----------------------------------------------------------------------------------------


def between(table: pa.Table, after: str, upto: str | None) -> pa.Table:
    """The rows of a sorted table with `after` < key <= `upto`. Shares the table's memory."""
    keys = table.column("key")
    start = _position(keys, after)
    end = len(keys) if upto is None else _position(keys, upto)
    return table.slice(start, max(0, end - start))


def _position(keys: pa.ChunkedArray, key: str) -> int:
    """The first row whose key is above `key`."""
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) // 2
        if keys[middle].as_py() <= key:
            low = middle + 1
        else:
            high = middle
    return low


def rows_of(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The rows of the given keys, as many as there are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    positions = pc.index_in(pa.array(names, pa.string()), value_set=table.column("key"))
    return table.take(positions.filter(positions.is_valid()))


def merge(oldest_first: Sequence[pa.Table], *, drop_tombstones: bool) -> pa.Table:
    """One sorted table out of several, at least one: for each key the row of the last one that has
    it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    tables = [t for t in oldest_first if t.num_rows] or oldest_first[:1]
    both = pa.concat_tables(tables)
    drops = drop_tombstones and bool(both.column("output").null_count)
    if len(tables) == 1:
        return both.filter(pc.is_valid(both.column("output"))) if drops else both
    # One copy at the end, of the rows that stay: ledgers are large, and whole columns copied at
    # each step would add up.
    order = _youngest_first(both, tables)
    keep = _firsts(both, order)
    if drops:
        keep = pc.and_(keep, both.column("output").is_valid().take(order).combine_chunks())
    merged = both.take(order if pc.all(keep).as_py() else order.filter(keep)).combine_chunks()
    pa.default_memory_pool().release_unused()
    return merged


def _youngest_first(both: pa.Table, tables: Sequence[pa.Table]) -> pa.Array:
    """The order of the rows by key; of one key those of the last table first."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ages = pa.chunked_array(
        [pa.repeat(pa.scalar(age, pa.int32()), t.num_rows) for age, t in enumerate(tables)]
    )
    return pc.sort_indices(
        pa.table({"key": both.column("key"), "age": ages}),
        sort_keys=[("key", "ascending"), ("age", "descending")],
    )


def _firsts(both: pa.Table, order: pa.Array) -> pa.Array:
    """Which rows, in this order, are the first of their key."""
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = both.column("key").take(order).combine_chunks()
    keys = keys.chunk(0) if isinstance(keys, pa.ChunkedArray) else keys
    return pa.concat_arrays([pa.array([True]), pc.not_equal(keys[1:], keys[:-1])])


def parts_of(table: pa.Table, run_rows: int) -> list[pa.Table]:
    """The table in equal parts of at most `run_rows` rows, none for no rows."""
    n = -(-table.num_rows // run_rows)
    bounds = [table.num_rows * i // n for i in range(n + 1)] if n else []
    return [table.slice(start, end - start) for start, end in pairwise(bounds)]


def described(table: pa.Table, body: bytes, key: str, level: int) -> Run:
    """The run that this table is, stored as `body` under `key`."""
    column = table.column("key")
    return Run(
        key=key,
        rows=table.num_rows,
        first=column[0].as_py(),
        last=column[-1].as_py(),
        sha256=hashlib.sha256(body).hexdigest(),
        level=level,
        splits=[column[i].as_py() for i in range(SPLIT_ROWS, table.num_rows, SPLIT_ROWS)],
    )


def moved(run: Run, level: int) -> Run:
    """The same run in another level."""
    return msgspec.structs.replace(run, level=level)


def encode(table: pa.Table) -> bytes:
    """A table as Parquet bytes."""
    import pyarrow.parquet as pq

    out = io.BytesIO()
    words = ["transform", "version", "output"] if "transform" in table.column_names else False
    pq.write_table(table, out, compression="zstd", use_dictionary=words)
    return out.getvalue()


def decode(body: bytes, run: Run, schema: pa.Schema) -> pa.Table:
    """A run's table. Raises StateInvalid if the bytes are not the ones the checkpoint named."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if hashlib.sha256(body).hexdigest() != run.sha256:
        raise StateInvalid(
            f"ledger run {run.key} is damaged: its checksum is not the one its checkpoint recorded"
        )
    try:
        return pq.read_table(pa.BufferReader(body), use_threads=False).select(schema.names)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise StateInvalid(
            f"ledger run {run.key} is no ledger run: {' '.join(str(error).split())[:200]}"
        ) from None
