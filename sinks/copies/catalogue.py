"""A DuckDB catalogue in the bucket: one small file with views over the committed Parquet files, no
rows of its own.

It is replaced whole, by a conditional write: whoever has it open keeps what it had. The files that
it names stay as long as retention says after they are superseded, so a catalogue must be opened
again now and then.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.errors import ObjectNotFound, PreconditionFailed
from pipeline.model.listing import Stored
from pipeline.ports import Store
from pipeline.sql import quoting
from pipeline.sql.connection import connect
from sinks.copies.change import Change, Mark
from sinks.copies.change_rows import Rows
from sinks.copies.port import failing
from sinks.query.object_files import Files, LocalFiles, StoreFiles
from sinks.query.warehouse import Warehouse

_MARKS = "_tidemill.marks"


class CatalogueSink:
    """See `port.Sink`. key: the file's, in the bucket."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key

    async def mark(self, pipeline: str) -> Mark | None:
        with tempfile.TemporaryDirectory(prefix="tidemill-catalogue-") as folder:
            return _mark_in(_saved(await self._current(), folder), pipeline, self._key)

    async def follows(self, change: Change) -> bool:
        return False  # it is as quickly made as changed

    async def publish(self, change: Change, rows: Rows) -> bool:
        import duckdb

        current = await self._current()
        with tempfile.TemporaryDirectory(prefix="tidemill-catalogue-") as folder:
            path = _saved(current, folder)
            if _mark_in(path, change.pipeline, self._key) != change.over:
                return False
            with failing(self._key, duckdb.Error):
                self._write(path, change, rows)
            body = path.read_bytes()
        try:
            await self._store.put(
                self._key,
                body,
                create_only=current is None,
                if_match=current.etag if current else None,
            )
        except (PreconditionFailed, ObjectNotFound):
            return False
        return True

    async def close(self) -> None:
        pass

    async def _current(self) -> Stored | None:
        try:
            return await self._store.get(self._key)
        except ObjectNotFound:
            return None

    def _write(self, path: Path, change: Change, rows: Rows) -> None:
        """Put the pipeline's views, and its mark, in the file."""
        with Warehouse(
            public_files(self._store), database=str(path), timezone=rows.declared.timezone
        ) as warehouse:
            connection = warehouse.connection
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {_MARKS} (pipeline VARCHAR, generation BIGINT,"
                " sequence BIGINT, view VARCHAR)"
            )
            old = connection.execute(
                f"SELECT view FROM {_MARKS} WHERE pipeline = ?", [change.pipeline]
            ).fetchall()
            warehouse.add_snapshot(rows.snapshot)
            rows.declared.add_to(warehouse, rows.snapshot)
            for (view,) in old:
                if view not in warehouse.tables:
                    connection.execute(f"DROP VIEW IF EXISTS {quoting.name(view)}")
            _set_marks(warehouse, change)
            connection.execute("CHECKPOINT")


def _set_marks(warehouse: Warehouse, change: Change) -> None:
    """One for each of the pipeline's views, in place of those before."""
    connection = warehouse.connection
    connection.execute(f"DELETE FROM {_MARKS} WHERE pipeline = ?", [change.pipeline])
    for view in sorted(warehouse.tables):
        values = [change.pipeline, change.mark.generation, change.mark.sequence, view]
        connection.execute(f"INSERT INTO {_MARKS} VALUES (?, ?, ?, ?)", values)


def public_files(store: Store) -> Files:
    """Objects under the names that any DuckDB finds them by: a path of this machine, or
    `s3://bucket/key`.
    """
    root = store.traits.local_root
    return (
        LocalFiles(str(root))
        if root is not None
        else StoreFiles(store, base=store.url.rstrip("/") + "/")
    )


def _saved(current: Stored | None, folder: str) -> Path:
    path = Path(folder, "catalogue.duckdb")
    if current is not None:
        path.write_bytes(current.body)
    return path


def _mark_in(path: Path, pipeline: str, key: str) -> Mark | None:
    import duckdb

    if not path.exists():
        return None
    with failing(key, duckdb.Error):
        connection = connect(str(path), read_only=True)
        try:
            listed = (
                "SELECT 1 FROM duckdb_tables() WHERE schema_name = '_tidemill' AND table_name ="
                " 'marks'"
            )
            if not connection.execute(listed).fetchall():
                return None
            found = connection.execute(
                f"SELECT generation, sequence FROM {_MARKS} WHERE pipeline = ?", [pipeline]
            ).fetchone()
        finally:
            connection.close()
    return Mark(*found) if found is not None else None
