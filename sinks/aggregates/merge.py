"""Aggregates whose committed values can be brought up to date by changed rows alone: counts, sums,
means, extremes.

Decided on DuckDB's parse tree. To the aggregate's SQL are added what a merge needs besides: how
many rows and values went into each group. Those columns are stored in its file under names that
begin with HIDDEN, and no reader sees them. Only one SELECT with GROUP BY over the `by` columns is
merged, without HAVING, DISTINCT, joins and subqueries; of anything else the groups are computed
anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.sql import quoting as sql
from pipeline.sql.parse_tree import objects, parse_tree
from pipeline.sql.quoting import HIDDEN

if TYPE_CHECKING:
    import duckdb

ROWS = f"{HIDDEN}rows"
_KNOWN = {
    "count_star": "count",
    "count": "count",
    "sum": "sum",
    "avg": "avg",
    "min": "least",
    "max": "greatest",
}
_PLAIN_NODE = {
    "type",
    "cte_map",
    "select_list",
    "from_table",
    "where_clause",
    "group_expressions",
    "group_sets",
    "aggregate_handling",
}
_PLACES = ("query_location", "query_location_length", "alias")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the result. count, total: hidden columns beside a sum or a mean."""

    name: str
    kind: Literal["count", "sum", "avg", "least", "greatest"]
    count: str = ""
    total: str = ""


@dataclass(frozen=True, slots=True)
class Merge:
    """How an aggregate is brought up to date. sql: the statement with hidden columns."""

    sql: str
    by: tuple[str, ...]
    columns: tuple[Column, ...]

    def statement(self, old: str, plus: str, minus: str | None) -> str:
        """SQL over three tables of the result's shape: as committed, of rows that came, of rows
        that went (None: none did).
        """
        parts = [("o", old), ("p", plus), *([("m", minus)] if minus is not None else [])]
        groups = " UNION ".join(f"SELECT {self._groups()} FROM {table}" for _, table in parts)
        joins = " ".join(
            f"LEFT JOIN {table} {alias} ON {self._same(alias)}" for alias, table in parts
        )
        groups_shown = ", ".join(f"g.{sql.name(column)}" for column in self.by)
        shown = ", ".join(self._merged(column, minus is not None) for column in self.columns)
        hidden = ", ".join(
            f"{_sum(name, minus is not None)} AS {sql.name(name)}" for name in self._hidden()
        )
        return (
            f"SELECT {groups_shown}, {shown}, {hidden} FROM ({groups}) g {joins} WHERE"
            f" {_sum(ROWS, minus is not None)} > 0"
        )

    @property
    def forgets(self) -> bool:
        """Whether rows that went cannot be taken out again: the next least value is not known."""
        return any(column.kind in ("least", "greatest") for column in self.columns)

    @property
    def sums(self) -> list[str]:
        """Columns that must be exact for rows to be taken out."""
        return [
            column.total or column.name for column in self.columns if column.kind in ("sum", "avg")
        ]

    def _hidden(self) -> list[str]:
        return [
            ROWS,
            *(name for column in self.columns for name in (column.count, column.total) if name),
        ]

    def _groups(self) -> str:
        return ", ".join(sql.name(column) for column in self.by)

    def _same(self, alias: str) -> str:
        return " AND ".join(
            f"g.{sql.name(c)} IS NOT DISTINCT FROM {alias}.{sql.name(c)}" for c in self.by
        )

    def _merged(self, column: Column, minus: bool) -> str:
        name = sql.name(column.name)
        if column.kind == "count":
            return f"{_sum(column.name, minus)} AS {name}"
        if column.kind == "sum":
            return (
                f"CASE WHEN {_sum(column.count, minus)} > 0 THEN {_sum(column.name, minus)} END AS"
                f" {name}"
            )
        if column.kind == "avg":
            n = _sum(column.count, minus)
            return f"CASE WHEN {n} > 0 THEN {_sum(column.total, minus)}::DOUBLE / {n} END AS {name}"
        return f"{column.kind}(o.{name}, p.{name}) AS {name}"


def _sum(column: str, minus: bool) -> str:
    name = sql.name(column)
    gone = f" - coalesce(m.{name}, 0)" if minus else ""
    return f"(coalesce(o.{name}, 0) + coalesce(p.{name}, 0){gone})"


def merge_of(
    connection: duckdb.DuckDBPyConnection, statement: str, table: str, by: Mapping[str, str]
) -> Merge | None:
    """How this statement over `table` is merged; None where it is not."""
    bare = statement.strip().rstrip(";")
    tree = parse_tree(connection, bare)
    if tree.get("error") or len(tree.get("statements", ())) != 1:
        return None
    node = tree["statements"][0].get("node", {})
    columns = _columns(node, table, by)
    made = _with_hidden(bare, node["select_list"], columns) if columns is not None else None
    if columns is None or made is None or not _is_same_but_for(connection, made, node, columns):
        return None
    return Merge(made, tuple(by), tuple(columns))


def _with_hidden(bare: str, items: list[Any], columns: list[Column]) -> str | None:
    """The text with the hidden columns before its last column, so that no group gets another place.

    None where a column's own text is not known.
    """
    text, by_name = bare.encode(), {name_of(item): item for item in items}
    hidden = [f"count(*) AS {sql.name(ROWS)}"]
    for column in columns:
        for name, function in ((column.count, "count"), (column.total, "sum")):
            if name:
                arguments = _text_of(text, by_name[column.name]).partition(b"(")[2].decode()
                hidden.append(f"{function}({arguments} AS {sql.name(name)}")
    last = items[-1].get("query_location")
    if last is None:
        return None
    return f"{text[:last].decode()}{', '.join(hidden)}, {text[last:].decode()}"


