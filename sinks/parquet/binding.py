"""The second line of defence behind the rules of `contract`: DuckDB itself is asked whether it can
have a table's columns.

Asked only where a file changes the columns, before its rows are accepted. What the rules let
through by mistake costs that file, not the table. Single values under plain names are not asked
about: DuckDB takes a tenth of a second to load, and for those types and names a test asks once for
all.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from pipeline.errors import InputRejected
from pipeline.sql import quoting
from sinks.parquet.row_checks import connection_of
from sinks.values.view_sql import missing

if TYPE_CHECKING:
    import pyarrow as pa

PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def require_bound(before: pa.Schema | None, schema: pa.Schema) -> None:
    """Raises InputRejected that names the column which no view can have.

    Columns that are as they were are not asked about.
    """
    new = _new_fields(before, schema)
    differ = len({name.lower() for name in schema.names}) == len(schema)
    if differ and all(_is_plain(field) for field in new):
        return
    for field in new:
        _bind(f"SELECT {missing(field.type)} AS {quoting.name(field.name)}", field.name)
    _require_told_apart(schema.names)


def _new_fields(before: pa.Schema | None, schema: pa.Schema) -> list[pa.Field]:
    known = {field.name: field.type for field in before} if before is not None else {}
    return [
        field
        for field in schema
        if field.name not in known or not field.type.equals(known[field.name])
    ]


def _require_told_apart(names: list[str]) -> None:
    columns = ", ".join(f"NULL AS {quoting.name(name)}" for name in names)
    found = _bind(f"SELECT * FROM (SELECT {columns})", names[-1])
    for name, seen in zip(names, found, strict=True):
        if name != seen:
            raise InputRejected(
                f"column {name!r} is one that no query can read (another has its name): rename it"
            )


def _is_plain(field: pa.Field) -> bool:
    import pyarrow.types as pt

    return PLAIN_NAME.fullmatch(field.name) is not None and not pt.is_nested(field.type)


def _bind(query: str, column: str) -> list[str]:
    """The names of the query's columns.

    Raises InputRejected that names the column where there is no such query.
    """
    import duckdb

    try:
        return [
            each[0] for each in connection_of(os.getpid()).execute(f"{query} LIMIT 0").description
        ]
    except duckdb.OutOfMemoryException as error:
        raise MemoryError from error
    except (duckdb.Error, UnicodeError) as error:
        reason = " ".join(str(error).partition("\n\nLINE ")[0].split())
        raise InputRejected(
            f"column {column!r} is one that no query can read ({reason}): store it as text"
        ) from None
