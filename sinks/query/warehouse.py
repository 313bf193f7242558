"""DuckDB over committed files: one view for each table, made from a snapshot's explicit file list
and its live keys, never a glob.

Files of one schema are scanned together and cast to the table's schema, so that a column that came
later is null in earlier rows. Rows of superseded or deleted sources lie in shared files: they are
left out by task and source key.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import ObjectNotFound, SettingsError, StoreDenied, StoreUnavailable
from pipeline.model.commit import AggregateFile
from pipeline.model.receipt import MAIN_TABLE, REJECTED_TABLE, OutputFile
from pipeline.model.settings import AggregateSettings
from pipeline.model.snapshot import Snapshot, dead_rows
from pipeline.sql import quoting
from pipeline.sql.connection import UTC, connect
from pipeline.sql.parse_tree import parse_tree
from sinks.query.allowed_sql import STATEMENT_CHARS_MAX, refusal
from sinks.query.dimensions import Dimension
from sinks.query.object_files import Files
from sinks.query.query_limits import Guard, Limits, half_of_memory_mb
from sinks.query.result_types import Carrier, Kind, long_columns, selected, too_long_numbers
from sinks.query.star_columns import without_provenance
from sinks.values.field_names import name_conflicts
from sinks.values.schema import PROVENANCE, decode
from sinks.values.view_sql import missing, shown

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

REJECTED_SUFFIX = "__rejected"
INTERNAL = "_tidemill"
"""DuckDB schema of what views need and nobody asks for."""
_STORE_ERROR = re.compile(
    r"\ATraceback .*^(?:[\w.]+\.)?(ObjectNotFound|StoreUnavailable|StoreDenied|ObjectArchived):"
    r" ([^\n]*)",
    re.S | re.M,
)
"""What DuckDB 2.0 says when a registered file system raises: a bare `duckdb.Error` with the whole
traceback as its text.
"""
ROWS_AT_ONCE = 16_384
"""Of a result: of rows of 2 kB that is 32 MB, some of which are in memory at a time."""
SPILL_SHARE = 4
"""How often the memory's size may lie on disk."""
_REJECTED_COLUMNS = ("row", "reason", *PROVENANCE)


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


