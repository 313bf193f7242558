"""What differs between two states of a table, in the terms of SQL: columns, rows, aggregates.

Nothing is written.

Rows have no identity of their own, so they are compared as what they are: a row that only one side
has came or went, and where both happened within one source, it changed. With key columns, rows of
one key are the same row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import SettingsError
from pipeline.model.settings import AggregateSettings
from pipeline.model.snapshot import Snapshot
from pipeline.sql import quoting
from pipeline.sql.connection import UTC
from sinks.query.diff_sql import (
    SIDES,
    groups_counted,
    groups_side_by_side,
    rows_changed,
    rows_side_by_side,
)
from sinks.query.dimensions import Dimension
from sinks.query.object_files import Files
from sinks.query.warehouse import Warehouse
from sinks.results.exact_text import parsed_rows
from sinks.values.schema import PROVENANCE

if TYPE_CHECKING:
    import pyarrow as pa

_COUNTS = "count(*) FILTER (_side = 'before') AS b, count(*) FILTER (_side = 'after') AS a"


@dataclass(slots=True, kw_only=True)
class AggregateDiff:
    """One aggregate on both sides: the groups that differ, and the first of them side by side."""

    name: str
    groups: int
    differing: int
    examples: list[dict[str, Any]]
    """Group columns as they are; every other column `c` as `c` (before) and `c (after)`."""
    problem: str = ""
    """Why it could not be compared, say for a column that one side lacks."""


@dataclass(slots=True, kw_only=True)
class Diff:
    """Two states of one table, compared on the sources that both have at the same version."""

    sources: int
    sources_elsewhere: int
    """Sources that only one side has, or that it has at another version: their rows are not
    compared.
    """
    columns_added: dict[str, str] = field(default_factory=dict)
    columns_gone: dict[str, str] = field(default_factory=dict)
    types_changed: dict[str, tuple[str, str]] = field(default_factory=dict)
    rows_before: int = 0
    rows_after: int = 0
    added: int = 0
    gone: int = 0
    changed: int = 0
    values_changed: dict[str, int] = field(default_factory=dict)
    """Column -> rows whose value differs; only columns with any."""
    sources_changed: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)
    """Rows that only one side has, with `_side`, those of one source beside each other.

    With key columns one row for each key: `_change` (changed, gone, added), the key, and of every
    other column that differs in one of them `c` and `c (after)`.
    """
    aggregates: list[AggregateDiff] = field(default_factory=list)

    @property
    def is_same(self) -> bool:
        """Whether nothing differs in what was compared."""
        columns = self.columns_added or self.columns_gone or self.types_changed
        differing = any(a.differing or a.problem for a in self.aggregates)
        return not (columns or self.added or self.gone or self.changed or differing)


class Differ:
    """Compares two snapshots of one pipeline. Use it as a context manager."""

    def __init__(
        self,
        files: Files,
        before: Snapshot,
        after: Snapshot,
        dimensions: Sequence[Dimension] = (),
        *,
        memory_mb: int | None = None,
        timezone: str = UTC,
    ) -> None:
        self._name = after.pipeline
        self._computed: dict[str, str] = {}
        self.warehouse: Warehouse = Warehouse(files, memory_mb=memory_mb, timezone=timezone)
        self.warehouse.add_dimensions(dimensions)
        for side, snapshot in zip(SIDES, (before, after), strict=True):
            self.warehouse.add_snapshot(snapshot, view=f"_tidemill_{side}_all")
        self._columns = [self._described(f"_tidemill_{side}_all") for side in SIDES]

    def __enter__(self) -> Differ:
        return self

    def __exit__(self, *_: object) -> None:
        self.warehouse.close()

    def compare(
        self,
        aggregates: Sequence[AggregateSettings] = (),
        *,
        key: Sequence[str] = (),
        examples: int = 5,
    ) -> Diff:
        """The difference. Raises SettingsError for key columns that one side lacks."""
        found = self._sources()
        common = self._compare_columns(found)
        _require_columns(key, common)
        self._pair(common)
        if key:
            self._by_key(found, common, list(key))
            found.examples = self._keyed_examples(common, list(key), examples)
        else:
            self._by_source(found, common)
            found.examples = self._paired_examples(common, examples)
        for i, aggregate in enumerate(aggregates):
            found.aggregates.append(self._aggregate_or_problem(aggregate, f"sums{i}", examples))
        return found

    # -- what is compared --------------------------------------------------------------------------

    def _compare_columns(self, found: Diff) -> list[str]:
        """Say which differ; those that both sides have."""
        before, after = self._columns
        found.columns_added = {name: kind for name, kind in after.items() if name not in before}
        found.columns_gone = {name: kind for name, kind in before.items() if name not in after}
        common = [name for name in after if name in before]
        found.types_changed = {
            name: (before[name], after[name]) for name in common if before[name] != after[name]
        }
        return common

    def _described(self, view: str) -> dict[str, str]:
        rows = self.warehouse.query(f"DESCRIBE {view}").to_pylist()
        return {
            row["column_name"]: row["column_type"]
            for row in rows
            if row["column_name"] not in PROVENANCE
        }

    def _sources(self) -> Diff:
        """Restrict both sides to the sources that both have at the same version."""
        same, every = self._count_sources()
        for side in SIDES:
            is_same = "(_source_key, _source_etag) IN (SELECT (k, e) FROM _tidemill.same)"
            self.warehouse.execute(
                f"CREATE VIEW _tidemill.{side} AS SELECT * FROM main._tidemill_{side}_all WHERE"
                f" {is_same}"
            )
        [rows] = self._rows(
            "SELECT (SELECT count(*) FROM _tidemill.before) AS b, (SELECT count(*) FROM"
            " _tidemill.after) AS a"
        )
        return Diff(
            sources=same,
            sources_elsewhere=every - same,
            rows_before=int(rows["b"]),
            rows_after=int(rows["a"]),
        )

    def _count_sources(self) -> tuple[int, int]:
        """Those that both have at the same version, which become a table, and all."""
        versions = "SELECT DISTINCT _source_key AS k, _source_etag AS e FROM _tidemill_{side}_all"
        both = " INTERSECT ".join(versions.format(side=side) for side in SIDES)
        either = " UNION ".join(versions.format(side=side) for side in SIDES)
        self.warehouse.execute(f"CREATE TABLE _tidemill.same AS {both}")
        [n] = self._rows(
            "SELECT (SELECT count(*) FROM _tidemill.same) AS same, count(DISTINCT k) AS every FROM"
            f" ({either})"
        )
        return int(n["same"]), int(n["every"])

    def _pair(self, common: Sequence[str]) -> None:
        """`only`: rows, by their common columns, that one side has more often than the other."""
        before, after = self._columns
        sides = []
        for side in SIDES:
            columns = [_as_after(name, before[name], after[name]) for name in common]
            sides.append(f"SELECT {', '.join(['_source_key', *columns])} FROM _tidemill.{side}")
        gone, come = " EXCEPT ALL ".join(sides), " EXCEPT ALL ".join(reversed(sides))
        self.warehouse.execute(
            f"CREATE TABLE _tidemill.only AS SELECT 'before' AS _side, * FROM ({gone})"
            f" UNION ALL SELECT 'after' AS _side, * FROM ({come})"
        )

    # -- rows --------------------------------------------------------------------------------------

    def _by_source(self, found: Diff, common: Sequence[str]) -> None:
        """Within a source, as many rows changed as both came and went."""
        [n] = self._rows(
            "SELECT coalesce(sum(least(b, a)), 0)::BIGINT AS changed, coalesce(sum(b - least(b,"
            " a)), 0)::BIGINT AS gone, coalesce(sum(a - least(b, a)), 0)::BIGINT AS added,"
            f" count(*) AS sources FROM (SELECT {_COUNTS} FROM _tidemill.only GROUP BY _source_key)"
        )
        found.changed, found.gone, found.added, found.sources_changed = (
            n["changed"],
            n["gone"],
            n["added"],
            n["sources"],
        )
        for column in common if found.changed else ():
            values = (
                f"SELECT _source_key AS k, {quoting.name(column)} AS v, {_COUNTS} FROM"
                " _tidemill.only GROUP BY ALL"
            )
            surplus = (
                f"SELECT sum(greatest(b - a, 0)) AS b, sum(greatest(a - b, 0)) AS a FROM ({values})"
                " GROUP BY k"
            )
            [differing] = self._rows(
                f"SELECT coalesce(sum(least(b, a)), 0)::BIGINT AS n FROM ({surplus})"
            )
            if differing["n"]:
                found.values_changed[column] = differing["n"]

    def _by_key(self, found: Diff, common: Sequence[str], key: list[str]) -> None:
        self._require_unique(key)
        rest = [column for column in common if column not in key]
        [n] = self._rows(rows_changed(key, rest))
        [all_of] = self._rows(
            f"SELECT {_COUNTS}, count(DISTINCT _source_key) AS sources FROM _tidemill.only"
        )
        found.changed = n.pop("_changed")
        found.gone, found.added = all_of["b"] - found.changed, all_of["a"] - found.changed
        found.sources_changed = all_of["sources"]
        found.values_changed = {column: differing for column, differing in n.items() if differing}

    def _require_unique(self, key: list[str]) -> None:
        names = ", ".join(quoting.name(column) for column in key)
        for side in SIDES:
            twice = self._examples(
                f"SELECT {names} FROM _tidemill.{side} GROUP BY {names} HAVING count(*) > 1 LIMIT 1"
            )
            if twice:
                one = ", ".join(f"{column}={value!r}" for column, value in twice[0].items())
                raise SettingsError(
                    f"--key {' --key '.join(key)} does not tell rows apart: several have {one}"
                )

    def _keyed_examples(
        self, common: Sequence[str], key: list[str], examples: int
    ) -> list[dict[str, Any]]:
        """Before and after of a key in one row; of other columns only those that differ in one of
        the examples.
        """
        rest = [column for column in common if column not in key]
        found = self._examples(rows_side_by_side(key, rest, examples))
        places = {"_change": "_change"} | {column: column for column in key}
        for i, column in enumerate(rest):
            if any(row[f"_d{i}"] for row in found):
                places |= {column: f"_b{i}", f"{column} (after)": f"_a{i}"}
        return [{name: row[at] for name, at in places.items()} for row in found]

    def _paired_examples(self, common: Sequence[str], examples: int) -> list[dict[str, Any]]:
        """The first row that went of a source beside the first that came, then the second ones, and
        so on.
        """
        order = ", ".join(map(quoting.name, common)) or "1"
        place = f"row_number() OVER (PARTITION BY _source_key, _side ORDER BY {order})"
        return self._examples(
            f"SELECT * EXCLUDE (_place) FROM (SELECT *, {place} AS _place FROM _tidemill.only)"
            f" ORDER BY _source_key, _place, _side DESC LIMIT {examples}"
        )

    # -- aggregates --------------------------------------------------------------------------------

    def _aggregate(self, aggregate: AggregateSettings, table: str, examples: int) -> AggregateDiff:
        """The aggregate's SQL on both sides, joined by its groups. It may read those before it."""
        for side in SIDES:
            self._compute(aggregate, side, table)
        columns = [
            row["column_name"]
            for row in self.warehouse.query(f"DESCRIBE _tidemill.after_{table}").to_pylist()
        ]
        by = [column for column in aggregate.by if column in columns]
        values = [column for column in columns if column not in by]
        [n] = self._rows(groups_counted(table, by, values))
        some = self._examples(groups_side_by_side(table, by, values, examples))
        return AggregateDiff(
            name=aggregate.name, groups=n["every"], differing=n["differing"], examples=some
        )

    def _aggregate_or_problem(
        self, aggregate: AggregateSettings, table: str, examples: int
    ) -> AggregateDiff:
        try:
            found = self._aggregate(aggregate, table, examples)
        except SettingsError as error:
            return AggregateDiff(
                name=aggregate.name, groups=0, differing=0, examples=[], problem=str(error)
            )
        self._computed[aggregate.name] = table
        return found

    def _compute(self, aggregate: AggregateSettings, side: str, table: str) -> None:
        """A table of the aggregate over one side's rows."""
        self.warehouse.add_view(self._name, f"SELECT * FROM _tidemill.{side}")
        for name, computed in self._computed.items():
            self.warehouse.add_view(name, f"SELECT * FROM _tidemill.{side}_{computed}")
        bare = aggregate.sql.strip().rstrip(";")
        try:
            self.warehouse.execute(
                f"CREATE TABLE _tidemill.{side}_{table} AS SELECT * FROM ({bare})"
            )
        except SettingsError as error:
            raise SettingsError(f"{side}: {error}") from None

    def _examples(self, statement: str) -> list[dict[str, Any]]:
        """Rows with every value as `--format json` has it: no value is bent, or too
        far for Python.
        """
        found: list[dict[str, Any]] = []
        with self.warehouse.open_query(statement, carrier="text") as result:
            for batch in result:
                found += parsed_rows(result.kinds, batch)
        return found

    def _rows(self, statement: str) -> list[dict[str, Any]]:
        table: pa.Table = self.warehouse.query(statement)
        found: list[dict[str, Any]] = table.to_pylist()
        return found


def _require_columns(key: Sequence[str], common: Sequence[str]) -> None:
    for column in key:
        if column not in common:
            raise SettingsError(
                f"--key {column!r} is not a column of both sides ({', '.join(common)})"
            )


def _as_after(column: str, before: str, after: str) -> str:
    """A column in a type that both sides can be compared in."""
    kind = "VARCHAR" if "NULL" in (before, after) else after
    return (
        quoting.name(column)
        if before == after
        else f"TRY_CAST({quoting.name(column)} AS {kind}) AS {quoting.name(column)}"
    )
