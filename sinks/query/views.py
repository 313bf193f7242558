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
        config: dict[str, Any] = {
            "temp_directory": self._spill.name,
            "memory_limit": f"{self._limits.engine_mb}MiB",
            "max_temp_directory_size": f"{self._limits.memory_mb * SPILL_SHARE}MiB",
        }
        if threads is not None:
            config["threads"] = threads
        self.connection: duckdb.DuckDBPyConnection = connect(database, timezone=timezone, **config)
        self.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {INTERNAL}")
        files.register(self.connection)
        self._paths: list[str] = []
        self.tables: set[str] = set()
        """What can be asked."""
        self._locked = False
        self.broken: dict[str, str] = {}
        """Aggregates that cannot be computed, with the reason."""

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
        with self.cursor() as other, explained(None, self._limits.exceeded):
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
