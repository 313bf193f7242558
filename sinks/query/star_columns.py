"""`SELECT *` without the columns that say where a row comes from: they are there for whoever names
them.

Only stars of the outermost SELECT (of each side of a UNION) are meant, `*` as well as `t.*`: a
query within may hand provenance on, to be named outside. What DuckDB finds in a star is asked of
DuckDB, and the statement is changed on its parse tree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.sql.parse_tree import deep
from sinks.values.schema import PROVENANCE

if TYPE_CHECKING:
    import duckdb


_PLAIN: dict[str, Any] = {
    "where_clause": None,
    "having": None,
    "qualify": None,
    "sample": None,
    "modifiers": [],
    "group_expressions": [],
    "group_sets": [],
    "aggregate_handling": "STANDARD_HANDLING",
}
"""A SELECT without anything beside its columns and tables."""


def without_provenance(connection: duckdb.DuckDBPyConnection, statement: str) -> str:
    """The statement with stars that leave out provenance; as it was where none has any, or where it
    works only with it.
    """
    import duckdb

    try:
        with deep():
            tree = _tree_of(connection, statement)
            selects = [*_outermost(tree["statements"][0]["node"], [])] if not tree["error"] else []
            changed = [
                _leave_out(connection, star, node, ctes)
                for node, ctes in selects
                for star in _stars(node)
            ]
            if not any(changed):
                return statement
            made = _sql_of(connection, tree)
        connection.sql(made)  # does it bind?
    except (duckdb.Error, RecursionError):
        return statement
    return made


def _tree_of(connection: duckdb.DuckDBPyConnection, statement: str) -> dict[str, Any]:
    made = connection.execute("SELECT json_serialize_sql(?)", [statement]).fetchall()[0][0]
    tree: dict[str, Any] = json.loads(made)
    return tree


def _outermost(node: dict[str, Any], ctes: list[Any]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """The SELECTs whose columns are the result's, each with the CTEs that it may name."""
    ctes = [*ctes, *node["cte_map"]["map"]]
    if node["type"] == "SELECT_NODE":
        yield node, ctes
    elif node["type"] == "SET_OPERATION_NODE":
        for side in node["children"]:
            yield from _outermost(side, ctes)


def _stars(node: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for item in node["select_list"]:
        if item["class"] == "STAR" and not item["columns"] and item.get("expr") is None:
            yield item


def _leave_out(
    connection: duckdb.DuckDBPyConnection,
    star: dict[str, Any],
    node: Mapping[str, Any],
    ctes: list[Any],
) -> bool:
    """Add to what the star leaves out. False where it has no provenance, or nothing else."""
    alone = {**node, **_PLAIN, "select_list": [star], "cte_map": {"map": ctes}}
    columns = _columns_of(connection, alone)
    replaced = {str(entry["key"]).lower() for entry in star["replace_list"]}
    found = {column.lower() for column in columns if column.lower() in PROVENANCE} - replaced
    if not found or len({column.lower() for column in columns} - found) == 0:
        return False
    star["exclude_list"] = [*star["exclude_list"], *sorted(found)]
    return True


def _columns_of(connection: duckdb.DuckDBPyConnection, node: Mapping[str, Any]) -> list[str]:
    wanted = {"error": False, "statements": [{"node": node, "named_param_map": []}]}
    columns: list[str] = connection.sql(_sql_of(connection, wanted)).columns
    return columns


def _sql_of(connection: duckdb.DuckDBPyConnection, tree: Mapping[str, Any]) -> str:
    made: str = connection.execute(
        "SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]
    ).fetchall()[0][0]
    return made
