"""The runner's aggregator on DuckDB: computes in this process, writes each table as one Parquet
object under a new key.
"""

from __future__ import annotations

from collections.abc import Sequence

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


class WarehouseAggregator:
    """See `runner.Aggregator`. anew: compute everything from scratch, once."""

    def __init__(self, store: Store, settings: PipelineSettings, *, anew: bool = False) -> None:
        self._store = store
        self._settings = settings
        self._anew = anew
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
        wanted = definitions(
            self._settings.aggregates, {d.name: d.version for d in self._dimensions}
        )
        return is_behind(state, wanted) or (self._anew and state.schema is not None)

    async def compute(self, snapshot: Snapshot, nonce: str) -> list[AggregateFile]:
        """Write all aggregates of this snapshot; those that need no change keep their file.

        Raises SettingsError for bad SQL.
        """
        aggregates = self._settings.aggregates
        if self._anew:
            snapshot = msgspec.structs.replace(
                snapshot, aggregates={}, changes=Changes(everything=True)
            )
        rows = promised(snapshot, self._settings)
        tables = AggregateRun(files_of(self._store), rows, aggregates, self._dimensions).compute()
        wanted = definitions(aggregates, {d.name: d.version for d in self._dimensions})
        files = []
        for aggregate in aggregates:
            table = tables[aggregate.name]
            if table is None:
                files.append(snapshot.aggregates[aggregate.name])
                continue
            body = encode(table)
            key = keys.aggregate_file(
                self._settings.output, aggregate.name, snapshot.sequence, nonce
            )
            await self._store.put(key, body)
            name, definition = aggregate.name, wanted[aggregate.name]
            files.append(
                AggregateFile(
                    name=name,
                    definition=definition,
                    key=key,
                    size_bytes=len(body),
                    rows=table.num_rows,
                )
            )
        self._anew = False
        return files
