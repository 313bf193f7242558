"""Rewriting the live rows of many outputs: fewer and larger Parquet files, sorted, with statistics
that let queries skip.

Rows keep their provenance, and are written in the table's schema as it is now. Memory is bounded by
MERGE_BYTES.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ObjectNotFound, SettingsError
from pipeline.model import keys
from pipeline.model.listing import Stored
from pipeline.model.receipt import MAIN_TABLE, OutputFile
from pipeline.model.snapshot import Output, dead_rows
from pipeline.ports import Store
from sinks.parquet.encodings import ROW_GROUP_ROWS, digest_of, large_file
from sinks.parquet.partitions import folders
from sinks.values.columns import stored
from sinks.values.contract import stored_type
from sinks.values.schema import PROVENANCE, decode, fingerprint

if TYPE_CHECKING:
    import pyarrow as pa

MERGE_BYTES = 256 * 2**20
"""Arrow bytes that are sorted at once: a file of more has several runs of sorted rows."""
ROWS_AT_ONCE = 65_536
READ_WHOLE_BYTES = 8 * 2**20
FETCHED_TOGETHER = 16

_Partition = tuple[tuple[str, str | None], ...]
_Place = tuple[str, _Partition]
"""Table and partition."""


class ParquetRewriter:
    """See `context.Rewriter`. order_by: columns by which the rows of each file are sorted; what is
    empty comes last.
    """

    def __init__(self, store: Store, output: str, order_by: Sequence[str] = ()) -> None:
        self._store = store
        self._output = output
        self._order_by = order_by

    async def rewrite(
        self, outputs: Mapping[str, Output], task: str, nonce: str, schema: str | None
    ) -> list[OutputFile]:
        """Write the live rows; the files, which are in the store by then.

        Raises SettingsError where they cannot be sorted so.
        """
        written: list[OutputFile] = []
        with tempfile.TemporaryDirectory(prefix="tidemill-") as scratch:
            for (table, partition), files in _by_place(outputs):
                path = Path(scratch, f"{len(written)}.parquet")
                described = await self._write(
                    self._rows(table, files, outputs, schema),
                    path,
                    table,
                    partition,
                    f"{task}.{nonce}.{len(written)}.parquet",
                )
                if described is not None:
                    await self._store.put_file(described.key, path)
                    path.unlink(missing_ok=True)
                    written.append(described)
        return written

    def _rows(
        self,
        table: str,
        files: Sequence[tuple[OutputFile, str]],
        outputs: Mapping[str, Output],
        schema: str | None,
    ) -> AsyncIterator[pa.Table]:
        """The live rows; those of the main table in its columns, and sorted."""
        if table != MAIN_TABLE:
            return self._chunks(self._live(files, outputs, None), ())
        kind = decode(schema) if schema is not None else None
        order_by = [column for column in self._order_by if not _is_empty(column, kind)]
        return self._chunks(self._live(files, outputs, kind), order_by)

    async def _chunks(
        self, pieces: AsyncIterator[pa.Table], order_by: Sequence[str]
    ) -> AsyncIterator[pa.Table]:
        held: list[pa.Table] = []
        size = 0
        async for rows in pieces:
            held.append(rows)
            size += rows.nbytes
            if size >= MERGE_BYTES:
                yield _sorted(held, order_by)
                held, size = [], 0
        if held:
            yield _sorted(held, order_by)

    async def _live(
        self,
        files: Sequence[tuple[OutputFile, str]],
        outputs: Mapping[str, Output],
        schema: pa.Schema | None,
    ) -> AsyncIterator[pa.Table]:
        """Rows that count, file by file; small files are fetched together."""
        for start in range(0, len(files), FETCHED_TOGETHER):
            some = files[start : start + FETCHED_TOGETHER]
            small = [file.key for file, _ in some if file.size_bytes <= READ_WHOLE_BYTES]
            bodies = dict(zip(small, await self._store.get_many(small), strict=True))
            for file, name in some:
                dead = dead_rows(name, outputs[name])
                with self._opened(file, bodies) as content:
                    for rows in _counting(content, dead, schema):
                        yield rows

    @contextmanager
    def _opened(self, file: OutputFile, bodies: Mapping[str, Stored | None]) -> Iterator[Any]:
        """The file's content: its body, where that was fetched, else a stream."""
        import pyarrow as pa

        if file.key not in bodies:
            with self._store.open_content(file.key, "", file.size_bytes).open() as stream:
                yield stream
            return
        body = bodies[file.key]
        if body is None:
            raise ObjectNotFound(f"{file.key} is live and missing")
        yield pa.BufferReader(body.body)

    async def _write(
        self,
        chunks: AsyncIterator[pa.Table],
        path: Path,
        table: str,
        partition: _Partition,
        name: str,
    ) -> OutputFile | None:
        """One file of all chunks, each sorted in itself; None where there are no rows."""
        first = await anext(chunks, None)
        if first is None:
            return None
        rows = first.num_rows
        with large_file(path, first) as file:
            file.write_table(first, row_group_size=ROW_GROUP_ROWS)
            async for chunk in chunks:
                file.write_table(chunk, row_group_size=ROW_GROUP_ROWS)
                rows += chunk.num_rows
        return OutputFile(
            table=table,
            key=f"{self._prefix_of(table)}{folders(dict(partition))}{name}",
            size_bytes=path.stat().st_size,
            rows=rows,
            partition=dict(partition),
            schema_id=fingerprint(first.schema),
            sha256=digest_of(path),
        )

    def _prefix_of(self, table: str) -> str:
        if table == MAIN_TABLE:
            return keys.rows_prefix(self._output)
        return keys.rejected_prefix(self._output)


