"""The ledger: for every source key, which version is committed and which output holds its rows.

Stored as sorted immutable Parquet runs plus an overlay of what commits changed since (`state.State.overlay`). A run's rows
with `output` null are tombstones: the key was deleted. Pure: bytes in, bytes out; reading and writing objects is the shell's work.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from pipeline.errors import StateInvalid

if TYPE_CHECKING:
    import pyarrow as pa

MERGE_FACTOR = 4
"""A new run absorbs its predecessor while that has at most this many times its own rows: each row is rewritten a
logarithmic number of times, and the number of runs stays logarithmic too."""


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


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger run as a checkpoint names it: where it is and what to expect there."""

    key: str
    rows: int
    first: str
    last: str
    sha256: str


class Ledger:
    """All runs of a checkpoint, merged: sorted by key, one row a key, no tombstones."""

    __slots__ = ("_keys", "table")

    def __init__(self, table: pa.Table | None = None) -> None:
        self.table = table if table is not None and table.num_rows else None
        self._keys = self.table.column("key") if self.table is not None else None

    def __len__(self) -> int:
        return 0 if self.table is None else self.table.num_rows

    def _position(self, key: str, *, after: bool) -> int:
        """The first row whose key is >= `key` (or > `key` for `after`)."""
        keys = self._keys
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            found = keys[middle].as_py()  # type: ignore[index]
            if found < key or (after and found == key):
                low = middle + 1
            else:
                high = middle
        return low

    def between(self, after: str, upto: str | None) -> pa.Table | None:
        """The rows with `after` < key <= `upto` (no upper bound for None), or None if there are none."""
        if self.table is None:
            return None
        start = self._position(after, after=True)
        end = len(self) if upto is None else self._position(upto, after=True)
        return self.table.slice(start, end - start) if end > start else None

    def get(self, key: str) -> Entry | None:
        """The entry of one key."""
        if self.table is None:
            return None
        at = self._position(key, after=False)
        if at == len(self) or self._keys[at].as_py() != key:  # type: ignore[index]
            return None
        return _entry(self.table.slice(at, 1).to_pylist()[0])


def _entry(row: Mapping[str, object]) -> Entry:
    return Entry(*(row[name] for name in Entry._fields))  # type: ignore[arg-type]


def _schema() -> pa.Schema:
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
    """The overlay as a sorted run; a None entry becomes a tombstone."""
    import pyarrow as pa

    keys = sorted(overlay)
    blank = Entry("", 0, 0, 0, 0, "", "", 0, None, 0)  # type: ignore[arg-type]
    entries = [overlay[key] or blank for key in keys]
    columns = list(zip(*entries, strict=True)) if entries else [()] * len(Entry._fields)
    schema = _schema()
    arrays = [pa.array(keys, pa.string())]
    arrays += [pa.array(values, schema.field(i + 1).type) for i, values in enumerate(columns)]
    return pa.Table.from_arrays(arrays, schema=schema)


def merge(newest_last: Sequence[pa.Table], *, drop_tombstones: bool) -> pa.Table:
    """One sorted run out of several: for each key the row of the last run that has it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    tables = [t for t in newest_last if t.num_rows]
    if not tables:
        return _schema().empty_table()
    both = pa.concat_tables(tables)
    if len(tables) == 1:
        return both.filter(pc.is_valid(both.column("output"))) if drop_tombstones and both.column("output").null_count else both
    # One copy at the end, of the rows that stay: ledgers are large, and whole columns copied at each step would add up.
    ages = pa.chunked_array([pa.repeat(pa.scalar(age, pa.int32()), t.num_rows) for age, t in enumerate(tables)])
    order = pc.sort_indices(
        pa.table({"key": both.column("key"), "age": ages}), sort_keys=[("key", "ascending"), ("age", "descending")]
    )
    keys = both.column("key").take(order).combine_chunks()
    keys = keys.chunk(0) if isinstance(keys, pa.ChunkedArray) else keys
    keep = pa.concat_arrays([pa.array([True]), pc.not_equal(keys[1:], keys[:-1])])
    if drop_tombstones and both.column("output").null_count:
        keep = pc.and_(keep, both.column("output").is_valid().take(order).combine_chunks())
    merged = both.take(order if pc.all(keep).as_py() else order.filter(keep)).combine_chunks()
    pa.default_memory_pool().release_unused()
    return merged


def encode(table: pa.Table) -> bytes:
    """A run as Parquet bytes."""
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", use_dictionary=["transform", "version", "output"])
    return out.getvalue()


def decode(body: bytes, run: Run) -> pa.Table:
    """A run's table. Raises StateInvalid if the bytes are not the ones the checkpoint named."""
    import hashlib

    import pyarrow as pa
    import pyarrow.parquet as pq

    if hashlib.sha256(body).hexdigest() != run.sha256:
        raise StateInvalid(f"ledger run {run.key} is damaged: its checksum is not the one its checkpoint recorded")
    try:
        return pq.read_table(pa.BufferReader(body), use_threads=False).select(_schema().names)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise StateInvalid(f"ledger run {run.key} is no ledger run: {' '.join(str(error).split())[:200]}") from None


def runs_to_absorb(runs: Sequence[Run], new_rows: int) -> int:
    """How many of the newest runs a new run of `new_rows` takes in (see MERGE_FACTOR)."""
    count, rows = 0, new_rows
    for run in reversed(runs):
        if run.rows > MERGE_FACTOR * max(rows, 1):
            break
        rows += run.rows
        count += 1
    return count


def overlay_between(overlay: Mapping[str, Entry | None], after: str, upto: str | None) -> Iterable[tuple[str, Entry | None]]:
    """The overlay's items with `after` < key <= `upto`."""
    return ((k, e) for k, e in overlay.items() if k > after and (upto is None or k <= upto))
