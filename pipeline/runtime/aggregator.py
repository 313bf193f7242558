"""The runner's aggregator on DuckDB: computes in this process, writes each table as one Parquet
object under a new key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from pipeline.model import keys
from pipeline.model.commit import AggregateFile
from pipeline.model.settings import PipelineSettings
from pipeline.model.snapshot import Changes, Snapshot
from pipeline.ports import Store
from pipeline.state.state import State
from sinks.aggregates.compute import AggregateRun, definitions, encode, is_behind
from sinks.parquet.promised_columns import promised
from sinks.query.dimensions import Dimension, look_up
from sinks.query.object_files import files_of

if TYPE_CHECKING:
    import pyarrow as pa


class WarehouseAggregator:
    """See `context.Aggregator`. from_scratch: compute everything from scratch."""

    def __init__(
        self, store: Store, settings: PipelineSettings, *, from_scratch: bool = False
    ) -> None:
        self._store = store
        self._settings = settings
        self._from_scratch = from_scratch
        self._dimensions: Sequence[Dimension] = ()

    async def prepare(self) -> None:
        """Look at the dimensions: the aggregates that read them follow their changes.

        Raises SettingsError where one is missing.
        """
        self._dimensions = await look_up(self._store, self._settings.dimensions)

    def is_behind(self, state: State) -> bool:
        """Whether the state's aggregates do not follow from its rows, the dimensions and the
        declarations.
        """
        wanted = self._definitions()
        return is_behind(state, wanted) or (self._from_scratch and state.schema is not None)

    async def compute(self, snapshot: Snapshot, nonce: str) -> list[AggregateFile]:
        """Write all aggregates of this snapshot; those that need no change keep their file.

        Raises SettingsError for bad SQL.
        """
        aggregates = self._settings.aggregates
        if self._from_scratch:
            snapshot = _without_aggregates(snapshot)
        tables = self._tables(snapshot)
        wanted = self._definitions()
        files = []
        for aggregate in aggregates:
            table = tables[aggregate.name]
            if table is None:
                files.append(snapshot.aggregates[aggregate.name])
                continue
            name, attempt = aggregate.name, (snapshot.sequence, nonce)
            files.append(await self._write(name, wanted[name], table, attempt))
        self._from_scratch = False
        return files

    def _tables(self, snapshot: Snapshot) -> dict[str, pa.Table | None]:
        """By aggregate; None for those that need no change."""
        rows, aggregates = promised(snapshot, self._settings), self._settings.aggregates
        return AggregateRun(files_of(self._store), rows, aggregates, self._dimensions).compute()

    def _definitions(self) -> dict[str, str]:
        return definitions(self._settings.aggregates, {d.name: d.version for d in self._dimensions})

    async def _write(
        self, name: str, definition: str, table: pa.Table, attempt: tuple[int, str]
    ) -> AggregateFile:
        """attempt: the sequence of the snapshot, and a nonce."""
        key, body = keys.aggregate_file(self._settings.output, name, *attempt), encode(table)
        await self._store.put(key, body)
        return AggregateFile(
            name=name,
            definition=definition,
            key=key,
            size_bytes=len(body),
            rows=table.num_rows,
        )


def _without_aggregates(snapshot: Snapshot) -> Snapshot:
    return msgspec.structs.replace(snapshot, aggregates={}, changes=Changes(everything=True))
