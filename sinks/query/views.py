"""Views over committed files: one for each table, made from a snapshot's explicit file list and
its live keys, never a glob.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

from pipeline.errors import SettingsError
from pipeline.model.commit import AggregateFile
from pipeline.model.receipt import MAIN_TABLE, REJECTED_TABLE, OutputFile
from pipeline.model.settings import AggregateSettings
from pipeline.model.snapshot import Snapshot, dead_rows
from pipeline.sql import quoting
from pipeline.sql.connection import UTC, connect
from sinks.query.dimensions import Dimension
from sinks.query.object_files import Files
from sinks.query.query_errors import explained, translated
from sinks.query.query_limits import Limits, half_of_memory_mb
from sinks.results.exact_types import selected
from sinks.values.field_names import name_conflicts
from sinks.values.schema import PROVENANCE, decode
from sinks.values.view_sql import missing, shown

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


REJECTED_SUFFIX = "__rejected"
INTERNAL = "_tidemill"
"""DuckDB schema of what views need and nobody asks for."""
ROWS_AT_ONCE = 16_384
"""Of a result: of rows of 2 kB that is 32 MB, some of which are in memory at a time."""
SPILL_SHARE = 4
"""How often the memory's size may lie on disk."""
_REJECTED_COLUMNS = ("row", "reason", *PROVENANCE)


class Views:
    """A connection to DuckDB, and views over committed files in it."""

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
        self.connection: duckdb.DuckDBPyConnection = connect(
            database, timezone=timezone, **self._config(threads)
        )
        self.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {INTERNAL}")
        files.register(self.connection)
        self._paths: list[str] = []
        self.tables: set[str] = set()
        """What can be asked."""
        self._locked = False
        self.broken: dict[str, str] = {}
        """Aggregates that cannot be computed, with the reason."""

    def _config(self, threads: int | None) -> dict[str, Any]:
        config: dict[str, Any] = {
            "temp_directory": self._spill.name,
            "memory_limit": f"{self._limits.engine_mb}MiB",
            "max_temp_directory_size": f"{self._limits.memory_mb * SPILL_SHARE}MiB",
        }
        return config if threads is None else {**config, "threads": threads}

    def __enter__(self) -> Self:
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
        _require_distinct_names(columns, snapshot.pipeline)
        dead_table = self.add_table(main, _dead_table(_dead_in(snapshot)), schema=INTERNAL)
        rejected = pa.schema([(name, pa.string()) for name in _REJECTED_COLUMNS])
        for table, name, wanted in (
            (MAIN_TABLE, main, columns),
            (REJECTED_TABLE, main + REJECTED_SUFFIX, rejected),
        ):
            parts = self._live_parts(snapshot, table, wanted, dead_table)
            self.add_view(name, " UNION ALL ".join(parts) or _nothing(wanted))

    def _live_parts(
        self, snapshot: Snapshot, table: str, wanted: pa.Schema, dead_table: str
    ) -> list[str]:
        """SELECTs of the rows that count; only files of outputs with dead rows are searched for
        them.
        """
        clean = _files_in(snapshot, table, has_dead=False)
        mixed = _files_in(snapshot, table, has_dead=True)
        live = (
            f"WHERE NOT EXISTS (SELECT 1 FROM {dead_table} d WHERE d.task = f._task AND d.key ="
            " f._source_key)"
        )
        return [
            *self.scans(clean, wanted),
            *(f"{scan} {live}" for scan in self.scans(mixed, wanted)),
        ]

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
        columns = ", ".join(_column(field, have.get(field.name)) for field in wanted)
        return f"SELECT {columns} FROM {_parquet(paths)} f"

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
        with self.cursor() as other, explained(None, self._limits.exceeded):
            other.execute(f"SET TimeZone = {quoting.text(aggregate.timezone)}")
            select = _carried_select(other, aggregate.sql)
            if aggregate.timezone != self.timezone:
                table = quoting.name(aggregate.name)
                other.execute(f"CREATE OR REPLACE TABLE {table} AS {select}")
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

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Another connection to the same views: what is half read on one stands in the way of
        others on it.
        """
        return self.connection.cursor()

    def stream(self, select: str) -> pa.RecordBatchReader:
        """The result of a SELECT of ours, batch by batch; no other statement may run before it is
        read.
        """
        import duckdb

        try:
            return self.connection.sql(select).to_arrow_reader(ROWS_AT_ONCE)
        except duckdb.Error as error:
            raise translated(error) from None

    def execute(self, statement: str) -> None:
        """Run a statement of ours, with its errors in the words of this module."""
        import duckdb

        try:
            self.connection.execute(statement)
        except duckdb.Error as error:
            raise translated(error) from None

    def _rows(self, statement: str) -> list[tuple[Any, ...]]:
        import duckdb

        try:
            rows: list[tuple[Any, ...]] = self.connection.execute(statement).fetchall()
        except duckdb.Error as error:
            raise translated(error) from None
        return rows


def _require_distinct_names(columns: pa.Schema, table: str) -> None:
    for why, _ in name_conflicts(columns).values():
        raise SettingsError(
            f"table {table} cannot be read: {why}; `tidemill schema repair` takes it out"
        )


def _dead_in(snapshot: Snapshot) -> list[tuple[str, str]]:
    return [
        pair
        for output_id, output in snapshot.outputs.items()
        for pair in dead_rows(output_id, output)
    ]


def _files_in(snapshot: Snapshot, table: str, *, has_dead: bool) -> list[OutputFile]:
    """The files of one table, of outputs with dead rows or of the others."""
    return [
        file
        for output in snapshot.outputs.values()
        if bool(output.dead) is has_dead
        for file in output.files
        if file.table == table
    ]


def _dead_table(dead: Sequence[tuple[str, str]]) -> pa.Table:
    import pyarrow as pa

    tasks, keys = [task for task, _ in dead], [key for _, key in dead]
    return pa.table({"task": pa.array(tasks, pa.string()), "key": pa.array(keys, pa.string())})


def _carried_select(connection: duckdb.DuckDBPyConnection, statement: str) -> str:
    """The statement with its columns in types that Parquet has."""
    found, bare = connection.sql(statement), statement.strip().rstrip(";")
    columns = selected(found.columns, found.types, "parquet") or "*"
    return f"SELECT {columns} FROM (\n{bare}\n)"


def _column(field: pa.Field, have: pa.DataType | None) -> str:
    """A column of the table, from a file that has it in this type, or lacks it."""
    name = quoting.name(field.name)
    value = missing(field.type) if have is None else shown(name, have, field.type)
    return value if value == name else f"{value} AS {name}"


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
