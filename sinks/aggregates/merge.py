"""Aggregates whose committed values can be brought up to date by changed rows alone: counts, sums,
means, extremes.

Decided on DuckDB's parse tree. To the aggregate's SQL are added what a merge needs besides: how
many rows and values went into each group. Those columns are stored in its file under names that
begin with HIDDEN, and no reader sees them. Only one SELECT with GROUP BY over the `by` columns is
merged, without HAVING, DISTINCT, joins and subqueries; of anything else the groups are computed
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.sql import quoting as sql
from pipeline.sql.parse_tree import objects, parse_tree
from pipeline.sql.quoting import HIDDEN
from sinks.query.allowed_sql import only_node

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
        some_went = minus is not None
        parts = [("o", old), ("p", plus), *([("m", minus)] if some_went else [])]
        groups = " UNION ".join(f"SELECT {self._groups()} FROM {table}" for _, table in parts)
        joins = " ".join(
            f"LEFT JOIN {table} {alias} ON {self._same(alias)}" for alias, table in parts
        )
        return (
            f"SELECT {self._shown(some_went)} FROM ({groups}) g {joins} WHERE"
            f" {_sum(ROWS, some_went)} > 0"
        )

    def _shown(self, minus: bool) -> str:
        """The result's columns, hidden ones last."""
        groups = [f"g.{sql.name(column)}" for column in self.by]
        merged = [self._merged(column, minus) for column in self.columns]
        hidden = [f"{_sum(name, minus)} AS {sql.name(name)}" for name in self._hidden()]
        return ", ".join([*groups, *merged, *hidden])

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

    def is_exact(self, kinds: Mapping[str, str]) -> bool:
        """Whether what is added and taken out again leaves no rest. kinds: the columns' types."""
        return not any(kinds[column] in ("DOUBLE", "FLOAT") for column in self.sums)

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
        n = _sum(column.count, minus)
        if column.kind == "sum":
            return f"CASE WHEN {n} > 0 THEN {_sum(column.name, minus)} END AS {name}"
        if column.kind == "avg":
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
    node = only_node(parse_tree(connection, bare))
    columns = _columns(node, table, by) if node is not None else None
    if node is None or columns is None:
        return None
    made = _with_hidden(bare, node["select_list"], columns)
    if made is None or not _is_same_but_for(connection, made, node, columns):
        return None
    return Merge(made, tuple(by), tuple(columns))


def _with_hidden(bare: str, items: list[Any], columns: list[Column]) -> str | None:
    """The text with the hidden columns before its last column, so that no group gets another place.

    None where a column's own text is not known.
    """
    text = bare.encode()
    hidden = [f"count(*) AS {sql.name(ROWS)}", *_hidden_sql(text, items, columns)]
    last = items[-1].get("query_location")
    if last is None:
        return None
    return f"{text[:last].decode()}{', '.join(hidden)}, {text[last:].decode()}"


def _hidden_sql(text: bytes, items: list[Any], columns: list[Column]) -> Iterator[str]:
    by_name = {name_of(item): item for item in items}
    for column, name, function in _beside(columns):
        arguments = _text_of(text, by_name[column.name]).partition(b"(")[2].decode()
        yield f"{function}({arguments} AS {sql.name(name)}"


def _beside(columns: Iterable[Column]) -> Iterator[tuple[Column, str, str]]:
    """Every hidden column: beside which one, its name, and its function."""
    for column in columns:
        for name, function in ((column.count, "count"), (column.total, "sum")):
            if name:
                yield column, name, function


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
    new = only_node(parse_tree(connection, made))
    if new is None:
        return False
    items, before = new.get("select_list", []), node["select_list"]
    shown = [item for item in items if not name_of(item).startswith(HIDDEN)]
    return (
        _but_for_columns(new) == _but_for_columns(node)
        and _named_shapes(shown) == _named_shapes(before)
        and len(items) == len(shown) + 1 + len([*_beside(columns)])
        and _are_beside(items, before, columns)
    )


def _but_for_columns(node: Mapping[str, Any]) -> object:
    return _shape({**node, "select_list": []})


def _named_shapes(items: Iterable[Mapping[str, Any]]) -> list[tuple[str, object]]:
    return [(name_of(item), _shape(item)) for item in items]


