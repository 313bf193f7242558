"""Stages: a pipeline whose source is another one's table.

For the protocol that table is a prefix like any other.

Below `<upstream>:` lies one object for each source of the upstream table: its rows at one commit.
Its version is the attempt that made them, so a source whose rows are made again, changed or deleted
is new, changed or gone for the stage as well. A listing is one state of the upstream's log, never
half of a commit; all else goes to the bucket's own store.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pipeline.commit_log.log import Log
from pipeline.declare.pipeline import Pipeline
from pipeline.errors import KeyUnsupported, ObjectNotFound, SourceChanged, StoreUnavailable
from pipeline.model import keys
from pipeline.model.listing import Head, Page, Stored
from pipeline.model.policy import Policy
from pipeline.model.receipt import MAIN_TABLE, OutputFile
from pipeline.model.task import Inputs
from pipeline.ports import Clock, Content, Store, StoreTraits
from pipeline.state.ledger import Entry
from pipeline.state.state import State
from sinks.values.columns import as_table
from sinks.values.schema import decode

if TYPE_CHECKING:
    import pyarrow as pa

from pipeline.work.row_content import RowsContent

ROW_BYTES = 256
"""What a row counts for where tasks are sized."""
CACHED_BYTES = 256 * 2**20
WHOLE_FILE_BYTES = 32 * 2**20
"""Files up to this size are read whole: the rows of a task's sources lie side by side in few of
them.
"""
_PROVENANCE = ("_source_key", "_source_etag", "_task")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one source's rows are. schema: the table's columns as they were then."""

    source: str
    task: str
    files: tuple[OutputFile, ...]
    schema: str | None = None


class TableStore:
    """A store with the rows of one pipeline's live table below a prefix of their own.

    Read only there.
    """

    url: str
    traits: StoreTraits

    def __init__(self, store: Store, upstream: Pipeline, *, clock: Clock, policy: Policy) -> None:
        self._store = store
        self._upstream = upstream
        self._clock = clock
        self._policy = policy
        self._log: Log | None = None
        self._state: State | None = None
        self._places: dict[tuple[str, str], Place] = {}
        self._reader = FileRows(store)
        self.prefix: str = upstream.prefix_of_rows
        self.url, self.traits = store.url, store.traits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    # -- the table ---------------------------------------------------------------------------------

    async def _newest(self) -> tuple[Log, State]:
        """The live generation's log and its newest state."""
        name = self._upstream.name
        root = await Log(self._store, name, clock=self._clock, policy=self._policy).load()
        number = root.generations.live if root.generations is not None else 0
        log = Log(self._store, name, clock=self._clock, policy=self._policy, generation=number)
        self._log, self._state = log, root if number == 0 else await log.load()
        return log, self._state

    async def _known(self) -> tuple[Log, State]:
        if self._log is None or self._state is None:
            return await self._newest()
        return self._log, self._state

    async def list(
        self, prefix: str, *, start_after: str = "", split_at: Sequence[str] = ()
    ) -> AsyncIterator[Page]:
        if not prefix.startswith(self.prefix):
            async for page in self._store.list(prefix, start_after=start_after, split_at=split_at):
                yield page
            return
        log, state = await self._newest()
        async for some in log.all_committed(state):
            page = self._page(some, prefix, start_after)
            if page.keys:
                yield page

    def _page(self, some: pa.Table, prefix: str, start_after: str) -> Page:
        columns = (
            some.column(name).to_pylist() for name in ("key", "output", "rows", "modified_us")
        )
        rows = [
            (f"{self.prefix}{key}", output, n * ROW_BYTES, us)
            for key, output, n, us in zip(*columns, strict=True)
            if n
        ]
        return Page.of([r for r in rows if r[0].startswith(prefix) and r[0] > start_after])

    async def head_many(self, keys: Sequence[str]) -> Sequence[Head | None]:
        mine = [key for key in keys if key.startswith(self.prefix)]
        if not mine:
            return await self._store.head_many(keys)
        log, state = await self._newest()
        await log.look_up(state, [key.removeprefix(self.prefix) for key in mine])
        return [await self._head(log, state, key) for key in keys]

    async def head(self, key: str) -> Head:
        if not key.startswith(self.prefix):
            return await self._store.head(key)
        [found] = await self.head_many([key])
        if found is None:
            raise ObjectNotFound(f"{key} has no rows")
        return found

    async def _head(self, log: Log, state: State, key: str) -> Head | None:
        entry = state.entry(key.removeprefix(self.prefix))
        if entry is None or not entry.rows:
            return None
        await self._locate(log, state, key, entry)
        return Head(
            key=key,
            etag=entry.output,
            size_bytes=entry.rows * ROW_BYTES,
            modified_us=entry.modified_us,
        )

    async def _locate(self, log: Log, state: State, key: str, entry: Entry) -> Place:
        await log.look_up_outputs(state, [entry.output])
        holder = state.holder_of(entry.output)
        files = state.outputs[holder].files if holder is not None else []
        own = tuple(file for file in files if file.table == MAIN_TABLE)
        place = Place(
            key.removeprefix(self.prefix), entry.output.partition(".")[0], own, state.schema
        )
        self._places[key, entry.output] = place
        return place

    async def rows(self, key: str, etag: str, *, newest: bool = False) -> Content:
        """One source's rows at the version that was planned."""
        log, state = await (self._newest() if newest else self._known())
        name = key.removeprefix(self.prefix)
        await log.look_up(state, [name])
        entry = state.entry(name)
        if entry is not None and entry.rows and entry.output == etag:
            return RowsContent(self._reader, await self._locate(log, state, key, entry))
        if not newest:
            return await self.rows(key, etag, newest=True)
        return RowsContent(self._reader, None, _outdated(key, entry))

    def open_content(self, key: str, etag: str, size_bytes: int) -> Content:
        if not key.startswith(self.prefix):
            return self._store.open_content(key, etag, size_bytes)
        place = self._places.get((key, etag))
        return RowsContent(
            self._reader,
            place,
            None if place else SourceChanged(f"the rows of {key} were made again"),
        )

    async def check(self, prefix: str = "") -> None:
        if not prefix.startswith(self.prefix):
            await self._store.check(prefix)
            return
        await self._store.check(keys.checkpoint_prefix(keys.home(self._upstream.name)))

    # -- everything else ---------------------------------------------------------------------------

    async def get(
        self, key: str, *, if_match: str | None = None, byte_range: tuple[int, int] | None = None
    ) -> Stored:
        if key.startswith(self.prefix):
            raise KeyUnsupported(f"{key} names rows of a table, not an object")
        return await self._store.get(key, if_match=if_match, byte_range=byte_range)

    async def get_many(self, keys: Sequence[str]) -> Sequence[Stored | None]:
        return await self._store.get_many(keys)

    async def put(
        self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None
    ) -> None:
        await self._store.put(key, body, create_only=create_only, if_match=if_match)

    async def put_file(self, key: str, path: Path) -> None:
        await self._store.put_file(key, path)

    async def delete(self, keys: Sequence[str]) -> None:
        await self._store.delete(keys)

    async def close(self) -> None:
        await self._store.close()