def _by_place(
    outputs: Mapping[str, Output],
) -> list[tuple[_Place, list[tuple[OutputFile, str]]]]:
    """The files of each place, each with its output's name; in the places' order."""
    places: dict[_Place, list[tuple[OutputFile, str]]] = {}
    for name, output in outputs.items():
        for file in output.files:
            place = file.table, tuple(file.partition.items())
            places.setdefault(place, []).append((file, name))
    return sorted(places.items(), key=lambda item: str(item[0]))


def _is_empty(column: str, schema: pa.Schema | None) -> bool:
    """Whether the table has the column, and no file a value in it: then it is in no file."""
    return (
        schema is not None
        and column in schema.names
        and stored_type(schema.field(column).type) is None
    )


def _counting(
    source: Any, dead: list[tuple[str, str]], schema: pa.Schema | None
) -> Iterator[pa.Table]:
    """A file's rows but for dead ones, in the columns of `schema` where one is given."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    gone = pa.array([f"{task}/{key}" for task, key in dead], pa.string())
    for batch in pq.ParquetFile(source).iter_batches(ROWS_AT_ONCE):
        rows = _plain(pa.Table.from_batches([batch]))
        if len(gone):
            rows = _without_gone(rows, gone)
        if schema is not None:
            rows = stored(rows, pa.schema([f for f in schema if stored_type(f.type) is not None]))
        if rows.num_rows:
            yield rows


def _without_gone(rows: pa.Table, gone: pa.Array) -> pa.Table:
    """The rows but for those of these `task/key`."""
    import pyarrow.compute as pc

    named = pc.binary_join_element_wise(rows.column("_task"), rows.column("_source_key"), "/")
    return rows.filter(pc.invert(pc.is_in(named, value_set=gone)))


def _plain(rows: pa.Table) -> pa.Table:
    """Provenance as text: files differ in their dictionaries."""
    import pyarrow as pa

    for name in PROVENANCE:
        rows = rows.set_column(
            rows.schema.get_field_index(name), name, rows.column(name).cast(pa.string())
        )
    return rows


def _sorted(held: list[pa.Table], order_by: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    rows = pa.concat_tables(held)
    missing = [column for column in order_by if column not in rows.column_names]
    if missing:
        raise SettingsError(
            f"order_by={missing[0]!r} is not a column of the table ({', '.join(rows.column_names)})"
        )
    try:
        return rows.sort_by([(column, "ascending") for column in order_by]) if order_by else rows
    except pa.ArrowException as error:
        raise SettingsError(
            f"the rows cannot be sorted by {', '.join(order_by)}: {' '.join(str(error).split())}"
        ) from None
