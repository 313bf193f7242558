"""Declared aggregates, brought up to date from what changed, and equal to computing everything.

Three ways, the first that can be: values are merged with those of changed rows (`mergeable`); the
groups that changed rows touch are computed again; or all is. The second holds for SQL whose result
rows each depend on the rows of their own group, as with GROUP BY over the `by` columns. What an
aggregate reads besides (dimensions, other aggregates) is in its definition.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from pipeline.errors import SettingsError
from pipeline.model.commit import AggregateFile
from pipeline.model.receipt import MAIN_TABLE, OutputFile
from pipeline.model.settings import AggregateSettings
from pipeline.model.snapshot import Changes, Output, Removed, Snapshot, dead_rows
from pipeline.sql import quoting
from pipeline.sql.connection import UTC
from pipeline.state.state import State
from sinks.aggregates.merge import Merge, merge_of
from sinks.query.dimensions import Dimension
from sinks.query.object_files import Files
from sinks.query.warehouse import Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

_ALL = "_tidemill_all"
_TOUCHED = "_tidemill_touched"
_CHANGED = "_tidemill_changed"
_OLD = "_tidemill_old"
_LAYOUT = 3
"""Of an aggregate's file: another number means computing from scratch. 2: with what merges need. 3:
in a zone of its own.
"""


def definitions(
    aggregates: Sequence[AggregateSettings], dimensions: Mapping[str, str]
) -> dict[str, str]:
    """For each aggregate a fingerprint of what is computed: its SQL and groups, and what it reads
    besides the rows.

    dimensions: name -> version.
    """
    found: dict[str, str] = {}
    for aggregate in aggregates:
        reads = [
            f"{name}={version}"
            for name, version in {**dimensions, **found}.items()
            if _names(aggregate.sql, name)
        ]
        all_of = (_LAYOUT, aggregate.by, aggregate.sql, aggregate.timezone, reads)
        found[aggregate.name] = hashlib.sha256(repr(all_of).encode()).hexdigest()[:16]
    return found


def _names(statement: str, table: str) -> bool:
    """Whether the statement may read this table: its name is in the text, whatever it
    means there.
    """
    return re.search(rf"\b{re.escape(table)}\b", statement, re.IGNORECASE) is not None


def is_behind(state: State, wanted: Mapping[str, str]) -> bool:
    """Whether the committed aggregates do not follow from this state and these definitions."""
    if state.schema is None:
        return False
    changes = state.changes
    if changes.added or changes.gone or changes.everything:
        return True
    return dict(wanted) != {f.name: f.definition for f in state.aggregates.values()}


class AggregateRun:
    """One computation of all aggregates of one snapshot."""

    def __init__(
        self,
        files: Files,
        snapshot: Snapshot,
        aggregates: Sequence[AggregateSettings],
        dimensions: Sequence[Dimension] = (),
    ) -> None:
        self._files = files
        self._snapshot = snapshot
        self._aggregates = aggregates
        self._dimensions = dimensions
        self._definitions = definitions(aggregates, {d.name: d.version for d in dimensions})
        self._plus: str | None = None
        self._minus: str | None = None
        self._has_all = False
        self._has_changed: bool | None = None

    def compute(self) -> dict[str, pa.Table | None]:
        """A table for each aggregate, None where the committed file stays as it is.

        Raises SettingsError for SQL that fails.
        """
        found: dict[str, pa.Table | None] = {}
        with Warehouse(
            self._files, timezone=self._aggregates[0].timezone if self._aggregates else UTC
        ) as warehouse:
            warehouse.add_dimensions(self._dimensions)
            if self._any_change() and not self._snapshot.changes.everything:
                self._plus, self._minus = self._came_and_went(warehouse)
            for aggregate in self._aggregates:
                try:
                    table = self._one(warehouse, aggregate)
                except SettingsError as error:
                    raise SettingsError(
                        f"aggregate {aggregate.name} of {self._snapshot.pipeline}: {error}"
                    ) from None
                found[aggregate.name] = table
                if table is not None:  # for aggregates that read this one
                    warehouse.add_table(aggregate.name, table)
                else:
                    warehouse.add_aggregate_file(
                        aggregate.name, self._snapshot.aggregates[aggregate.name]
                    )
        return found

    def _one(self, warehouse: Warehouse, aggregate: AggregateSettings) -> pa.Table | None:
        old = self._snapshot.aggregates.get(aggregate.name)
        same = old is not None and old.definition == self._definitions[aggregate.name]
        if same and not self._any_change():
            return None
        name = self._snapshot.pipeline
        reads_others = any(
            a is not aggregate and _names(aggregate.sql, a.name) for a in self._aggregates
        )
        merge = (
            None
            if reads_others
            else merge_of(warehouse.connection, aggregate.sql, name, aggregate.by)
        )
        statement = _bare(aggregate.sql) if merge is None else merge.sql
        if old is not None and same and not reads_others:
            try:
                merged = (
                    self._merged(warehouse, aggregate, merge, old) if merge is not None else None
                )
                if merged is not None:
                    return merged
                if self._add_changed_rows(warehouse):
                    return self._incremental(warehouse, aggregate, statement, old)
            except SettingsError:
                pass  # say, the result's columns changed with the schema: compute everything
        self._add_all(warehouse)
        warehouse.add_view(name, f"SELECT * FROM {quoting.name(_ALL)}")
        return self._checked(
            _stored(warehouse, f"SELECT * FROM ({statement}) {_order(aggregate)}"), aggregate
        )

    def _any_change(self) -> bool:
        changes = self._snapshot.changes
        return bool(changes.added or changes.gone or changes.everything)

    def _add_all(self, warehouse: Warehouse) -> None:
        """Every row of the snapshot, where it is needed after all."""
        if not self._has_all:
            warehouse.add_snapshot(self._snapshot, view=_ALL)
            self._has_all = True

    # -- merging -----------------------------------------------------------------------------------

    def _came_and_went(self, warehouse: Warehouse) -> tuple[str | None, str | None]:
        """SQL of the rows that count now and did not when the aggregates were committed, and of
        those that did and do not now.

        None, None where that cannot be told from what is at hand: an output that was merged or
        removed meanwhile.
        """
        snapshot, changes = self._snapshot, self._snapshot.changes
        added = dict.fromkeys(changes.added)
        if any(output not in snapshot.outputs for output in added):
            return None, None
        tasks = {output.partition(".")[0] for output in added}
        went: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
        holders: dict[bool, dict[str, None]] = {False: {}, True: {}}
        for holder, key in changes.gone:
            live, removed = snapshot.outputs.get(holder), snapshot.removed.get(holder)
            if (live is None and removed is None) or (removed is not None and removed.merged):
                return None, None
            rows = (
                [(holder.partition(".")[0], key)]
                if live is None
                else [r for r in dead_rows(holder, live) if r[1] == key]
            )
            merged = live is not None and bool(live.dead_tasks)
            # else it came and went in between
            went[merged] += [(task, key) for task, key in rows if task not in tasks]
            holders[merged][holder] = None
        wanted = warehouse.columns(snapshot.schema)
        come = {output: snapshot.outputs[output] for output in added}
        warehouse.add_snapshot(
            msgspec.structs.replace(snapshot, outputs=come), view="_tidemill_plus"
        )
        if not any(went.values()):
            return "_tidemill_plus", None
        minus: list[str] = []
        # apart: what an output had before it was merged is in the merged one, too
        for merged, pairs in went.items():
            gone = warehouse.add_table(f"_tidemill_went_{merged}", _pairs(pairs))
            files = [
                f
                for holder in holders[merged]
                for f in self._holder(holder).files
                if f.table == MAIN_TABLE
            ]
            is_gone = (
                f"WHERE EXISTS (SELECT 1 FROM {gone} g WHERE g.task = f._task AND g.key ="
                " f._source_key)"
            )
            minus += [f"{scan} {is_gone}" for scan in warehouse.scans(files, wanted)]
        warehouse.add_view(
            "_tidemill_minus",
            " UNION ALL ".join(minus) or "SELECT * FROM _tidemill_plus WHERE false",
        )
        return "_tidemill_plus", "_tidemill_minus"

    def _holder(self, output: str) -> Output | Removed:
        return self._snapshot.outputs.get(output) or self._snapshot.removed[output]

    def _merged(
        self, warehouse: Warehouse, aggregate: AggregateSettings, merge: Merge, old: AggregateFile
    ) -> pa.Table | None:
        """Old values with those of changed rows; None where they cannot be taken out of the old
        ones, or are not known.
        """
        if self._plus is None or (self._minus is not None and merge.forgets):
            return None
        sums = []
        for rows in (self._plus, self._minus):
            if rows is not None:
                warehouse.add_view(self._snapshot.pipeline, f"SELECT * FROM {rows}")
                warehouse.execute(
                    f"CREATE OR REPLACE TEMP TABLE {rows}_sums AS SELECT * FROM ({merge.sql})"
                )
                sums.append(f"{rows}_sums")
        kinds = {
            row["column_name"]: row["column_type"]
            for row in warehouse.query(f"DESCRIBE {sums[0]}").to_pylist()
        }
        if self._minus is not None and any(
            kinds[column] in ("DOUBLE", "FLOAT") for column in merge.sums
        ):
            return None  # what is added and taken out again leaves a rest
        casts = ", ".join(
            f"CAST({quoting.name(column)} AS {kind}) AS {quoting.name(column)}"
            for column, kind in kinds.items()
        )
        path = self._files.path(old.key, old.size_bytes)
        warehouse.add_view(
            _OLD,
            f"SELECT {casts} FROM read_parquet({quoting.texts([path])}, hive_partitioning = false)",
        )
        statement = merge.statement(_OLD, sums[0], sums[1] if len(sums) > 1 else None)
        return _stored(warehouse, f"SELECT * FROM ({statement}) {_order(aggregate)}")

    # -- groups ------------------------------------------------------------------------------------

    def _incremental(
        self, warehouse: Warehouse, aggregate: AggregateSettings, statement: str, old: AggregateFile
    ) -> pa.Table:
        """Touched groups anew, all others from the file before."""
        by = aggregate.by
        groups = ", ".join(
            f"{expression} AS {_group(i)}" for i, expression in enumerate(by.values())
        )
        warehouse.execute(
            f"CREATE OR REPLACE TEMP TABLE {_TOUCHED} AS SELECT DISTINCT {groups} FROM {_CHANGED}"
        )
        matches = " AND ".join(
            f"t.{_group(i)} IS NOT DISTINCT FROM ({expression})"
            for i, expression in enumerate(by.values())
        )
        same = " AND ".join(
            f"t.{_group(i)} IS NOT DISTINCT FROM o.{quoting.name(column)}"
            for i, column in enumerate(by)
        )
        warehouse.add_view(
            self._snapshot.pipeline,
            f"SELECT * FROM {_ALL} WHERE EXISTS (SELECT 1 FROM {_TOUCHED} t WHERE {matches})",
        )
        path = self._files.path(old.key, old.size_bytes)
        warehouse.add_view(
            _OLD, f"SELECT * FROM read_parquet({quoting.texts([path])}, hive_partitioning = false)"
        )
        return _stored(
            warehouse,
            f"SELECT * FROM ({statement}) UNION ALL BY NAME SELECT * FROM {_OLD} o WHERE NOT EXISTS"
            f" (SELECT 1 FROM {_TOUCHED} t WHERE {same}) {_order(aggregate)}",
        )

    def _checked(self, table: pa.Table, aggregate: AggregateSettings) -> pa.Table:
        for column in aggregate.by:
            if column not in table.column_names:
                raise SettingsError(
                    f"by={column!r} is not a column of its result ({', '.join(table.column_names)})"
                )
        return table

    def _add_changed_rows(self, warehouse: Warehouse) -> bool:
        """A view over every row that was added or ceased to count since the aggregates were
        committed. False if unknown.
        """
        changes = self._snapshot.changes
        holders = (
            _holders(self._snapshot, changes)
            if self._any_change() and not changes.everything
            else None
        )
        if self._has_changed is not None or holders is None:
            return bool(self._has_changed)
        self._add_all(warehouse)
        wanted = warehouse.columns(self._snapshot.schema)
        added = [
            f
            for output in dict.fromkeys(changes.added)
            for f in holders[output]
            if f.table == MAIN_TABLE
        ]
        gone_outputs = dict.fromkeys(output for output, _ in changes.gone)
        gone = [f for output in gone_outputs for f in holders[output] if f.table == MAIN_TABLE]
        warehouse.add_table(
            "_tidemill_gone", _pairs([("", key) for key in {key for _, key in changes.gone}])
        )
        # perhaps of other tasks, too
        is_gone = "WHERE EXISTS (SELECT 1 FROM _tidemill_gone g WHERE g.key = f._source_key)"
        parts = [
            *warehouse.scans(added, wanted),
            *(f"{scan} {is_gone}" for scan in warehouse.scans(gone, wanted)),
        ]
        warehouse.add_view(
            _CHANGED, " UNION ALL ".join(parts) or f"SELECT * FROM {_ALL} WHERE false"
        )
        self._has_changed = True
        return True


def _pairs(rows: Sequence[tuple[str, str]]) -> pa.Table:
    import pyarrow as pa

    tasks, keys = [task for task, _ in rows], [key for _, key in rows]
    return pa.table({"task": pa.array(tasks, pa.string()), "key": pa.array(keys, pa.string())})


def _holders(snapshot: Snapshot, changes: Changes) -> dict[str, list[OutputFile]] | None:
    """The files of every changed output, live or removed; None if one was vacuumed already."""
    found = {}
    for output in {*changes.added, *(output for output, _ in changes.gone)}:
        holder: Output | Removed | None = snapshot.outputs.get(output) or snapshot.removed.get(
            output
        )
        if holder is None:
            return None
        found[output] = holder.files
    return found


def _stored(warehouse: Warehouse, select: str) -> pa.Table:
    """The result in types that Parquet has; see `carried`."""
    return warehouse.query(select, carrier="parquet")


def encode(table: pa.Table) -> bytes:
    """An aggregate as Parquet."""
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def _group(i: int) -> str:
    """A name that no column of the user's has: within the comparison theirs must mean the outer
    row's.
    """
    return f"_tidemill_by{i}"


def _order(aggregate: AggregateSettings) -> str:
    return "ORDER BY " + ", ".join(f"{quoting.name(column)} NULLS LAST" for column in aggregate.by)


def _bare(statement: str) -> str:
    return statement.strip().rstrip(";")