def _are_beside(
    items: Iterable[Mapping[str, Any]],
    items_before: Iterable[Mapping[str, Any]],
    columns: list[Column],
) -> bool:
    """Whether the hidden columns are the count of rows, and functions over what their columns are
    over.
    """
    hidden = {name_of(item): item for item in items}
    before = {name_of(item): item for item in items_before}
    return hidden.get(ROWS, {}).get("function_name") == "count_star" and all(
        _is_of(hidden.get(name, {}), function, before[column.name])
        for column, name, function in _beside(columns)
    )


def _is_of(item: Mapping[str, Any], function: str, of: Mapping[str, Any]) -> bool:
    """Whether this is the function over what another one is over."""
    over = ("arguments", "filter", "distinct")
    return item.get("function_name") == function and all(
        _shape(item.get(part)) == _shape(of.get(part)) for part in over
    )


def _columns(node: Mapping[str, Any], table: str, by: Mapping[str, str]) -> list[Column] | None:
    if not _is_plain(node) or not _reads(node.get("from_table", {}), table):
        return None
    items = node["select_list"]
    groups = {name: item for item in items if (name := name_of(item)) in by}
    if set(groups) != set(by) or not _groups_by(node, groups):
        return None
    if len({name_of(item) for item in items}) < len(items):
        return None
    return _all_known(items, by)


def _all_known(items: Sequence[Mapping[str, Any]], by: Mapping[str, str]) -> list[Column] | None:
    """The columns beside the groups, if each can be merged."""
    rest = [item for item in items if name_of(item) not in by]
    columns = [_column(item, i) for i, item in enumerate(rest)]
    found = [column for column in columns if column is not None]
    return found if found and len(found) == len(columns) else None


def _is_plain(node: Mapping[str, Any]) -> bool:
    """Whether the query has nothing but columns, a table, a condition and groups."""
    said = {key for key, value in node.items() if value}
    if node.get("type") != "SELECT_NODE" or not said <= _PLAIN_NODE or node.get("cte_map"):
        return False
    return not any(part.get("class") in ("SUBQUERY", "WINDOW", "STAR") for part in objects(node))


def _reads(source: Mapping[str, Any], table: str) -> bool:
    """Whether this is the table, all of it."""
    path = [str(part).lower() for part in source.get("qualified_name", {}).get("path", ())]
    is_whole = source.get("type") == "BASE_TABLE" and not source.get("sample")
    return is_whole and path == [table.lower()]


def _column(item: Mapping[str, Any], i: int) -> Column | None:
    kind, name = _KNOWN.get(str(item.get("function_name"))), item.get("alias")
    if kind is None or not name or not _is_usual(item):
        return None
    count = f"{HIDDEN}count{i}" if kind in ("sum", "avg") else ""
    return Column(str(name), kind, count, f"{HIDDEN}total{i}" if kind == "avg" else "")  # type: ignore[arg-type]


def _is_usual(item: Mapping[str, Any]) -> bool:
    """Whether this is a function of at most one argument, with nothing said besides."""
    return (
        item.get("class") == "FUNCTION"
        and not item.get("distinct")
        and not item.get("order_bys", {}).get("orders")
        and not item.get("is_operator")
        and len(item.get("arguments", ())) <= 1
    )


def _groups_by(node: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the statement's groups are just these columns of its result."""
    if any(item.get("function_name") in _KNOWN for item in groups.values()):
        return False
    if node.get("aggregate_handling") == "FORCE_AGGREGATES":  # GROUP BY ALL
        return True
    expressions = node.get("group_expressions", [])
    if len(node.get("group_sets", [[]])) != 1 or len(expressions) != len(groups):
        return False
    named = {
        name
        for expression in expressions
        for name, item in groups.items()
        if _says(expression, name, item, node["select_list"])
    }
    return named == set(groups)


def _says(
    expression: Mapping[str, Any],
    name: str,
    item: Mapping[str, Any],
    items: list[Mapping[str, Any]],
) -> bool:
    """Whether the expression is this column of the result: by name, by place, or in its words."""
    by_name = expression.get("class") == "COLUMN_REF" and expression["column_names"][-1] == name
    return by_name or _is_place(expression, item, items) or _shape(expression) == _shape(item)


def _is_place(
    expression: Mapping[str, Any], item: Mapping[str, Any], items: list[Mapping[str, Any]]
) -> bool:
    """Whether this is the column's position. The last one's is another with hidden columns."""
    if expression.get("class") != "CONSTANT":
        return False
    position = expression.get("literal", {}).get("text")
    if position is None:
        return False
    return items[int(position) - 1] is item and item is not items[-1]


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
