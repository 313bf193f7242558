"""DuckDB over committed files: one view for each table, made from a snapshot's explicit file list and its live keys, never a glob.

Files of one schema are scanned together and cast to the table's schema, so that a column that came later is null in earlier
rows. Rows of superseded or deleted sources lie in shared files: they are left out by task and source key.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import ObjectNotFound, SettingsError, StoreDenied, StoreUnavailable
from pipeline.model import MAIN_TABLE, REJECTED_TABLE, OutputFile
from pipeline.settings import AggregateSettings
from pipeline.snapshot import Snapshot, dead_rows
from sinks import sql
from sinks.files import Files
from sinks.guard import Guard, Limits, half_of_memory_mb
from sinks.schema import PROVENANCE, decode
from sinks.statements import STATEMENT_CHARS_MAX, parsed, refusal

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

REJECTED_SUFFIX = "__rejected"
INTERNAL = "_tidemill"
"""DuckDB schema of what views need and nobody asks for."""
_STORE_ERROR = re.compile(r"\ATraceback .*^(?:[\w.]+\.)?(ObjectNotFound|StoreUnavailable|StoreDenied): ([^\n]*)", re.S | re.M)
"""What DuckDB 2.0 says when a registered file system raises: a bare `duckdb.Error` with the whole traceback as its text."""
ROWS_AT_ONCE = 65_536
STORAGE_VERSION = "v1.4.0"
"""Of DuckDB files for others: the default of DuckDB 2 cannot be opened by DuckDB 1."""
SPILL_SHARE = 4
"""How often the memory's size may lie on disk."""
_REJECTED_COLUMNS = {"row": "VARCHAR", "reason": "VARCHAR", **dict.fromkeys(PROVENANCE, "VARCHAR")}