class Warehouse:
    """A private DuckDB with views over snapshots.

    Use it as a context manager; it reads, and never writes to the bucket.

    memory_mb: what queries may take of this process's memory, by default half of the machine's.
    DuckDB gets a part of it and spills the rest to disk, up to `SPILL_SHARE` times as much.
    database: a DuckDB file to put the views into, for others to open. timezone: where days begin
    and end.
    """

    def __init__(
        self,
        files: Files,
        *,
        threads: int | None = None,
        memory_mb: int | None = None,
        database: str = ":memory:",
        timezone: str = UTC,
    ) -> None:
        self.timezone = timezone
        self._files = files
        self._limits = Limits(memory_mb or half_of_memory_mb())
        self._spill = tempfile.TemporaryDirectory(
            prefix="tidemill-sql-", ignore_cleanup_errors=True
        )
        config: dict[str, Any] = {
            "temp_directory": self._spill.name,
            "memory_limit": f"{self._limits.engine_mb}MiB",
            "max_temp_directory_size": f"{self._limits.memory_mb * SPILL_SHARE}MiB",
        }
        if threads is not None:
            config["threads"] = threads
        self.connection = connect(database, timezone=timezone, **config)
        self.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {INTERNAL}")
        files.register(self.connection)
        self._paths: list[str] = []
        self.tables: set[str] = set()
        """What can be asked."""
        self._locked = False
        self.broken: dict[str, str] = {}
        """Aggregates that cannot be computed, with the reason."""

    def __enter__(self) -> Warehouse:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the connection and its scratch space."""
        self.connection.close()
        self._spill.cleanup()

    # -- views -------------------------------------------------------------------------------------

    def add_snapshot(self, snapshot: Snapshot, *, view: str | None = None) -> None:
        """Views `<pipeline>` (or `view`) and `<pipeline>__rejected` over the
        snapshot's live rows.
        """
        import pyarrow as pa

        main = view or snapshot.pipeline
        columns = self.columns(snapshot.schema)
        for why, _ in name_conflicts(columns).values():
            raise SettingsError(
                f"table {snapshot.pipeline} cannot be read: {why}; `tidemill schema repair` takes"
                " it out"
            )
        dead = [
            pair
            for output_id, output in snapshot.outputs.items()
            for pair in dead_rows(output_id, output)
        ]
        dead_table = self.add_table(main, _dead_table(dead), schema=INTERNAL)
        for table, name, wanted in (
            (MAIN_TABLE, main, columns),
            (
                REJECTED_TABLE,
                main + REJECTED_SUFFIX,
                pa.schema([(name, pa.string()) for name in _REJECTED_COLUMNS]),
            ),
        ):
            clean = [
                f
                for o in snapshot.outputs.values()
                if not o.dead
                for f in o.files
                if f.table == table
            ]
            mixed = [
                f for o in snapshot.outputs.values() if o.dead for f in o.files if f.table == table
            ]
            live = (
                f"WHERE NOT EXISTS (SELECT 1 FROM {dead_table} d WHERE d.task = f._task AND d.key ="
                " f._source_key)"
            )
            parts = [
                *self.scans(clean, wanted),
                *(f"{scan} {live}" for scan in self.scans(mixed, wanted)),
            ]
            self.add_view(name, " UNION ALL ".join(parts) or _nothing(wanted))

    def columns(self, schema: str | None) -> pa.Schema:
        """The table's columns (null for one without any value yet), provenance last."""
        import pyarrow as pa

        declared = list(decode(schema)) if schema is not None else []
        return pa.schema([*declared, *(pa.field(name, pa.string()) for name in PROVENANCE)])

    def scans(self, files: Sequence[OutputFile], wanted: pa.Schema) -> list[str]:
        """One SELECT for each schema among the files, all with the wanted columns."""
        groups: dict[str, list[str]] = {}
        for file in files:
            path = self._files.path(file.key, file.size_bytes)
            self._paths.append(path)
            groups.setdefault(file.schema_id, []).append(path)
        return [self._scan(paths, wanted) for paths in groups.values()]

    def _scan(self, paths: list[str], wanted: pa.Schema) -> str:
        have = {
            field.name: field.type
            for field in self.stream(f"SELECT * FROM {_parquet(paths[:1])} LIMIT 0").schema
        }
        selected = []
        for field in wanted:
            name = quoting.name(field.name)
            here = field.name in have
            selected.append(
                shown(name, have[field.name], field.type) if here else missing(field.type)
            )
            selected[-1] += "" if selected[-1] == name else f" AS {name}"
        return f"SELECT {', '.join(selected)} FROM {_parquet(paths)} f"

    def add_view(self, name: str, select: str) -> None:
        """A view by that name. Raises SettingsError for SQL that does not work on these tables."""
        self.execute(f"CREATE OR REPLACE VIEW {quoting.name(name)} AS {select}")
        self.tables.add(name)

    def add_table(self, name: str, table: pa.Table, *, schema: str = "main") -> str:
        """A table in DuckDB's memory; its quoted name."""
        quoted = f"{quoting.name(schema)}.{quoting.name(name)}"
        self.connection.register("_incoming", table)
        self.execute(f"CREATE OR REPLACE TABLE {quoted} AS SELECT * FROM _incoming")
        self.connection.unregister("_incoming")
        if schema == "main":
            self.tables.add(name)
        return quoted

    def add_dimensions(self, dimensions: Iterable[Dimension]) -> None:
        """A view for each dimension."""
        for dimension in dimensions:
            paths = [self._files.path(key, size) for key, size in dimension.files]
            self._paths += paths
            self.add_view(
                dimension.name, f"SELECT * FROM {dimension.reader}({quoting.texts(paths)})"
            )

    def add_aggregates(
        self,
        snapshot: Snapshot,
        aggregates: Iterable[AggregateSettings],
        definitions: dict[str, str],
    ) -> None:
        """A view for each aggregate: its committed file where that follows from this snapshot, else
        computed when asked.
        """
        changes = snapshot.changes
        behind = bool(changes.added or changes.gone or changes.everything)
        for aggregate in aggregates:
            file = snapshot.aggregates.get(aggregate.name)
            if file is not None and file.definition == definitions[aggregate.name] and not behind:
                self.add_aggregate_file(aggregate.name, file)
            elif snapshot.schema is not None:
                try:
                    self._add_computed(aggregate)
                except SettingsError as error:
                    # whoever asks for the table hears what is wrong with its SQL
                    self.broken[aggregate.name] = str(error)

    def _add_computed(self, aggregate: AggregateSettings) -> None:
        """When asked where its zone is this warehouse's; else now, in its own."""
        with self.cursor() as other, self._explained():
            other.execute(f"SET TimeZone = {quoting.text(aggregate.timezone)}")
            found, bare = other.sql(aggregate.sql), aggregate.sql.strip().rstrip(";")
            select = (
                f"SELECT {selected(found.columns, found.types, 'parquet') or '*'} FROM (\n{bare}\n)"
            )
            if aggregate.timezone != self.timezone:
                other.execute(f"CREATE OR REPLACE TABLE {quoting.name(aggregate.name)} AS {select}")
                self.tables.add(aggregate.name)
                return
        self.add_view(aggregate.name, select)

    def add_aggregate_file(self, name: str, file: AggregateFile) -> None:
        """A view over a committed aggregate, without what only its next computation needs."""
        path = self._files.path(file.key, file.size_bytes)
        self._paths.append(path)
        self.add_view(
            name,
            f"SELECT {quoting.VISIBLE} FROM read_parquet({quoting.texts([path])}, hive_partitioning"
            " = false)",
        )

    # -- queries -----------------------------------------------------------------------------------

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
            with self._explained(guard):
                answer = self.connection.sql(
                    statement if provenance else without_provenance(self.connection, statement)
                )
                names, kinds = answer.columns, answer.types
                long += long_columns(names, kinds) if carrier in ("parquet", "arrow") else []
                select = selected(names, kinds, carrier) if carrier is not None else None
                reader = (answer.project(select) if select is not None else answer).to_arrow_reader(
                    ROWS_AT_ONCE
                )
            guard.watch.pause()
            try:
                yield Stream(reader, kinds, lambda: self._next(reader, guard))
            finally:
                reader.close()

    def has(self, name: str) -> bool:
        """Whether there is a table of that name to be asked."""
        return name in self.tables

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Another connection to the same views: what is half read on one stands in the way of
        others on it.
        """
        return self.connection.cursor()

    def reader(self, select: str, *, batch_rows: int = ROWS_AT_ONCE) -> pa.RecordBatchReader:
        """The batches of a SELECT of ours, on a connection of their own, which lives as long as
        they are read.
        """
        import pyarrow as pa

        cursor = self.cursor()
        with self._explained():
            found = cursor.sql(select).to_arrow_reader(batch_rows)

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                while True:
                    with self._explained():
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
        with self._explained(guard):
            batch = next(reader, None)
        guard.watch.pause()
        return batch

    @contextmanager
    def _explained(self, guard: Guard | None = None) -> Iterator[None]:
        """DuckDB's errors in the words of this module.

        Those of batches come through Arrow, as OSError with the same text.
        """
        import duckdb

        try:
            yield
        except (duckdb.Error, OSError) as error:
            text = str(error)
            reason = guard.reason if guard is not None else ""
            if (
                reason
                or isinstance(error, duckdb.InterruptException)
                or text.startswith("INTERRUPT Error")
            ):
                raise SettingsError(reason or "the query was interrupted") from None
            if isinstance(error, duckdb.OutOfMemoryException) or text.startswith(
                "Out of Memory Error"
            ):
                raise SettingsError(self._limits.exceeded) from None
            raise _translated(error) from None

    def stream(self, select: str) -> pa.RecordBatchReader:
        """The result of a SELECT of ours, batch by batch; no other statement may run before it is
        read.
        """
        import duckdb

        try:
            return self.connection.sql(select).to_arrow_reader(ROWS_AT_ONCE)
        except duckdb.Error as error:
            raise _translated(error) from None

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
            raise SettingsError(_one_line(error)) from None
        if refused is not None:
            raise SettingsError(refused)

    def execute(self, statement: str) -> None:
        """Run a statement of ours, with its errors in the words of this module."""
        import duckdb

        try:
            self.connection.execute(statement)
        except duckdb.Error as error:
            raise _translated(error) from None

    def _rows(self, statement: str) -> list[tuple[Any, ...]]:
        import duckdb

        try:
            rows: list[tuple[Any, ...]] = self.connection.execute(statement).fetchall()
        except duckdb.Error as error:
            raise _translated(error) from None
        return rows


def _dead_table(dead: Sequence[tuple[str, str]]) -> pa.Table:
    import pyarrow as pa

    tasks, keys = [task for task, _ in dead], [key for _, key in dead]
    return pa.table({"task": pa.array(tasks, pa.string()), "key": pa.array(keys, pa.string())})


def _nothing(wanted: pa.Schema) -> str:
    return (
        "SELECT"
        f" {', '.join(f'{missing(field.type)} AS {quoting.name(field.name)}' for field in wanted)}"
        " WHERE false"
    )


def _parquet(paths: list[str]) -> str:
    """Files of one schema. Folders named `a=b` are none of its columns, wherever the
    bucket lies.
    """
    return f"read_parquet({quoting.texts(paths)}, hive_partitioning = false)"


def _translated(error: Exception) -> Exception:
    import duckdb

    ours = _STORE_ERROR.search(str(error))
    if ours is not None:  # raised by the store's file system, below DuckDB
        kinds = {
            "ObjectNotFound": ObjectNotFound,
            "StoreDenied": StoreDenied,
            "ObjectArchived": StoreDenied,
        }
        kind = kinds.get(ours[1], StoreUnavailable)
        return kind(
            ours[2]
            + (" (the vacuum removed it meanwhile: ask again)" if kind is ObjectNotFound else "")
        )
    text = _one_line(error)
    if isinstance(error, duckdb.IOException) or text.startswith("IO Error"):
        gone = "No such file" in text or "No files found" in text
        kind = ObjectNotFound if gone else StoreUnavailable
        return kind(f"{text}{' (the vacuum removed it meanwhile: ask again)' if gone else ''}")
    if isinstance(error, duckdb.PermissionException) or text.startswith("Permission Error"):
        return SettingsError(f"{text}: queries read the pipeline's tables only")
    return SettingsError(text)


def _one_line(error: Exception) -> str:
    """DuckDB's message without its list of candidates and its drawing of the place."""
    text = str(error).partition("\n\nLINE ")[0].partition("Candidate functions:")[0]
    return " ".join(text.split())
