"""What SQL users may ask, decided on DuckDB's own parse tree before anything is bound or run. Pure.

DuckDB's switches (`Warehouse.lock`) keep files, network and settings out of reach. This keeps out
the rest: statements that write within a query (`WITH x AS (INSERT ... RETURNING ...)` counts as a
SELECT), SQL within texts (`query('...')`), and functions and catalogs that show settings, paths or
the text of views. Whatever is not known to be harmless is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pipeline.sql.parse_tree import objects

ONE_SELECT = "give one SELECT statement: tables are read only, files change them"
STATEMENT_CHARS_MAX = 50_000
"""DuckDB parses in more than linear time: 100,000 brackets take 4 s and 300 MB, and no interrupt
reaches the parser.
"""

TABLE_FUNCTIONS = frozenset(
    (
        *("range", "generate_series", "unnest", "repeat", "repeat_row", "json_each", "json_tree"),
        *("histogram", "histogram_values", "summary", "icu_calendar_names", "pg_timezone_names"),
    )
)
REFUSED_FUNCTIONS = frozenset(
    (
        *(
            "current_setting",
            "getvariable",
            "getenv",
            "nextval",
            "currval",
            "write_log",
            "parse_duckdb_log_message",
        ),
        *(
            "pg_get_viewdef",
            "pg_get_expr",
            "pg_get_constraintdef",
            "json_serialize_plan",
            "current_query",
            "in_search_path",
        ),
    )
)
CATALOGS = frozenset((("information_schema", "tables"), ("information_schema", "columns")))
_NODES = frozenset(("SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"))
_TABLES = frozenset(
    (
        "EMPTY",
        "BASE_TABLE",
        "TABLE_FUNCTION",
        "JOIN",
        "SUBQUERY",
        "EXPRESSION_LIST",
        "PIVOT",
        "SHOW_REF",
    )
)
_MODIFIERS = frozenset(
    ("ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER")
)
_SORTS = frozenset(("ORDER_DEFAULT", "ASCENDING", "DESCENDING"))
_KNOWN = _NODES | _TABLES | _MODIFIERS | _SORTS
_SHOWN = ('"tables"', "tables", "__show_tables_expanded")
_ONLY = "queries read the pipeline's tables only"


def refusal(tree: Mapping[str, Any], tables: Collection[str] | None) -> str | None:
    """Why a statement, as `json_serialize_sql` gives it, is not run; None if it may.

    tables: what may be asked; None for statements of our own, which only have to be one SELECT.
    """
    refused = _refusal_but_for_one(tree)
    if refused is not None or tables is None:
        return refused
    parts = [*objects(tree["statements"][0])]
    named = _named_queries(parts)
    known = {table.lower() for table in tables}
    return next(
        (found for part in parts if (found := _of_part(part, known, named)) is not None), None
    )


def _refusal_but_for_one(tree: Mapping[str, Any]) -> str | None:
    if tree.get("error_type") == "parser":
        return f"Parser Error: {' '.join(str(tree.get('error_message')).split())}"
    return ONE_SELECT if only_node(tree) is None else None


def only_node(tree: Mapping[str, Any]) -> dict[str, Any] | None:
    """The query of the only statement; None where there is another number of them, or they cannot
    be read.
    """
    if tree.get("error") or len(tree.get("statements", ())) != 1:
        return None
    node: dict[str, Any] = tree["statements"][0].get("node", {})
    return node


def _named_queries(parts: Iterable[Mapping[str, Any]]) -> set[str]:
    """What `WITH` gives a name."""
    return {
        str(part["key"]).lower()
        for part in parts
        if "key" in part and "query_node" in _as_object(part.get("value"))
    }


def _of_part(part: Mapping[str, Any], known: Collection[str], named: Collection[str]) -> str | None:
    kind = _kind_of(part)
    if kind == "TABLE_FUNCTION":
        return _of_table_function(part)
    if str(part.get("function_name")).lower() in REFUSED_FUNCTIONS:
        return f"the function {part['function_name']} is not allowed: {_ONLY}"
    if kind == "BASE_TABLE" or (kind == "SHOW_REF" and "query" not in part):
        return _of_table(_path(part), known, named, shows=kind == "SHOW_REF")
    if kind is not None and "class" not in part and kind not in _KNOWN:
        return _of_unknown(kind)
    return None


def _kind_of(part: Mapping[str, Any]) -> str | None:
    kind = part.get("type")
    return kind if isinstance(kind, str) else None


def _of_unknown(kind: str) -> str:
    name = kind.removesuffix("_NODE").replace("_", " ")
    return f"{name} is not allowed within a query: {_ONLY}"


def _of_table_function(part: Mapping[str, Any]) -> str | None:
    name = _path(part["function"])[-1] if _as_object(part.get("function")) else ""
    if name in TABLE_FUNCTIONS:
        return None
    return f"the table function {name} is not allowed: {_ONLY}"


def _of_table(
    path: tuple[str, ...], known: Collection[str], named: Collection[str], *, shows: bool
) -> str | None:
    own = path[-1] in known and path[:-1] in ((), ("main",), ("memory", "main"), ("memory",))
    is_listing = shows and path[-1] in _SHOWN
    if own or is_listing or (len(path) == 1 and path[0] in named) or path in CATALOGS:
        return None
    return f"there is no table {'.'.join(path)!r}: {_ONLY}"


def _path(part: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(name).lower() for name in part.get("qualified_name", {}).get("path", ())) or (
        "",
    )


def _as_object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
