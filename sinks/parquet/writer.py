"""The Parquet sink: the results of one attempt, many sources together, as few files as possible.

Dict rows of all sources are converted to Arrow at once, since a conversion for each small file
costs more than parsing it. Only where that fails is each source looked at alone, so that the one at
fault is named and its neighbours go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputRejected
from pipeline.model.receipt import MAIN_TABLE
from sinks.parquet.binding import require_bound
from sinks.parquet.output_files import FinishedFile, OutputFiles
from sinks.parquet.partitions import lacking_in, partitions, require_none
from sinks.parquet.row_batches import Part, alike, by_source, estimate, together
from sinks.parquet.row_checks import Verdict, row_text, verdict
from sinks.parquet.schema_mode import columns_of
from sinks.parquet.table_spec import TableSpec
from sinks.parquet.transform_results import parts_of
from sinks.values.columns import stored
from sinks.values.contract import stored_type
from sinks.values.json_text import as_json, encodable
from sinks.values.schema import PROVENANCE, encode

if TYPE_CHECKING:
    import pyarrow as pa

CONVERT_ROWS = 100_000
CONVERT_BYTES = 32 * 2**20
"""Dict rows are converted when so many, or so much text, is waiting."""
FILE_BYTES = 128 * 2**20
"""Arrow bytes after which a file is written."""


@dataclass(slots=True)
class Result:
    """See `work.seams.Written`."""

    rows: dict[int, int] = field(default_factory=dict)
    rejected: dict[int, int] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    schema: str | None = None
    files: list[FinishedFile] = field(default_factory=list)
    broken: dict[str, int] = field(default_factory=dict)


class AttemptWriter:
    """See `work.seams.Writer`.

    Memory is bounded by FILE_BYTES and CONVERT_BYTES, not by what the sources hold.
    """

    def __init__(
        self, spec: TableSpec, *, schema: str | None, task: str, nonce: str, scratch: Path
    ) -> None:
        self._spec = spec
        self._task = task
        self._files = OutputFiles(spec.output, task, nonce, scratch)
        self._columns = columns_of(spec, schema)
        self._sources: dict[int, tuple[str, str]] = {}
        self._pending: list[Part] = []
        self._begun: tuple[int, pa.Schema | None] | None = None
        """A source of which some rows are converted already, and the table's columns as they were
        before it.
        """
        self._pending_rows = self._pending_bytes = 0
        self._tables: list[pa.Table] = []
        self._rejected: dict[int, list[tuple[str, str]]] = {}
        self._result = Result(files=self._files.finished)
        self._written: dict[int, int] = {}

    def add(
        self,
        index: int,
        key: str,
        etag: str,
        result: object,
        rejected: Sequence[tuple[object, str]] = (),
    ) -> None:
        """Take one source's result.

        Exceptions of the user's generators pass through; that source then has no rows.
        """
        self._sources[index] = (key, etag)
        try:
            self._take_all(index, result)
        except BaseException:
            self._give_up(index)
            raise
        if rejected:
            texts = [(encodable(as_json(row)), encodable(reason)) for row, reason in rejected]
            self._rejected[index] = [*self._rejected.get(index, ()), *texts]

    def _give_up(self, index: int) -> None:
        """A source of which the rows could not be read: what came of it does not count."""
        self._pending = [part for part in self._pending if part.index != index]
        self._result.problems.setdefault(index, "its rows could not be read")
        if self._begun is not None and self._begun[0] == index:
            self._columns.schema, self._begun = self._begun[1], None

    def finish(self) -> Result:
        """Convert and write what is left. Nothing is added afterwards."""
        self._convert()
        self._write_tables()
        self._write_rejected()
        result = self._result
        for index in result.problems:
            result.rejected.pop(index, None)
            result.rows.pop(index, None)
            # rows in a file: the commit leaves them out by name, as it sees that there are some
            if index in self._written:
                result.rows[index] = self._written[index]
        result.schema = (
            encode(self._columns.schema)
            if self._columns.schema is not None and result.rows
            else None
        )
        return result

    def close(self) -> None:
        """Remove scratch files."""
        self._files.close()

    # -- conversion --------------------------------------------------------------------------------

    def _take_all(self, index: int, result: object) -> None:
        lacking: list[str] | None = None
        for rows in filter(len, parts_of(result)):
            lacking = lacking_in(rows, self._spec.partition_by if lacking is None else lacking)
            self._take(Part(index, rows))
        require_none(lacking or ())

    def _take(self, part: Part) -> None:
        if part.index in self._result.problems:
            return
        self._pending.append(part)
        self._pending_rows += len(part)
        self._pending_bytes += (
            part.rows.nbytes if not isinstance(part.rows, list) else estimate(part.rows)
        )
        if self._pending_rows >= CONVERT_ROWS or self._pending_bytes >= CONVERT_BYTES:
            self._convert(part.index)

    def _convert(self, unfinished: int | None = None) -> None:
        """Convert everything that waits. unfinished: the source of which more is to come.

        What becomes of a source is what would become of it alone, after those before it: the
        columns of a source that turns out to be at fault never become the table's. So one that
        comes in several goes is kept apart from the others.
        """
        sources = self._waiting()
        self._go_on(sources, unfinished)
        last = sources.pop() if sources and sources[-1][0].index == unfinished else None
        for run in together(sources):
            self._accept_run(run)
        if last is not None:
            self._begun = (last[0].index, self._columns.schema)
            self._alone(last, self._columns.schema)
        if sum(table.nbytes for table in self._tables) >= FILE_BYTES:
            self._write_tables()

    def _waiting(self) -> list[list[Part]]:
        """What waits, by source; it waits no longer."""
        pending, self._pending = self._pending, []
        self._pending_rows = self._pending_bytes = 0
        return by_source(pending)

    def _go_on(self, sources: list[list[Part]], unfinished: int | None) -> None:
        """Take more of the source that has begun from the first of these; then it is over, unless
        it is the unfinished one.
        """
        if sources and self._begun is not None and sources[0][0].index == self._begun[0]:
            self._alone(sources.pop(0), self._begun[1], goes_on=True)
        if self._begun is not None and self._begun[0] != unfinished:
            self._begun = None

    def _accept_run(self, sources: list[list[Part]], *, again: bool = True) -> None:
        """Sources as one table, if none of them changes the columns and none is at fault; else as
        if each came alone, in order.
        """
        if len(sources) <= 1:
            for parts in sources:
                self._alone(parts, self._columns.schema)
            return
        before = self._columns.schema
        every = [part for parts in sources for part in parts]
        if before is not None and self._accepted_together(every):
            return
        if again:  # mostly the first one has the new columns of all
            self._alone(sources[0], before)
            if not _is_same(before, self._columns.schema):
                self._accept_run(sources[1:], again=False)
                return
            sources = sources[1:]
        self._accept_halves(sources)

    def _accept_halves(self, sources: list[list[Part]]) -> None:
        half = (len(sources) + 1) // 2
        self._accept_run(sources[:half], again=False)
        self._accept_run(sources[half:], again=False)

    def _accepted_together(self, parts: list[Part]) -> bool:
        try:
            table, schema = self._columns.together(parts)
        except InputRejected:
            return False
        if not _is_same(self._columns.schema, schema):
            return False
        table = self._with_provenance(table, parts)
        try:
            found = self._verdict(table, schema)
        except InputRejected:
            return False
        if found.guilty:
            return False
        self._keep(table, parts, found)
        return True

    def _alone(self, parts: list[Part], before: pa.Schema | None, *, goes_on: bool = False) -> None:
        """One source, or one more go of it; where it is at fault, the table's columns are what they
        were `before` it.
        """
        index = parts[0].index
        if index in self._result.problems:
            return
        if not goes_on:
            self._columns.own = None
        try:
            for like in alike(parts):
                self._accept(like, before)
        except InputRejected as error:
            self._result.problems[index] = str(error)
        if index in self._result.problems:
            self._columns.schema = before

    def _accept(self, parts: list[Part], before: pa.Schema | None) -> None:
        """Like parts of one source: convert, fit to the table's schema, check, add provenance.

        Raises InputRejected.
        """
        table, schema = self._columns.alone(parts, before)
        if not _is_same(self._columns.schema, schema):
            require_bound(self._columns.schema, schema)
        table = self._with_provenance(table, parts)
        found = self._verdict(table, schema)
        self._columns.schema = schema
        self._keep(table, parts, found)

    def _verdict(self, table: pa.Table, schema: pa.Schema) -> Verdict:
        return (
            verdict(self._spec.checks, table, schema, self._spec.name)
            if self._spec.checks
            else Verdict()
        )

    def _keep(self, table: pa.Table, parts: list[Part], found: Verdict) -> None:
        if found.broken:
            self._judge(found, table, parts)
            return
        self._tables.append(table)
        for part in parts:
            self._result.rows[part.index] = self._result.rows.get(part.index, 0) + len(part)

    def _judge(self, found: Verdict, table: pa.Table, parts: list[Part]) -> None:
        """Some rows break a check: leave out those that are rejected, and the files that are at
        fault.
        """
        import pyarrow as pa

        result = self._result
        sources = [part.index for part in parts for _ in range(len(part))]
        self._set_aside(found.guilty, sources)
        self._reject(found, sources, table)
        keep = [
            i not in result.problems and row not in found.rejected for row, i in enumerate(sources)
        ]
        _add_counts(result.rows, Counter(compress(sources, keep)))
        _add_counts(result.broken, found.broken)
        self._tables.append(table.filter(pa.array(keep, pa.bool_())))

    def _set_aside(self, guilty: Mapping[int, str], sources: Sequence[int]) -> None:
        """The files with these rows, each for the first check that one of them breaks. sources:
        each row's.
        """
        counts = Counter((sources[row], reason) for row, reason in guilty.items())
        for (index, reason), count in counts.items():
            rows = f"{count:,} rows break" if count > 1 else "a row breaks"
            self._result.problems.setdefault(index, f"{reason}: {rows} it")

    def _reject(self, found: Verdict, sources: Sequence[int], table: pa.Table) -> None:
        for row, reason in found.rejected.items():
            self._rejected.setdefault(sources[row], []).append((row_text(table, row), reason))

    def _with_provenance(self, table: pa.Table, parts: list[Part]) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        distinct, indices = _sources_of_rows(parts)
        sources = [self._sources[index] for index in distinct]
        columns = (
            _dictionary(indices, [key for key, _ in sources]),
            _dictionary(indices, [etag for _, etag in sources]),
            _dictionary(pc.multiply(indices, 0), [self._task]),
        )
        if not table.num_columns:
            return pa.Table.from_arrays(list(columns), names=list(PROVENANCE))
        for name, column in zip(PROVENANCE, columns, strict=True):
            table = table.append_column(name, column)
        return table

    # -- files -------------------------------------------------------------------------------------

    def _write_tables(self) -> None:
        """Write what is converted, one file for each partition."""
        if not self._tables or self._columns.schema is None:
            return
        tables, self._tables = self._tables, []
        table = self._as_stored(tables, self._columns.schema)
        for values, part in partitions(table, self._spec.partition_by):
            self._files.write(MAIN_TABLE, values, part)
        self._written |= {
            i: n for i, n in self._result.rows.items() if i not in self._result.problems
        }

    def _as_stored(self, tables: list[pa.Table], columns: pa.Schema) -> pa.Table:
        """One table of what counts, with those columns that have a value."""
        import pyarrow as pa

        schema = pa.schema([f for f in columns if stored_type(f.type) is not None])
        return pa.concat_tables([stored(self._without_problems(t), schema) for t in tables])

    def _without_problems(self, table: pa.Table) -> pa.Table:
        """Without the rows of sources that turned out to be at fault after some of their rows were
        accepted.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        bad = [self._sources[i][0] for i in self._result.problems if i in self._result.rows]
        return (
            table.filter(
                pc.invert(pc.is_in(table.column("_source_key"), pa.array(bad, pa.string())))
            )
            if bad
            else table
        )

    def _write_rejected(self) -> None:
        rejected = {i: rows for i, rows in self._rejected.items() if i not in self._result.problems}
        lines = [
            (*self._sources[i], row, reason) for i, rows in rejected.items() for row, reason in rows
        ]
        if lines:
            self._result.rejected = {i: len(rows) for i, rows in rejected.items()}
            self._files.write_rejected(lines)


def _add_counts(counts: dict[Any, int], more: Mapping[Any, int]) -> None:
    for one, count in more.items():
        counts[one] = counts.get(one, 0) + count


def _sources_of_rows(parts: Sequence[Part]) -> tuple[list[int], pa.Array]:
    """The different sources, and of each row its source's place among them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    positions: list[int] = []
    distinct: dict[int, int] = {}
    for part in parts:
        positions.append(distinct.setdefault(part.index, len(distinct)))
    ends = [*accumulate(len(part) for part in parts)]
    runs = pa.RunEndEncodedArray.from_arrays(
        pa.array(ends, pa.int32()), pa.array(positions, pa.int32())
    )
    return [*distinct], pc.run_end_decode(runs)


def _dictionary(indices: pa.Array, values: Sequence[str]) -> pa.Array:
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(indices, pa.array(values, pa.string()))


def _is_same(before: pa.Schema | None, after: pa.Schema | None) -> bool:
    """Whether the table's columns are the same, and what their values reach."""
    return (
        before is not None and after is not None and bool(before.equals(after, check_metadata=True))
    )