class Warehouse:
    """A private DuckDB with views over snapshots. Use it as a context manager; it reads, and never writes to the bucket.

    memory_mb: what queries may take of this process's memory, by default half of the machine's. DuckDB gets a part of it and spills
    the rest to disk, up to `SPILL_SHARE` times as much. database: a DuckDB file to put the views into, for others to open.
    """

    def __init__(
        self, files: Files, *, threads: int | None = None, memory_mb: int | None = None, database: str = ":memory:"
    ) -> None:
        import duckdb

        self._files = files
        self._limits = Limits(memory_mb or half_of_memory_mb())
        self._spill = tempfile.TemporaryDirectory(prefix="tidemill-sql-", ignore_cleanup_errors=True)
        config: dict[str, Any] = {
            "temp_directory": self._spill.name,
            "memory_limit": f"{self._limits.engine_mb}MiB",
            "max_temp_directory_size": f"{self._limits.memory_mb * SPILL_SHARE}MiB",
            "autoinstall_known_extensions": False,
            "python_enable_replacements": False,  # else a query could name the variables of this program
        }
        if threads is not None:
            config["threads"] = threads
        if database != ":memory:":
            config["storage_compatibility_version"] = STORAGE_VERSION
        self.connection: duckdb.DuckDBPyConnection = duckdb.connect(database, config=config)
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

    # -- views -------------------------------------------------------------------------------------------------------

    def add_snapshot(self, snapshot: Snapshot, *, view: str | None = None) -> None:
        """Views `<pipeline>` (or `view`) and `<pipeline>__rejected` over the snapshot's live rows."""
        main = view or snapshot.pipeline
        dead = [pair for output_id, output in snapshot.outputs.items() for pair in dead_rows(output_id, output)]
        dead_table = self.add_table(main, _dead_table(dead), schema=INTERNAL)
        columns = self.columns(snapshot.schema)
        for table, name, wanted in (
            (MAIN_TABLE, main, columns),
            (REJECTED_TABLE, main + REJECTED_SUFFIX, _REJECTED_COLUMNS),
        ):
            clean = [f for o in snapshot.outputs.values() if not o.dead for f in o.files if f.table == table]
            mixed = [f for o in snapshot.outputs.values() if o.dead for f in o.files if f.table == table]
            live = f"WHERE NOT EXISTS (SELECT 1 FROM {dead_table} d WHERE d.task = f._task AND d.key = f._source_key)"
            parts = [*self.scans(clean, wanted), *(f"{scan} {live}" for scan in self.scans(mixed, wanted))]
            self.add_view(name, " UNION ALL ".join(parts) or _nothing(wanted))

    def columns(self, schema: str | None) -> dict[str, str]:
        """The table's columns with their DuckDB types (`NULL` for one without any value yet), provenance last."""
        import pyarrow as pa

        declared = decode(schema) if schema is not None else pa.schema([])
        found: dict[str, str] = {}
        if len(declared):
            self.connection.register("_schema", declared.empty_table())
            found = {row[0]: row[1].strip('"') for row in self._rows("DESCRIBE _schema")}
            self.connection.unregister("_schema")
        return found | dict.fromkeys(PROVENANCE, "VARCHAR")

    def scans(self, files: Sequence[OutputFile], wanted: dict[str, str]) -> list[str]:
        """One SELECT for each schema among the files, all with the wanted columns."""
        groups: dict[str, list[str]] = {}
        for file in files:
            path = self._files.path(file.key, file.size_bytes)
            self._paths.append(path)
            groups.setdefault(file.schema_id, []).append(path)
        return [self._scan(paths, wanted) for paths in groups.values()]

    def _scan(self, paths: list[str], wanted: dict[str, str]) -> str:
        have = {row[0]: row[1] for row in self._rows(f"DESCRIBE SELECT * FROM read_parquet({sql.texts(paths[:1])})")}
        selected = []
        for column, kind in wanted.items():
            name = sql.name(column)
            if kind == "NULL" or column not in have:
                selected.append(f"{'NULL' if kind == 'NULL' else f'CAST(NULL AS {kind})'} AS {name}")
            else:
                selected.append(name if have[column] == kind else f"CAST({name} AS {kind}) AS {name}")
        return f"SELECT {', '.join(selected)} FROM read_parquet({sql.texts(paths)}, hive_partitioning = false) f"

    def add_view(self, name: str, select: str) -> None:
        """A view by that name. Raises SettingsError for SQL that does not work on these tables."""
        self.execute(f"CREATE OR REPLACE VIEW {sql.name(name)} AS {select}")
        self.tables.add(name)

    def add_table(self, name: str, table: pa.Table, *, schema: str = "main") -> str:
        """A table in DuckDB's memory; its quoted name."""
        quoted = f"{sql.name(schema)}.{sql.name(name)}"
        self.connection.register("_incoming", table)
        self.execute(f"CREATE OR REPLACE TABLE {quoted} AS SELECT * FROM _incoming")
        self.connection.unregister("_incoming")
        if schema == "main":
            self.tables.add(name)
        return quoted

    def add_aggregates(self, snapshot: Snapshot, aggregates: Iterable[AggregateSettings], definitions: dict[str, str]) -> None:
        """A view for each aggregate: its committed file where that follows from this snapshot, else computed when asked."""
        changes = snapshot.changes
        behind = bool(changes.added or changes.gone or changes.everything)
        for aggregate in aggregates:
            file = snapshot.aggregates.get(aggregate.name)
            if file is not None and file.definition == definitions[aggregate.name] and not behind:
                path = self._files.path(file.key, file.size_bytes)
                self._paths.append(path)
                self.add_view(aggregate.name, f"SELECT * FROM read_parquet({sql.texts([path])}, hive_partitioning = false)")
            elif snapshot.schema is not None:
                try:
                    self.add_view(aggregate.name, aggregate.sql)
                except SettingsError as error:  # whoever asks for the table hears what is wrong with its SQL
                    self.broken[aggregate.name] = str(error)

    # -- queries -----------------------------------------------------------------------------------------------------

    def lock(self) -> None:
        """From here on nothing but the snapshot's own tables can be asked, and nothing written. Cannot be undone."""
        paths = sql.texts(dict.fromkeys(self._paths))
        self.connection.execute(f"SET allowed_paths = {paths}")
        self.connection.execute("SET autoload_known_extensions = false")
        self.connection.execute("SET enable_external_access = false")
        self.connection.execute("SET lock_configuration = true")
        self._locked = True

    def query(self, statement: str, *, timeout_s: float | None = None) -> pa.Table:
        """The result of one SELECT (or DESCRIBE, SHOW, SUMMARIZE).

        Raises SettingsError for anything else, for SQL errors, and for what takes more than `timeout_s` or the warehouse's memory.
        DuckDB cannot be interrupted everywhere: who must hold these limits against anybody runs the query in a process
        of its own, as `tidemill sql` does (pipeline/cli/confined.py).
        """
        import duckdb

        self._check(statement)
        guard = Guard(self.connection.interrupt, self._limits, timeout_s)
        try:
            with guard:
                reader = self.connection.sql(statement).to_arrow_reader(ROWS_AT_ONCE)
                return guard.collected(reader)
        except duckdb.InterruptException:
            raise SettingsError(guard.reason or "the query was interrupted") from None
        except duckdb.OutOfMemoryException:
            raise SettingsError(self._limits.exceeded) from None
        except duckdb.Error as error:
            raise _translated(error) from None

    def stream(self, select: str) -> pa.RecordBatchReader:
        """The result of a SELECT of ours, batch by batch; no other statement may run before it is read."""
        import duckdb

        try:
            return self.connection.sql(select).to_arrow_reader(ROWS_AT_ONCE)
        except duckdb.Error as error:
            raise _translated(error) from None

    def _check(self, statement: str) -> None:
        """Refuse what is no single SELECT and, once locked, what asks for more than the snapshot's tables."""
        import duckdb

        if len(statement) > STATEMENT_CHARS_MAX:
            raise SettingsError(f"the statement has {len(statement):,} characters; at most {STATEMENT_CHARS_MAX:,} are read")
        try:
            found = self.connection.execute("SELECT json_serialize_sql(?, skip_null := true, skip_empty := true)", [statement])
            refused = refusal(parsed(found.fetchall()[0][0]), self.tables if self._locked else None)
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

    return pa.table(
        {"task": pa.array([task for task, _ in dead], pa.string()), "key": pa.array([key for _, key in dead], pa.string())}
    )


