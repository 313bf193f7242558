"""Columns that are named like words of SQL, and what to write where a statement fails at one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from pipeline.sql.parse_tree import parse_tree

if TYPE_CHECKING:
    import duckdb

_WORD = re.compile(
    r"""(?P<skip>'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/)|(?<![\w.])(?P<word>[A-Za-z_]\w*)(?!\w)""",
    re.S,
)
_STRUCTURE = frozenset(
    (
        *(
            "all",
            "and",
            "any",
            "as",
            "asc",
            "between",
            "by",
            "case",
            "cast",
            "create",
            "desc",
            "distinct",
            "else",
            "except",
        ),
        *(
            "exists",
            "false",
            "from",
            "full",
            "group",
            "having",
            "ilike",
            "in",
            "inner",
            "intersect",
            "into",
            "is",
            "join",
        ),
        *(
            "lateral",
            "left",
            "like",
            "limit",
            "not",
            "null",
            "offset",
            "on",
            "or",
            "order",
            "outer",
            "pivot",
            "qualify",
        ),
        *(
            "right",
            "select",
            "then",
            "true",
            "union",
            "unpivot",
            "using",
            "when",
            "where",
            "window",
            "with",
        ),
    )
)
"""Words that mostly mean what SQL means by them: quoted, a statement could become another one."""
_TRIED_MAX = 20


def quoting_hint(
    connection: duckdb.DuckDBPyConnection, statement: str, columns: Collection[str] | None = None
) -> str:
    """For a statement that cannot be parsed: what to quote, where it can be parsed with that
    quoted; else nothing.

    columns: the names that columns and tables have; None where they are not known.
    """
    reserved = _reserved(connection)
    known = {name.lower() for name in columns} if columns is not None else reserved - _STRUCTURE
    found = list(
        dict.fromkeys(word for word in _words(statement) if word.lower() in known & reserved)
    )[:_TRIED_MAX]
    for words in (*([word] for word in found), found):
        if words and not parse_tree(connection, _quoted(statement, words)).get("error"):
            named, bare = " and ".join(f'"{word}"' for word in words), " and ".join(words)
            are, them = ("are words", "names") if len(words) > 1 else ("is a word", "a name")
            return f"; {bare} {are} of SQL: as {them} write {named}, with the quotes"
    return ""


def _reserved(connection: duckdb.DuckDBPyConnection) -> frozenset[str]:
    rows = connection.execute(
        "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category IN ('reserved',"
        " 'type_function')"
    ).fetchall()
    return frozenset(row[0] for row in rows)


def _words(statement: str) -> Iterator[str]:
    return (found["word"] for found in _WORD.finditer(statement) if found["word"])


def _quoted(statement: str, words: Collection[str]) -> str:
    return _WORD.sub(
        lambda found: f'"{found["word"]}"' if found["word"] in words else found[0], statement
    )