def _text_of(text: bytes, item: Mapping[str, Any]) -> bytes:
    start = item.get("query_location", 0)
    return text[start : start + item.get("query_location_length", 0)]


def _is_same_but_for(
    connection: duckdb.DuckDBPyConnection,
    made: str,
    node: Mapping[str, Any],
    columns: list[Column],
) -> bool:
    """Whether a text says what the statement said, with the hidden columns besides."""
    tree = parse_tree(connection, made)
    if tree.get("error") or len(tree.get("statements", ())) != 1:
        return False
    new = tree["statements"][0].get("node", {})
    items = new.get("select_list", [])
    shown = [item for item in items if not name_of(item).startswith(HIDDEN)]
    names = {name_of(item): item for item in items}
    before = {name_of(item): item for item in node["select_list"]}
    return (
        _shape({**new, "select_list": []}) == _shape({**node, "select_list": []})
        and [(name_of(item), _shape(item)) for item in shown]
        == [(name_of(item), _shape(item)) for item in node["select_list"]]
        and len(items) - len(shown) == 1 + sum(bool(c.count) + bool(c.total) for c in columns)
        and names.get(ROWS, {}).get("function_name") == "count_star"
        and all(
            _is_of(names.get(name, {}), function, before[column.name])
            for column in columns
            for name, function in ((column.count, "count"), (column.total, "sum"))
            if name
        )
    )


def _is_of(item: Mapping[str, Any], function: str, of: Mapping[str, Any]) -> bool:
    """Whether this is the function over what another one is over."""
    over = ("arguments", "filter", "distinct")
    return item.get("function_name") == function and all(
        _shape(item.get(part)) == _shape(of.get(part)) for part in over
    )


def _columns(node: Mapping[str, Any], table: str, by: Mapping[str, str]) -> list[Column] | None:
    source = node.get("from_table", {})
    plain = node.get("type") == "SELECT_NODE" and {k for k, v in node.items() if v} <= _PLAIN_NODE
    if (
        not plain
        or source.get("type") != "BASE_TABLE"
        or source.get("sample")
        or node.get("cte_map")
    ):
        return None
    if [str(part).lower() for part in source.get("qualified_name", {}).get("path", ())] != [
        table.lower()
    ]:
        return None
    if any(part.get("class") in ("SUBQUERY", "WINDOW", "STAR") for part in objects(node)):
        return None
    groups = {name: item for item in node["select_list"] if (name := name_of(item)) in by}
    rest = [item for item in node["select_list"] if name_of(item) not in by]
    if set(groups) != set(by) or not _groups_by(node, groups):
        return None
    columns = [_column(item, i) for i, item in enumerate(rest)]
    found = [column for column in columns if column is not None]
    names = [name_of(item) for item in node["select_list"]]
    return found if found and len(found) == len(columns) and len(set(names)) == len(names) else None


def _column(item: Mapping[str, Any], i: int) -> Column | None:
    kind, name = _KNOWN.get(str(item.get("function_name"))), item.get("alias")
    usual = (
        not item.get("distinct")
        and not item.get("order_bys", {}).get("orders")
        and not item.get("is_operator")
    )
    if (
        item.get("class") != "FUNCTION"
        or kind is None
        or not name
        or not usual
        or len(item.get("arguments", ())) > 1
    ):
        return None
    count = f"{HIDDEN}count{i}" if kind in ("sum", "avg") else ""
    return Column(str(name), kind, count, f"{HIDDEN}total{i}" if kind == "avg" else "")  # type: ignore[arg-type]


def _groups_by(node: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the statement's groups are just these columns of its result."""
    if any(item.get("function_name") in _KNOWN for item in groups.values()):
        return False
    if node.get("aggregate_handling") == "FORCE_AGGREGATES":  # GROUP BY ALL
        return True
    expressions = node.get("group_expressions", [])
    if len(node.get("group_sets", [[]])) != 1 or len(expressions) != len(groups):
        return False
    named = {}
    for expression in expressions:
        for name, item in groups.items():
            by_name = (
                expression.get("class") == "COLUMN_REF" and expression["column_names"][-1] == name
            )
            position = (
                expression.get("literal", {}).get("text")
                if expression.get("class") == "CONSTANT"
                else None
            )
            by_place = (
                position is not None
                and node["select_list"][int(position) - 1] is item
                and item is not node["select_list"][-1]
            )
            if by_name or by_place or _shape(expression) == _shape(item):
                named[name] = expression
    return set(named) == set(groups)


def name_of(item: Mapping[str, Any]) -> str:
    """What the column is called in the result; empty where DuckDB makes up a name."""
    if item.get("alias"):
        return str(item["alias"])
    return str(item["column_names"][-1]) if item.get("class") == "COLUMN_REF" else ""


def _shape(value: object) -> object:
    """An expression without its place in the text."""
    if isinstance(value, dict):
        return {key: _shape(one) for key, one in value.items() if key not in _PLACES}
    return [_shape(one) for one in value] if isinstance(value, list) else value
