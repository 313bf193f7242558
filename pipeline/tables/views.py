"""The warehouse as commands open it: all pipelines of FILE, their aggregates and their state, read
only.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from pipeline.commit_log.log import Log
from pipeline.errors import SettingsError
from pipeline.model import keys
from pipeline.model.commit import Commit
from pipeline.runtime.runtime import Runtime
from pipeline.sql.connection import UTC
from pipeline.state import codec
from pipeline.state.state import State
from pipeline.tables.points_in_time import When
from pipeline.tables.time_travel import state_at
from sinks.aggregates.compute import definitions
from sinks.parquet.promised_columns import promised
from sinks.query import state_tables
from sinks.query.dimensions import look_up
from sinks.query.named_sources import sources_asked
from sinks.query.object_files import files_of
from sinks.query.warehouse import Warehouse

if TYPE_CHECKING:
    import pyarrow as pa


async def open_warehouse(
    runtimes: Sequence[Runtime],
    wanted: str,
    *,
    at: When | None = None,
    memory_mb: int | None = None,
) -> Warehouse:
    """Views and tables for a statement, as they were `at` a commit or moment; state tables only
    where `wanted` mentions them, and where it names sources, their files alone. The caller closes
    it. Raises SettingsError where what was then is not kept.
    """
    warehouse = Warehouse(
        files_of(runtimes[0].store), memory_mb=memory_mb, timezone=_zone(runtimes)
    )
    asked = _sources_asked(warehouse, wanted, runtimes)
    opened = [
        await state_at(runtime, at, sources=some)
        for runtime, some in zip(runtimes, asked, strict=True)
    ]
    for (runtime, state), some in zip(opened, asked, strict=True):
        await add_tables(warehouse, runtime, state, sources=some)
    for name in _state_tables_asked(wanted) if None in asked else ():
        warehouse.add_table(name, await _state_table(name, opened))
    return warehouse


def _sources_asked(
    warehouse: Warehouse, wanted: str, runtimes: Sequence[Runtime]
) -> list[Sequence[str] | None]:
    """For each pipeline the sources that the statement names, None for all of them.

    Where it names some, no other table can be in it: then it is None for no pipeline.
    """
    asked = [
        sources_asked(warehouse.connection, wanted, runtime.settings.name) for runtime in runtimes
    ]
    named = any(sources is not None for sources in asked)
    return [sources or [] if named else None for sources in asked]


def _state_tables_asked(statement: str) -> list[str]:
    """Those that it mentions; all for SHOW."""
    shows_all = _has_word(statement, "SHOW")
    return [name for name in state_tables.NAMES if shows_all or _has_word(statement, name)]


def _has_word(statement: str, word: str) -> bool:
    return re.search(rf"\b{word}\b", statement, re.IGNORECASE) is not None


async def _state_table(name: str, opened: Sequence[tuple[Runtime, State]]) -> pa.Table:
    logs = [
        [c async for c in commits_of(runtime.log())] if name == "commits" else []
        for runtime, _ in opened
    ]
    committed = [
        [t async for t in runtime.log().all_committed(state)] if name == "sources" else []
        for runtime, state in opened
    ]
    return state_tables.state_table(name, [state for _, state in opened], logs, committed)


def _zone(runtimes: Sequence[Runtime]) -> str:
    """The zone that all have declared; UTC where they differ.

    Aggregates are in their own pipeline's all the same.
    """
    zones = {runtime.settings.timezone for runtime in runtimes}
    return zones.pop() if len(zones) == 1 else UTC


async def add_tables(
    warehouse: Warehouse, runtime: Runtime, state: State, *, sources: Sequence[str] | None = None
) -> None:
    """The pipeline's rows, dimensions and aggregates; only rows of `sources` where given.

    What cannot be read is reported to whoever asks for it.
    """
    from pipeline.tables.schema_repair import refuse_damaged

    await refuse_damaged(runtime, state)
    snapshot, aggregates = state.snapshot(sources), runtime.settings.aggregates
    warehouse.add_snapshot(promised(snapshot, runtime.settings))
    if sources is not None:
        return
    versions = {}
    for declared in runtime.settings.dimensions:
        try:
            found = await look_up(runtime.store, [declared])
            warehouse.add_dimensions(found)
            versions[declared.name] = found[0].version
        except SettingsError as error:
            warehouse.broken[declared.name] = str(error)
    warehouse.add_aggregates(snapshot, aggregates, definitions(aggregates, versions))


async def commits_of(log: Log, *, last: int | None = None) -> AsyncIterator[Commit]:
    """The entries that are still kept, oldest first; only the `last` ones where given."""
    found = await _kept_entries(log)
    for start in range(max(0, len(found) - last) if last is not None else 0, len(found), 200):
        batch = found[start : start + 200]
        for key, stored in zip(batch, await log.store.get_many(batch), strict=True):
            if stored is not None:
                yield codec.decode(Commit, stored.body, key)


async def _kept_entries(log: Log) -> list[str]:
    """Their keys, oldest first."""
    floor = await log.floor()
    found: list[str] = []
    async for page in log.store.list(keys.log_prefix(log.home)):
        found += [key for key in page.keys if (keys.log_sequence(key) or 0) > floor]
    return found


def live_rows_by_source(runtime: Runtime, state: State) -> dict[str, int]:
    """Live rows in the output files themselves, for each source key."""
    with Warehouse(files_of(runtime.store)) as warehouse:
        warehouse.add_snapshot(state.snapshot(), view="audited")
        counted = warehouse.query("SELECT _source_key, count(*) AS n FROM audited GROUP BY 1")
    return dict(zip(counted.column(0).to_pylist(), counted.column(1).to_pylist(), strict=True))