def _nothing(wanted: dict[str, str]) -> str:
    columns = (f"{'NULL' if kind == 'NULL' else f'CAST(NULL AS {kind})'} AS {sql.name(name)}" for name, kind in wanted.items())
    return f"SELECT {', '.join(columns)} WHERE false"


def _translated(error: Exception) -> Exception:
    import duckdb

    ours = _STORE_ERROR.search(str(error))
    if ours is not None:  # raised by the store's file system, below DuckDB
        kind = {"ObjectNotFound": ObjectNotFound, "StoreDenied": StoreDenied}.get(ours[1], StoreUnavailable)
        return kind(f"{ours[2]}{' (the vacuum removed it meanwhile: ask again)' if kind is ObjectNotFound else ''}")
    text = _one_line(error)
    if isinstance(error, duckdb.IOException):
        gone = "No such file" in text or "No files found" in text
        kind = ObjectNotFound if gone else StoreUnavailable
        return kind(f"{text}{' (the vacuum removed it meanwhile: ask again)' if gone else ''}")
    if isinstance(error, duckdb.PermissionException):
        return SettingsError(f"{text}: queries read the pipeline's tables only")
    return SettingsError(text)


def _one_line(error: Exception) -> str:
    """DuckDB's message without its list of candidates and its drawing of the place."""
    text = str(error).partition("\n\nLINE ")[0].partition("Candidate functions:")[0]
    return " ".join(text.split())
