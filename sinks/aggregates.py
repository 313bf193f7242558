"""Declared aggregates: computed again only for the groups that changed rows touch, and then equal to computing everything.

That holds for SQL whose result rows each depend on the rows of their own group, as with GROUP BY over the `by` columns.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.errors import SettingsError
from pipeline.model import MAIN_TABLE, AggregateFile, OutputFile
from pipeline.settings import AggregateSettings
from pipeline.snapshot import Changes, Output, Removed, Snapshot
from pipeline.state import State
from sinks import sql
from sinks.files import Files
from sinks.warehouse import Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

_ALL = "_tidemill_all"
_TOUCHED = "_tidemill_touched"
_CHANGED = "_tidemill_changed"
_OLD = "_tidemill_old"


def definition(aggregate: AggregateSettings) -> str:
    """Fingerprint of what is computed: another SQL or other groups give another one."""
    return hashlib.sha256(repr((aggregate.by, aggregate.sql)).encode()).hexdigest()[:16]


def is_behind(state: State, aggregates: Sequence[AggregateSettings]) -> bool:
    """Whether the committed aggregates do not follow from this state and these declarations."""
    if state.schema is None:
        return False
    changes = state.changes
    if changes.added or changes.gone or changes.everything:
        return True
    return {a.name: definition(a) for a in aggregates} != {f.name: f.definition for f in state.aggregates.values()}


class AggregateRun:
    """One computation of all aggregates of one snapshot."""

    def __init__(self, files: Files, snapshot: Snapshot, aggregates: Sequence[AggregateSettings]) -> None:
        self._files = files
        self._snapshot = snapshot
        self._aggregates = aggregates

    def compute(self) -> dict[str, pa.Table | None]:
        """A table for each aggregate, None where the committed file stays as it is. Raises SettingsError for SQL that fails."""
        found: dict[str, pa.Table | None] = {}
        with Warehouse(self._files) as warehouse:
            warehouse.add_snapshot(self._snapshot, view=_ALL)
            changed = self._add_changed_rows(warehouse)
            for aggregate in self._aggregates:
                try:
                    found[aggregate.name] = self._one(warehouse, aggregate, changed)
                except SettingsError as error:
                    raise SettingsError(f"aggregate {aggregate.name} of {self._snapshot.pipeline}: {error}") from None
        return found

    def _one(self, warehouse: Warehouse, aggregate: AggregateSettings, changed: bool) -> pa.Table | None:
        old = self._snapshot.aggregates.get(aggregate.name)
        same = old is not None and old.definition == definition(aggregate)
        if same and not self._any_change():
            return None
        if old is not None and same and changed:
            try:
                return self._incremental(warehouse, aggregate, old)
            except SettingsError:
                pass  # say, the result's columns changed with the schema: compute everything
        warehouse.add_view(self._snapshot.pipeline, f"SELECT * FROM {sql.name(_ALL)}")
        return self._checked(warehouse.query(f"SELECT * FROM ({_bare(aggregate.sql)}) {_order(aggregate)}"), aggregate)

    def _any_change(self) -> bool:
        changes = self._snapshot.changes
        return bool(changes.added or changes.gone or changes.everything)

    def _incremental(self, warehouse: Warehouse, aggregate: AggregateSettings, old: AggregateFile) -> pa.Table:
        """Touched groups anew, all others from the file before."""
        by = aggregate.by
        groups = ", ".join(f"{expression} AS {_group(i)}" for i, expression in enumerate(by.values()))
        warehouse.execute(f"CREATE OR REPLACE TEMP TABLE {_TOUCHED} AS SELECT DISTINCT {groups} FROM {_CHANGED}")
        matches = " AND ".join(f"t.{_group(i)} IS NOT DISTINCT FROM ({expression})" for i, expression in enumerate(by.values()))
        same = " AND ".join(f"t.{_group(i)} IS NOT DISTINCT FROM o.{sql.name(column)}" for i, column in enumerate(by))
        warehouse.add_view(
            self._snapshot.pipeline,
            f"SELECT * FROM {_ALL} WHERE EXISTS (SELECT 1 FROM {_TOUCHED} t WHERE {matches})",
        )
        path = self._files.path(old.key, old.size_bytes)
        warehouse.add_view(_OLD, f"SELECT * FROM read_parquet({sql.texts([path])}, hive_partitioning = false)")
        return warehouse.query(
            f"SELECT * FROM ({_bare(aggregate.sql)}) UNION ALL BY NAME"
            f" SELECT * FROM {_OLD} o WHERE NOT EXISTS (SELECT 1 FROM {_TOUCHED} t WHERE {same}) {_order(aggregate)}"
        )

    def _checked(self, table: pa.Table, aggregate: AggregateSettings) -> pa.Table:
        for column in aggregate.by:
            if column not in table.column_names:
                raise SettingsError(f"by={column!r} is not a column of its result ({', '.join(table.column_names)})")
        return table

    def _add_changed_rows(self, warehouse: Warehouse) -> bool:
        """A view over every row that was added or ceased to count since the aggregates were committed. False if unknown."""
        changes = self._snapshot.changes
        if changes.everything or not self._any_change():
            return False
        holders = _holders(self._snapshot, changes)
        if holders is None:
            return False
        wanted = warehouse.columns(self._snapshot.schema)
        added = [f for output in dict.fromkeys(changes.added) for f in holders[output] if f.table == MAIN_TABLE]
        gone_outputs = dict.fromkeys(output for output, _ in changes.gone)
        gone = [f for output in gone_outputs for f in holders[output] if f.table == MAIN_TABLE]
        import pyarrow as pa

        keys = pa.array(list({key for _, key in changes.gone}), pa.string())
        warehouse.add_table("_tidemill_gone", pa.table({"key": keys}))
        is_gone = "WHERE EXISTS (SELECT 1 FROM _tidemill_gone g WHERE g.key = f._source_key)"  # perhaps of other tasks, too
        parts = [*warehouse.scans(added, wanted), *(f"{scan} {is_gone}" for scan in warehouse.scans(gone, wanted))]
        warehouse.add_view(_CHANGED, " UNION ALL ".join(parts) or f"SELECT * FROM {_ALL} WHERE false")
        return True


def _holders(snapshot: Snapshot, changes: Changes) -> dict[str, list[OutputFile]] | None:
    """The files of every changed output, live or removed; None if one was vacuumed already."""
    found = {}
    for output in {*changes.added, *(output for output, _ in changes.gone)}:
        holder: Output | Removed | None = snapshot.outputs.get(output) or snapshot.removed.get(output)
        if holder is None:
            return None
        found[output] = holder.files
    return found


def encode(table: pa.Table) -> bytes:
    """An aggregate as Parquet."""
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def _group(i: int) -> str:
    """A name that no column of the user's has: within the comparison theirs must mean the outer row's."""
    return f"_tidemill_by{i}"


def _order(aggregate: AggregateSettings) -> str:
    return "ORDER BY " + ", ".join(f"{sql.name(column)} NULLS LAST" for column in aggregate.by)


def _bare(statement: str) -> str:
    return statement.strip().rstrip(";")
