"""The second line of defence behind the rules of `contract`: DuckDB itself is asked whether it can have a table's columns.

Asked only where a file changes the columns, before its rows are accepted. What the rules let through by mistake costs that file,
not the table.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pipeline.errors import InputRejected
from sinks import sql
from sinks.checks import connection_of
from sinks.view_sql import missing

if TYPE_CHECKING:
    import pyarrow as pa


def require_bound(before: pa.Schema | None, schema: pa.Schema) -> None:
    """Raises InputRejected that names the column which no view can have. Columns that are as they were are not asked about."""
    import duckdb

    known = {field.name: field.type for field in before} if before is not None else {}
    new = [field for field in schema if field.name not in known or not field.type.equals(known[field.name])]
    connection = connection_of(os.getpid())
    for field in new:
        try:
            connection.execute(f"SELECT {missing(field.type)} AS {sql.name(field.name)} LIMIT 0")
        except duckdb.OutOfMemoryException as error:
            raise MemoryError from error
        except (duckdb.Error, UnicodeError) as error:
            reason = " ".join(str(error).partition("\n\nLINE ")[0].split())
            raise InputRejected(f"column {field.name!r} is one that no query can read ({reason}): store it as text") from None
