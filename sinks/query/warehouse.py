"""DuckDB over committed files: one view for each table, made from a snapshot's explicit file list
and its live keys, never a glob.

Files of one schema are scanned together and cast to the table's schema, so that a column that came
later is null in earlier rows. Rows of superseded or deleted sources lie in shared files: they are
left out by task and source key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.errors import SettingsError
from pipeline.sql import quoting
from pipeline.sql.parse_tree import parse_tree
from sinks.query.allowed_sql import STATEMENT_CHARS_MAX, refusal
from sinks.query.query_errors import explained, one_line
from sinks.query.query_limits import Guard
from sinks.query.star_columns import without_provenance
from sinks.results.exact_types import Carrier, Kind, long_columns, selected, too_long_numbers

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

from sinks.query.views import ROWS_AT_ONCE, Views


class Stream:
    """A result's batches, once, in order; see `Warehouse.open_query`."""

    def __init__(
        self,
        reader: pa.RecordBatchReader,
        kinds: Sequence[Kind],
        following: Callable[[], pa.RecordBatch | None],
    ) -> None:
        self.schema: pa.Schema = reader.schema
        self.kinds = kinds
        """The columns' types in DuckDB."""
        self._following = following

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> pa.RecordBatch:
        batch = self._following()
        if batch is None:
            raise StopIteration
        return batch


def _long_columns(answer: duckdb.DuckDBPyRelation, carrier: Carrier | None) -> list[str]:
    """Columns whose numbers may have more digits than the carrier's."""
    if carrier not in ("parquet", "arrow"):
        return []
    return long_columns(answer.columns, answer.types)


def _carried(answer: duckdb.DuckDBPyRelation, carrier: Carrier | None) -> duckdb.DuckDBPyRelation:
    """The result in types in which every value arrives."""
    select = selected(answer.columns, answer.types, carrier) if carrier is not None else None
    return answer.project(select) if select is not None else answer


class Warehouse(Views):
    """A private DuckDB with views over snapshots.

    Use it as a context manager; it reads, and never writes to the bucket.

    memory_mb: what queries may take of this process's memory, by default half of the machine's.
    DuckDB gets a part of it and spills the rest to disk, up to `SPILL_SHARE` times as much.
    database: a DuckDB file to put the views into, for others to open. timezone: where days begin
    and end.
    """

    def lock(self) -> None:
        """From here on nothing but the snapshot's own tables can be asked, and nothing written.

        Cannot be undone.
        """
        paths = quoting.texts(dict.fromkeys(self._paths))
        self.connection.execute(f"SET allowed_paths = {paths}")
        self.connection.execute("SET autoload_known_extensions = false")
        self.connection.execute("SET enable_external_access = false")
        self.connection.execute("SET lock_configuration = true")
        self._locked = True

    def query(
        self, statement: str, *, timeout_s: float | None = None, carrier: Carrier | None = None
    ) -> pa.Table:
        """The result of one SELECT (or DESCRIBE, SHOW, SUMMARIZE).

        Raises SettingsError for anything else, for SQL errors, and for what takes more than
        `timeout_s` or the warehouse's memory. DuckDB cannot be interrupted everywhere: who must
        hold these limits against anybody runs the query in a process of its own, as `tidemill sql`
        does (pipeline/cli/tables/sql_process.py).
        """
        import pyarrow as pa

        with self.open_query(statement, timeout_s=timeout_s, carrier=carrier) as result:
            return pa.Table.from_batches(self._limits.collected(result), schema=result.schema)

    @contextmanager
    def open_query(
        self,
        statement: str,
        *,
        timeout_s: float | None = None,
        carrier: Carrier | None = None,
        provenance: bool = True,
    ) -> Iterator[Stream]:
        """The same, batch by batch as they come, however many.

        `timeout_s` is the query's: who reads it slowly may.

        carrier: for whom, so that every value arrives exactly (see `carried`); None: as DuckDB and
        Arrow have it. provenance: whether stars have it (see `stars`).
        """
        self._check(statement)
        guard = Guard(self.connection.interrupt, self._limits, timeout_s)
        long: list[str] = []
        with guard, too_long_numbers(long):
            with explained(guard, self._limits.exceeded):
                answer = self._asked(statement, provenance=provenance)
                kinds = answer.types
                long += _long_columns(answer, carrier)
                reader = _carried(answer, carrier).to_arrow_reader(ROWS_AT_ONCE)
            guard.watch.pause()
            try:
                yield Stream(reader, kinds, lambda: self._next(reader, guard))
            finally:
                reader.close()

    def _asked(self, statement: str, *, provenance: bool) -> duckdb.DuckDBPyRelation:
        if not provenance:
            statement = without_provenance(self.connection, statement)
        return self.connection.sql(statement)

    def has(self, name: str) -> bool:
        """Whether there is a table of that name to be asked."""
        return name in self.tables

    def reader(self, select: str, *, batch_rows: int = ROWS_AT_ONCE) -> pa.RecordBatchReader:
        """The batches of a SELECT of ours, on a connection of their own, which lives as long as
        they are read.
        """
        import pyarrow as pa

        cursor = self.cursor()
        with explained(None, self._limits.exceeded):
            found = cursor.sql(select).to_arrow_reader(batch_rows)

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                while True:
                    with explained(None, self._limits.exceeded):
                        batch = next(found, None)
                    if batch is None:
                        return
                    yield batch
            finally:
                found.close()
                cursor.close()

        return pa.RecordBatchReader.from_batches(found.schema, batches())

    def _next(self, reader: pa.RecordBatchReader, guard: Guard) -> pa.RecordBatch | None:
        guard.watch.go_on()
        with explained(guard, self._limits.exceeded):
            batch = next(reader, None)
        guard.watch.pause()
        return batch

    def _check(self, statement: str) -> None:
        """Refuse what is no single SELECT and, once locked, what asks for more than the snapshot's
        tables.
        """
        import duckdb

        if len(statement) > STATEMENT_CHARS_MAX:
            raise SettingsError(
                f"the statement has {len(statement):,} characters; at most {STATEMENT_CHARS_MAX:,}"
                " are read"
            )
        try:
            refused = refusal(
                parse_tree(self.connection, statement), self.tables if self._locked else None
            )
        except (duckdb.Error, UnicodeError) as error:
            raise SettingsError(one_line(error)) from None
        if refused is not None:
            raise SettingsError(refused)
