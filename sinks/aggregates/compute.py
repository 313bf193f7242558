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
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from pipeline.errors import SettingsError
from pipeline.model.commit import AggregateFile
from pipeline.model.receipt import OutputFile
from pipeline.model.settings import AggregateSettings
from pipeline.model.snapshot import Changes, Output, Removed, Snapshot
from pipeline.sql import quoting
from pipeline.sql.connection import UTC
from pipeline.state.state import State
from sinks.aggregates.changed_rows import Went, main_files, of_rows_in, rows_that_went
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
_PLUS = "_tidemill_plus"
_MINUS = "_tidemill_minus"
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
        with Warehouse(
            self._files, timezone=self._aggregates[0].timezone if self._aggregates else UTC
        ) as warehouse:
            warehouse.add_dimensions(self._dimensions)
            if self._any_change() and not self._snapshot.changes.everything:
                self._plus, self._minus = self._came_and_went(warehouse)
            return {one.name: self._next(warehouse, one) for one in self._aggregates}

    def _next(self, warehouse: Warehouse, aggregate: AggregateSettings) -> pa.Table | None:
        """One aggregate, which those after it may read."""
        name = aggregate.name
        try:
            table = self._one(warehouse, aggregate)
        except SettingsError as error:
            raise SettingsError(f"aggregate {name} of {self._snapshot.pipeline}: {error}") from None
        if table is not None:
            warehouse.add_table(name, table)
        else:
            warehouse.add_aggregate_file(name, self._snapshot.aggregates[name])
        return table

    def _one(self, warehouse: Warehouse, aggregate: AggregateSettings) -> pa.Table | None:
        old = self._committed(aggregate.name)
        if old is not None and not self._any_change():
            return None
        merge = None
        if not self._reads_others(aggregate):
            name = self._snapshot.pipeline
            merge = merge_of(warehouse.connection, aggregate.sql, name, aggregate.by)
            if old is not None:
                found = self._brought_up_to_date(warehouse, aggregate, merge, old)
                if found is not None:
                    return found
        return self._anew(warehouse, aggregate, _statement(aggregate, merge))

    def _anew(self, warehouse: Warehouse, aggregate: AggregateSettings, statement: str) -> pa.Table:
        self._add_all(warehouse)
        warehouse.add_view(self._snapshot.pipeline, f"SELECT * FROM {quoting.name(_ALL)}")
        return self._checked(_ordered(warehouse, statement, aggregate), aggregate)

    def _committed(self, name: str) -> AggregateFile | None:
        """The file before, if it is of the same definition."""
        old = self._snapshot.aggregates.get(name)
        return old if old is not None and old.definition == self._definitions[name] else None

    def _reads_others(self, aggregate: AggregateSettings) -> bool:
        return any(a is not aggregate and _names(aggregate.sql, a.name) for a in self._aggregates)

    def _brought_up_to_date(
        self,
        warehouse: Warehouse,
        aggregate: AggregateSettings,
        merge: Merge | None,
        old: AggregateFile,
    ) -> pa.Table | None:
        """The file before with what changed since; None where all is to be computed."""
        try:
            merged = self._merged(warehouse, aggregate, merge, old) if merge is not None else None
            if merged is not None:
                return merged
            if self._add_changed_rows(warehouse):
                return self._incremental(warehouse, aggregate, _statement(aggregate, merge), old)
        except SettingsError:
            pass  # say, the result's columns changed with the schema
        return None

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

        None, None where that is not known from what is at hand: an output that was merged or
        removed meanwhile.
        """
        snapshot, added = self._snapshot, self._snapshot.changes.added
        went = rows_that_went(snapshot)
        if went is None or any(output not in snapshot.outputs for output in added):
            return None, None
        come = {output: snapshot.outputs[output] for output in added}
        warehouse.add_snapshot(msgspec.structs.replace(snapshot, outputs=come), view=_PLUS)
        if not any(some.pairs for some in went):
            return _PLUS, None
        self._add_minus(warehouse, went)
        return _PLUS, _MINUS

    def _add_minus(self, warehouse: Warehouse, went: Sequence[Went]) -> None:
        wanted = warehouse.columns(self._snapshot.schema)
        minus: list[str] = []
        for i, some in enumerate(went):
            gone = warehouse.add_table(f"_tidemill_went_{i}", _pairs(some.pairs))
            holders = {output: self._holder(output).files for output in some.outputs}
            minus += of_rows_in(gone, warehouse.scans(main_files(holders, holders), wanted))
        nothing = f"SELECT * FROM {_PLUS} WHERE false"
        warehouse.add_view(_MINUS, " UNION ALL ".join(minus) or nothing)

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
        plus = self._add_sums(warehouse, self._plus, merge)
        minus = None if self._minus is None else self._add_sums(warehouse, self._minus, merge)
        kinds = _kinds(warehouse, plus)
        if minus is not None and not merge.is_exact(kinds):
            return None
        self._add_old(warehouse, old, _casts(kinds))
        statement = merge.statement(_OLD, plus, minus)
        return _ordered(warehouse, statement, aggregate)

    def _add_sums(self, warehouse: Warehouse, rows: str, merge: Merge) -> str:
        """A table of the aggregate over some rows alone; its name."""
        warehouse.add_view(self._snapshot.pipeline, f"SELECT * FROM {rows}")
        warehouse.execute(
            f"CREATE OR REPLACE TEMP TABLE {rows}_sums AS SELECT * FROM ({merge.sql})"
        )
        return f"{rows}_sums"

    def _add_old(self, warehouse: Warehouse, old: AggregateFile, columns: str = "*") -> None:
        """A view of the file before."""
        path = quoting.texts([self._files.path(old.key, old.size_bytes)])
        warehouse.add_view(
            _OLD, f"SELECT {columns} FROM read_parquet({path}, hive_partitioning = false)"
        )

    # -- groups ------------------------------------------------------------------------------------

    def _incremental(
        self, warehouse: Warehouse, aggregate: AggregateSettings, statement: str, old: AggregateFile
    ) -> pa.Table:
        """Touched groups from scratch, all others from the file before."""
        self._add_touched(warehouse, aggregate)
        self._add_old(warehouse, old)
        same = _same_group(f"o.{quoting.name(column)}" for column in aggregate.by)
        return _stored(
            warehouse,
            f"SELECT * FROM ({statement}) UNION ALL BY NAME SELECT * FROM {_OLD} o WHERE NOT EXISTS"
            f" (SELECT 1 FROM {_TOUCHED} t WHERE {same}) {_order(aggregate)}",
        )

    def _add_touched(self, warehouse: Warehouse, aggregate: AggregateSettings) -> None:
        """The groups of changed rows, and in place of the table all rows of these groups."""
        by = aggregate.by.values()
        groups = ", ".join(f"{one} AS {_group(i)}" for i, one in enumerate(by))
        warehouse.execute(
            f"CREATE OR REPLACE TEMP TABLE {_TOUCHED} AS SELECT DISTINCT {groups} FROM {_CHANGED}"
        )
        matches = _same_group(f"({expression})" for expression in by)
        warehouse.add_view(
            self._snapshot.pipeline,
            f"SELECT * FROM {_ALL} WHERE EXISTS (SELECT 1 FROM {_TOUCHED} t WHERE {matches})",
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
        parts = self._changed_scans(warehouse, holders)
        warehouse.add_view(
            _CHANGED, " UNION ALL ".join(parts) or f"SELECT * FROM {_ALL} WHERE false"
        )
        self._has_changed = True
        return True

    def _changed_scans(
        self, warehouse: Warehouse, holders: Mapping[str, list[OutputFile]]
    ) -> list[str]:
        changes, wanted = self._snapshot.changes, warehouse.columns(self._snapshot.schema)
        keys = {key for _, key in changes.gone}
        warehouse.add_table("_tidemill_gone", _pairs([("", key) for key in keys]))
        # perhaps of other tasks, too
        is_gone = "WHERE EXISTS (SELECT 1 FROM _tidemill_gone g WHERE g.key = f._source_key)"
        added = main_files(holders, changes.added)
        gone = main_files(holders, (output for output, _ in changes.gone))
        return [
            *warehouse.scans(added, wanted),
            *(f"{scan} {is_gone}" for scan in warehouse.scans(gone, wanted)),
        ]


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


def _ordered(warehouse: Warehouse, statement: str, aggregate: AggregateSettings) -> pa.Table:
    return _stored(warehouse, f"SELECT * FROM ({statement}) {_order(aggregate)}")


def encode(table: pa.Table) -> bytes:
    """An aggregate as Parquet."""
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def _kinds(warehouse: Warehouse, table: str) -> dict[str, str]:
    columns = warehouse.query(f"DESCRIBE {table}").to_pylist()
    return {column["column_name"]: column["column_type"] for column in columns}


def _casts(kinds: Mapping[str, str]) -> str:
    return ", ".join(
        f"CAST({quoting.name(column)} AS {kind}) AS {quoting.name(column)}"
        for column, kind in kinds.items()
    )


def _same_group(expressions: Iterable[str]) -> str:
    """Whether a touched group has these values."""
    return " AND ".join(
        f"t.{_group(i)} IS NOT DISTINCT FROM {one}" for i, one in enumerate(expressions)
    )


def _group(i: int) -> str:
    """A name that no column of the user's has: within the comparison theirs must mean the outer
    row's.
    """
    return f"_tidemill_by{i}"


def _order(aggregate: AggregateSettings) -> str:
    return "ORDER BY " + ", ".join(f"{quoting.name(column)} NULLS LAST" for column in aggregate.by)


def _statement(aggregate: AggregateSettings, merge: Merge | None) -> str:
    return _bare(aggregate.sql) if merge is None else merge.sql


def _bare(statement: str) -> str:
    return statement.strip().rstrip(";")
