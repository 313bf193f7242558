"""SQL as DuckDB's own parser reads it: decisions about a text are taken on its tree, not on its
letters.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb

NESTED_MAX = 20_000


def parse_tree(connection: duckdb.DuckDBPyConnection, text: str) -> dict[str, Any]:
    """The answer of `json_serialize_sql`: "statements", or "error" with "error_type" and
    "error_message".

    Expressions may be nested 1,000 deep, which are several times as many objects. Raises
    duckdb.Error, UnicodeError.
    """
    asked = connection.execute(
        "SELECT json_serialize_sql(?, skip_null := true, skip_empty := true)", [text]
    )
    try:
        with deep():
            tree: dict[str, Any] = json.loads(asked.fetchall()[0][0])
    except RecursionError:
        return {
            "error": True,
            "error_type": "parser",
            "error_message": "the statement is nested too deeply",
        }
    return tree


@contextmanager
def deep() -> Iterator[None]:
    """Python may recurse as deeply as trees are nested."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, NESTED_MAX))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def objects(tree: object) -> Iterator[Mapping[str, Any]]:
    """Every object of a tree, without recursion."""
    left = [tree]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield value
            left += value.values()
        elif isinstance(value, list):
            left += value
