"""Which sources a statement asks about, where it names them: then only their files need to be
known. Decided on the parse tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.sql.parse_tree import objects, parse_tree
from sinks.query.allowed_sql import STATEMENT_CHARS_MAX

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
    tree = parse_tree(connection, statement)
    if tree.get("error") or len(tree.get("statements", ())) != 1:
        return None
    node = tree["statements"][0].get("node", {})
    source = node.get("from_table", {})
    path = [str(part).lower() for part in source.get("qualified_name", {}).get("path", ())]
    if (
        node.get("type") != "SELECT_NODE"
        or node.get("cte_map")
        or source.get("type") != "BASE_TABLE"
        or path != [table.lower()]
    ):
        return None
    renames = "column_name_alias" in source or any(
        str(part.get("alias", "")).lower() == _KEY for part in objects(node)
    )
    if renames or any(part.get("class") == "SUBQUERY" for part in objects(node)):
        return None
    names = ((_KEY,), (str(source.get("alias") or table).lower(), _KEY))
    conditions = _conjuncts(node.get("where_clause", {}))
    found = [keys for condition in conditions if (keys := _keys(condition, names)) is not None]
    shortest = min(found, key=len, default=None)
    return shortest if shortest is not None and len(shortest) <= KEYS_MAX else None


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
        sides = [condition.get("left", {}), condition.get("right", {})]
        named = [side for side in sides if _is_key(side, names)]
        texts = [_text(side) for side in sides if not _is_key(side, names)]
        return texts if len(named) == 1 and len(texts) == 1 and texts[0] is not None else None  # type: ignore[return-value]
    if kind == "COMPARE_IN":
        first, *rest = [part.get("expression", part) for part in condition.get("children", ({},))]
        texts = [_text(one) for one in rest]
        return texts if _is_key(first, names) and rest and None not in texts else None  # type: ignore[return-value]
    return None


def _is_key(expression: Mapping[str, Any], names: _Names) -> bool:
    """A struct of the user's may have a field of that name: the whole path counts."""
    path = tuple(str(name).lower() for name in expression.get("column_names", ()))
    return expression.get("class") == "COLUMN_REF" and path in names


def _text(expression: Mapping[str, Any]) -> str | None:
    literal = expression.get("literal", {}) if expression.get("class") == "CONSTANT" else {}
    return str(literal["text"]) if literal.get("kind") == "STRING" and "text" in literal else None
