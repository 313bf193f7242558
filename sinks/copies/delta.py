"""Delta Lake tables in the bucket: one folder for each table, written by this process, read by any
engine that knows Delta Lake.

Each live output of the pipeline is one Parquet file there, named after the output; so the rows of a
changed file are replaced by adding and removing files in one Delta commit, which also moves the
mark (an application transaction id). Delta commits are numbered and create-only, as Tidemill's own
are: no lock table is needed.
"""

from __future__ import annotations

import re
import secrets
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import SettingsError
from pipeline.model.snapshot import Output
from pipeline.ports import Store
from pipeline.sql import quoting
from sinks.copies.change import Change, Mark
from sinks.copies.change_rows import Rows
from sinks.copies.delta_stats import stats_of
from sinks.copies.port import SinkFailed
from sinks.values.column_types import delta_type, duckdb_type, has_naive_times

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction, CommitProperties

_FILE = re.compile(r"(?P<output>.+)\.[0-9a-f]{16}\.parquet\Z")
"""A file of the main table: the output whose live rows it holds, and a name of its own for each
attempt to write it.
"""


class DeltaSink:
    """See `port.Sink`. prefix: of the bucket; each table is a folder below it."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    async def mark(self, pipeline: str) -> Mark | None:
        table = self._open(pipeline)
        return _mark(table, pipeline) if table is not None else None

    async def follows(self, change: Change) -> bool:
        if any(
            delta_type(before) != delta_type(after) for before, after in change.retyped.values()
        ):
            return False
        table = self._open(change.pipeline)
        return table is not None and all(_FILE.match(path) for path in _paths(table))

    async def publish(self, change: Change, rows: Rows) -> bool:
        """Aggregates first: where the rows' mark has moved, theirs have.

        All are looked at before anything is written.
        """
        aggregates = {name: self._open(name) for name in change.aggregates}
        table = self._open(change.pipeline)
        if (_mark(table, change.pipeline) if table is not None else None) != change.over:
            return False
        self._refuse_foreign({change.pipeline: table, **aggregates}, change.pipeline)
        for name, known in aggregates.items():
            if not await self._put_aggregate(known, name, change, rows):
                return False
        if change.whole:
            return await self._put_whole(table, change, rows)
        return table is not None and await self._follow(table, change, rows)

    async def close(self) -> None:
        pass

    # -- tables ------------------------------------------------------------------------------------

    def _refuse_foreign(self, tables: Mapping[str, DeltaTable | None], pipeline: str) -> None:
        for name, known in tables.items():
            if known is not None and _is_foreign(known, pipeline):
                raise SettingsError(
                    f"the Delta table {self._prefix}{name} is not one that Tidemill made: choose"
                    " another prefix"
                )

    async def _put_aggregate(
        self, table: DeltaTable | None, name: str, change: Change, rows: Rows
    ) -> bool:
        """The whole aggregate again, unless another publisher has brought it further than both this
        change and its beginning.
        """
        held = _mark(table, change.pipeline) if table is not None else None
        if held is not None and (
            held == change.mark or held.sequence > max(change.mark.sequence, _sequence(change.over))
        ):
            return True
        schema = _delta_schema(rows.aggregate_schema(name))
        added = await self._write(
            name, f"{name}.{secrets.token_hex(8)}", schema, rows.aggregate(name, _selected(schema))
        )
        return self._overwrite(table, name, added, schema, change)

    async def _put_whole(self, table: DeltaTable | None, change: Change, rows: Rows) -> bool:
        schema = _delta_schema(change.schema)
        added = await self._write_outputs(change.added, schema, change, rows)
        return self._overwrite(table, change.pipeline, added, schema, change)

    def _overwrite(
        self,
        table: DeltaTable | None,
        name: str,
        added: list[AddAction],
        schema: pa.Schema,
        change: Change,
    ) -> bool:
        made = self._made(table, name, schema)
        if table is None and _mark(made, change.pipeline) is not None:
            return False  # somebody else made it, and published, after the look
        return self._may_hold(made, schema) and self._commit(
            made, added, "overwrite", schema, change
        )

    def _may_hold(self, table: DeltaTable, schema: pa.Schema) -> bool:
        """Let the table have times without a zone. deltalake sees to that for new tables and new
        columns; where a column becomes one of such times, it writes a commit that nobody can read.
        False if others have committed meanwhile.
        """
        from deltalake import TableFeatures

        if not any(has_naive_times(field.type) for field in schema) or "timestampNtz" in (
            table.protocol().reader_features or ()
        ):
            return True
        features = [TableFeatures.TimestampWithoutTimezone]
        return self._done(
            table, lambda: table.alter.add_feature(features, allow_protocol_versions_increase=True)
        )

    async def _follow(self, table: DeltaTable, change: Change, rows: Rows) -> bool:
        """New columns in a commit of their own, which changes no row; then files that come and
        files that go, in one.
        """
        schema = _delta_schema(change.schema)
        fields = _new_fields(table, schema)
        if fields and not self._done(table, lambda: table.alter.add_columns(fields)):
            return False
        outputs = {**change.added, **change.shrunk}
        added: list[Any] = list(await self._write_outputs(outputs, schema, change, rows))
        removed = _removals(table, {*change.vanished, *change.shrunk})
        return self._commit(table, added + removed, "append", schema, change)

    async def _write_outputs(
        self, outputs: dict[str, Output], schema: pa.Schema, change: Change, rows: Rows
    ) -> list[AddAction]:
        added, select = [], _selected(schema)
        for name, output in outputs.items():
            batches = rows.of_output(name, output, select)
            added += await self._write(
                change.pipeline, f"{name}.{secrets.token_hex(8)}", schema, batches
            )
        return added

    async def _write(
        self, table: str, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
    ) -> list[AddAction]:
        """One Parquet file with these rows, none where there are none."""
        import pyarrow.parquet as pq
        from deltalake.transaction import AddAction

        with tempfile.TemporaryDirectory(
            prefix="tidemill-delta-", ignore_cleanup_errors=True
        ) as folder:
            path = Path(folder, "rows.parquet")
            if not _write_rows(path, schema, batches):
                return []
            size, stats = path.stat().st_size, stats_of(pq.read_metadata(path), schema)
            await self._store.put_file(f"{self._prefix}{table}/{name}.parquet", path)
        return [AddAction(f"{name}.parquet", size, {}, time.time_ns() // 1_000_000, True, stats)]

    # -- Delta's log -------------------------------------------------------------------------------

    def _address(self, name: str) -> tuple[str, dict[str, str]]:
        url = f"{self._store.url.rstrip('/')}/{self._prefix}{name}"
        return url, self._store.traits.foreign_options()

    def _open(self, name: str) -> DeltaTable | None:
        try:
            from deltalake import DeltaTable
            from deltalake.exceptions import TableNotFoundError
        except ImportError:
            raise SettingsError(
                "the Delta sink needs deltalake: pip install 'tidemill[delta]'"
            ) from None
        address, options = self._address(name)
        try:
            return DeltaTable(address, storage_options=options)
        except TableNotFoundError:
            return None
        except Exception as error:
            raise SinkFailed(f"Delta table {self._prefix}{name}: {_line(error)}") from error

    def _made(self, table: DeltaTable | None, name: str, schema: pa.Schema) -> DeltaTable:
        """The table; an empty one, which has no mark yet, where there is none."""
        from deltalake import DeltaTable

        if table is not None:
            return table
        address, options = self._address(name)
        try:
            return DeltaTable.create(
                address, schema=schema, name=name, mode="ignore", storage_options=options
            )
        except Exception as error:
            raise SinkFailed(f"Delta table {self._prefix}{name}: {_line(error)}") from error

    def _commit(
        self, table: DeltaTable, actions: list[Any], mode: str, schema: pa.Schema, change: Change
    ) -> bool:
        """One Delta commit right after the version that was looked at.

        False if another one has that number.
        """
        from deltalake import PostCommitHookProperties, Schema

        return self._done(
            table,
            lambda: table.create_write_transaction(
                actions,
                mode,
                Schema.from_arrow(schema),
                commit_properties=_properties(change.pipeline, change.mark),
                # nothing is deleted
                post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
            ),
        )

    def _done(self, table: DeltaTable, commit: Callable[[], object]) -> bool:
        """Do it. False if others have committed since the version that was looked at, or an answer
        was lost: look again.
        """
        version, name = table.version(), table.table_uri.rstrip("/").rpartition("/")[2]
        try:
            commit()
        except Exception as error:
            now = self._open(name)
            if now is not None and now.version() > version:
                return False
            raise SinkFailed(f"Delta table {self._prefix}{name}: {_line(error)}") from error
        return True


def _write_rows(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """A file of the batches; the number of its rows."""
    import pyarrow.parquet as pq

    n = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch.cast(schema))
            n += batch.num_rows
    return n


def _new_fields(table: DeltaTable, schema: pa.Schema) -> list[Any]:
    from deltalake import Schema

    known = {field.name for field in table.schema().fields}
    return [field for field in Schema.from_arrow(schema).fields if field.name not in known]


def _removals(table: DeltaTable, outputs: Collection[str]) -> list[Any]:
    """Of the files of these outputs."""
    from deltalake.transaction import RemoveAction

    now_ms = time.time_ns() // 1_000_000
    found = ((path, _FILE.match(path)) for path in _paths(table))
    return [
        RemoveAction(path, True, now_ms)
        for path, match in found
        if match is not None and match["output"] in outputs
    ]


def _is_foreign(table: DeltaTable, pipeline: str) -> bool:
    """Whether somebody else made the table: it has no mark, and is no new, empty one."""
    return _mark(table, pipeline) is None and bool(table.version() or _paths(table))


def _properties(pipeline: str, mark: Mark) -> CommitProperties:
    """Moves the mark.

    No retries: what was computed over one version of the table is not for another.
    """
    from deltalake import CommitProperties, Transaction

    generation, sequence = _ids(pipeline)
    moved = [Transaction(generation, mark.generation), Transaction(sequence, mark.sequence)]
    return CommitProperties(app_transactions=moved, max_commit_retries=0)


def _mark(table: DeltaTable, pipeline: str) -> Mark | None:
    generation, sequence = (table.transaction_version(name) for name in _ids(pipeline))
    return None if sequence is None else Mark(generation or 0, sequence)


def _ids(pipeline: str) -> tuple[str, str]:
    return f"tidemill/{pipeline}/generation", f"tidemill/{pipeline}/sequence"


def _sequence(mark: Mark | None) -> int:
    return mark.sequence if mark is not None else -1


def _paths(table: DeltaTable) -> list[str]:
    """The files of the table's newest version."""
    import pyarrow as pa

    return [
        str(path)
        for path in pa.table(table.get_add_actions(flatten=True)).column("path").to_pylist()
    ]


def _delta_schema(schema: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([pa.field(field.name, delta_type(field.type)) for field in schema])


def _selected(schema: pa.Schema) -> str:
    return ", ".join(
        f"CAST({quoting.name(f.name)} AS {duckdb_type(f.type)}) AS {quoting.name(f.name)}"
        for f in schema
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