class TableContents:
    """See `seams.Contents`: rows of sources, at their planned versions."""

    mounted = False

    def __init__(self, tables: TableStore) -> None:
        self._tables = tables

    def expect(self, inputs: Inputs) -> None:
        """Nothing is done beforehand: neighbours lie in the same files, which are kept."""

    async def open(self, key: str, etag: str, size_bytes: int, modified_us: int) -> Content:
        return await self._tables.rows(key, etag)


class FileRows:
    """Reads sources' rows out of Parquet files, and keeps the files it read last, up to
    CACHED_BYTES of them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[str, pa.Table] = {}

    def read(self, place: Place) -> bytes:
        """The rows as an Arrow stream, without provenance.

        Raises StoreUnavailable where a file was replaced meanwhile.
        """
        import pyarrow as pa

        schema = decode(place.schema) if place.schema is not None else pa.schema([])
        found = [as_table(self._of(file, place), schema) for file in place.files]
        rows = pa.concat_tables(found) if found else pa.table({})
        rows = rows.drop_columns([name for name in _PROVENANCE if name in rows.column_names])
        out = io.BytesIO()
        with pa.ipc.new_stream(out, rows.schema) as writer:
            writer.write_table(rows)
        return out.getvalue()

    def _of(self, file: OutputFile, place: Place) -> pa.Table:
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        is_mine = (pc.field("_source_key") == place.source) & (pc.field("_task") == place.task)
        try:
            if file.size_bytes > WHOLE_FILE_BYTES:
                with self._open(file) as stream:
                    return pq.read_table(stream, filters=is_mine)
            if file.key not in self._kept:
                with self._open(file) as stream:
                    self._keep(file.key, pq.read_table(stream, partitioning=None))
        except ObjectNotFound as error:
            raise StoreUnavailable(f"{error}: it was compacted or replaced meanwhile") from None
        return self._kept[file.key].filter(is_mine)

    def _open(self, file: OutputFile) -> BinaryIO:
        return self._store.open_content(file.key, "", file.size_bytes).open()

    def _keep(self, name: str, rows: pa.Table) -> None:
        self._kept[name] = rows
        while (
            len(self._kept) > 1
            and sum(table.nbytes for table in self._kept.values()) > CACHED_BYTES
        ):
            del self._kept[next(iter(self._kept))]


def _outdated(key: str, entry: Entry | None) -> Exception:
    """Why the version that was planned cannot be read."""
    if entry is None or not entry.rows:
        return ObjectNotFound(f"{key} has no rows any more")
    return SourceChanged(f"the rows of {key} were made again")
