"""The one form in which values become text, where `widen="string"` or a declared text column asks
for it.

A file's values are turned when it is written, when a query reads an older file, or when a
compaction rewrites it: all three are this expression of DuckDB's, so that a value reads the same
whichever came first. Numbers have no `.0` and no trailing zeros (1, 1.0 and 1.00 are "1"); times
are ISO with a space, instants end in +00; UUIDs are as ever; booleans are true and false.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.sql.connection import connect_without_threads

if TYPE_CHECKING:
    import pyarrow as pa


def text_sql(value: str, kind: pa.DataType) -> str:
    """A SQL expression: the value, which has this type, as text. value: an expression too."""
    import pyarrow.types as pt

    if pt.is_string(kind):
        return value
    if pt.is_floating(kind):
        return rf"regexp_replace(CAST(CAST({value} AS DOUBLE) AS VARCHAR), '\.0$', '')"
    if pt.is_decimal(kind):
        # DuckDB leaves the 0 before the point out
        text = rf"regexp_replace(CAST({value} AS VARCHAR), '^(-?)\.', '\1' || '0.')"
        return (
            f"CASE WHEN contains({text}, '.') THEN rtrim(rtrim({text}, '0'), '.') ELSE {text} END"
        )
    if pt.is_timestamp(kind) and kind.tz is not None:
        return f"(CAST(timezone('UTC', {value}) AS VARCHAR) || '+00')"
    return f"CAST({value} AS VARCHAR)"


def as_text(array: pa.Array) -> pa.Array:
    """The values as text. Raises ValueError for types that have no text form (bytes)."""
    import pyarrow as pa
    import pyarrow.types as pt

    if pt.is_binary(array.type):
        raise ValueError("bytes do not become text")
    with connect_without_threads() as connection:
        connection.register("held", pa.table({"v": array}))
        found = connection.sql(
            f"SELECT {text_sql('v', array.type)} AS v FROM held"
        ).to_arrow_table()
    column = found.column(0).combine_chunks()
    return (
        column.cast(pa.string())
        if isinstance(column, pa.Array)
        else pa.concat_arrays(column.chunks).cast(pa.string())
    )
