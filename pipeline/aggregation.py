"""The runner's aggregator on DuckDB: computes in this process, writes each table as one Parquet object under a new key."""

from __future__ import annotations

from pipeline import keys
from pipeline.model import AggregateFile
from pipeline.ports import Store
from pipeline.settings import PipelineSettings
from pipeline.snapshot import Snapshot
from pipeline.state import State
from sinks.aggregates import AggregateRun, definition, encode, is_behind
from sinks.files import files_of


class WarehouseAggregator:
    """See `runner.Aggregator`."""

    def __init__(self, store: Store, settings: PipelineSettings) -> None:
        self._store = store
        self._settings = settings

    def is_behind(self, state: State) -> bool:
        """Whether the state's aggregates do not follow from its rows and the declarations."""
        return is_behind(state, self._settings.aggregates)

    async def compute(self, snapshot: Snapshot, nonce: str) -> list[AggregateFile]:
        """Write all aggregates of this snapshot; those that need no change keep their file. Raises SettingsError for bad SQL."""
        tables = AggregateRun(files_of(self._store), snapshot, self._settings.aggregates).compute()
        files = []
        for aggregate in self._settings.aggregates:
            table = tables[aggregate.name]
            if table is None:
                files.append(snapshot.aggregates[aggregate.name])
                continue
            body = encode(table)
            key = keys.aggregate_file(self._settings.output, aggregate.name, snapshot.sequence, nonce)
            await self._store.put(key, body)
            files.append(
                AggregateFile(
                    name=aggregate.name,
                    definition=definition(aggregate),
                    key=key,
                    size_bytes=len(body),
                    rows=table.num_rows,
                )
            )
        return files
