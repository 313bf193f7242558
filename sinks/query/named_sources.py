"""Which sources a statement asks about, where it names them: then only their files need to be
known. Decided on the parse tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.sql.parse_tree import objects, parse_tree
from sinks.query.allowed_sql import STATEMENT_CHARS_MAX, only_node

if TYPE_CHECKING:
    import duckdb

KEYS_MAX = 1_000
_KEY = "_source_key"
_Names = tuple[tuple[str, ...], ...]


def sources_asked(
    connection: duckdb.DuckDBPyConnection, statement: str, table: str
) -> list[str] | None:
    """The source keys whose rows alone can be in the answer; None where that may be any.

    Known for one SELECT from this one table whose WHERE has `_source_key = 'key'`, or IN with a
    list, as a condition of all rows.
    """
    if _KEY not in statement or len(statement) > STATEMENT_CHARS_MAX:
        return None
    node = only_node(parse_tree(connection, statement))
    if node is None or not _is_select_from(node, table) or _may_mean_another_column(node):
        return None
    names = ((_KEY,), (str(node["from_table"].get("alias") or table).lower(), _KEY))
    return _fewest_keys(_conjuncts(node.get("where_clause", {})), names)


def _fewest_keys(conditions: Iterable[Mapping[str, Any]], names: _Names) -> list[str] | None:
    found = [keys for condition in conditions if (keys := _keys(condition, names)) is not None]
    shortest = min(found, key=len, default=None)
    return shortest if shortest is not None and len(shortest) <= KEYS_MAX else None


def _is_select_from(node: Mapping[str, Any], table: str) -> bool:
    """Whether the query reads this table alone."""
    source = node.get("from_table", {})
    path = [str(part).lower() for part in source.get("qualified_name", {}).get("path", ())]
    return (
        node.get("type") == "SELECT_NODE"
        and not node.get("cte_map")
        and source.get("type") == "BASE_TABLE"
        and path == [table.lower()]
    )


def _may_mean_another_column(node: Mapping[str, Any]) -> bool:
    """Whether the key's name may stand for something else: for an alias, or within a subquery."""
    renames = "column_name_alias" in node["from_table"] or any(
        str(part.get("alias", "")).lower() == _KEY for part in objects(node)
    )
    return renames or any(part.get("class") == "SUBQUERY" for part in objects(node))


def _conjuncts(condition: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if condition.get("type") == "CONJUNCTION_AND":
        for part in condition.get("children", ()):
            yield from _conjuncts(part.get("expression", part))
    elif condition:
        yield condition


def _keys(condition: Mapping[str, Any], names: _Names) -> list[str] | None:
    """The keys of `_source_key = 'key'` or `_source_key IN (...)`. names: what the column may be
    called, in full.
    """
    kind = condition.get("type")
    if kind == "COMPARE_EQUAL":
        return _key_compared(condition, names)
    if kind == "COMPARE_IN":
        first, *rest = [part.get("expression", part) for part in condition.get("children", ({},))]
        texts = [_text(one) for one in rest]
        return texts if _is_key(first, names) and rest and None not in texts else None  # type: ignore[return-value]
    return None


def _key_compared(condition: Mapping[str, Any], names: _Names) -> list[str] | None:
    sides = [condition.get("left", {}), condition.get("right", {})]
    texts = [_text(side) for side in sides if not _is_key(side, names)]
    return [texts[0]] if len(texts) == 1 and texts[0] is not None else None


def _is_key(expression: Mapping[str, Any], names: _Names) -> bool:
    """A struct of the user's may have a field of that name: the whole path counts."""
    path = tuple(str(name).lower() for name in expression.get("column_names", ()))
    return expression.get("class") == "COLUMN_REF" and path in names


def _text(expression: Mapping[str, Any]) -> str | None:
    literal = expression.get("literal", {}) if expression.get("class") == "CONSTANT" else {}
    return str(literal["text"]) if literal.get("kind") == "STRING" and "text" in literal else None
