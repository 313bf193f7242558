"""A table as a pandas frame without a value bent: pandas' own conversion where that is exact, else
a column at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.sql import quoting
from pipeline.sql.connection import connect_without_threads
from sinks.results.exact_text import texts
from sinks.results.exact_types import selected
from sinks.values.extremes import EXACT_MAX, leaf_arrays

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def pandas_frame(table: pa.Table, timezone: str) -> pd.DataFrame:
    """Whole numbers with nulls are floats, as ever, unless that bends one: then the column is
    nullable `Int64` or `UInt64`, and where they lie within lists or maps its values are Python's
    own lists, not NumPy's.

    Dates beyond Python's years are `datetime64`. What pandas has no form for at all (times of
    nanoseconds, such dates within lists) is text, as `--format csv` has it.
    """
    import pyarrow as pa

    bent = [field.name for field in table.schema if _bends(table.column(field.name))]
    try:
        frame = table.to_pandas()
    except (ValueError, OverflowError, NotImplementedError, pa.ArrowException):
        frame = _by_column(table, timezone)
    for name in bent:
        nested = pa.types.is_nested(table.schema.field(name).type)
        frame[name] = (
            _objects(table.select([name]), timezone) if nested else _nullable(table.column(name))
        )
    return frame


def _by_column(table: pa.Table, timezone: str) -> pd.DataFrame:
    import pandas as pd

    columns = {field.name: _column(table.select([field.name]), timezone) for field in table.schema}
    return pd.DataFrame(columns, columns=table.column_names)


def _bends(column: pa.ChunkedArray) -> bool:
    """Whether there are whole numbers, at any depth, that floats do not tell apart: pandas makes
    floats of those beside nulls.
    """
    import pyarrow.compute as pc

    found = [leaf for chunk in column.chunks for leaf in _whole_numbers(chunk)]
    if not any(leaf.null_count for leaf in found):
        return False
    ends = [pc.min_max(leaf).as_py() for leaf in found]
    return any(end["min"] is not None and max(-end["min"], end["max"]) > EXACT_MAX for end in ends)


def _whole_numbers(array: pa.Array) -> Iterator[pa.Array]:
    for _, leaf in leaf_arrays((), array):
        if str(leaf.type) in ("int64", "uint64"):
            yield leaf


def _objects(one: pa.Table, timezone: str) -> Any:
    import pandas as pd

    try:
        return pd.Series(one.column(0).to_pylist(), dtype=object)
    except (ValueError, OverflowError):
        return _texts(one, timezone)


def _nullable(column: pa.ChunkedArray) -> Any:
    import pandas as pd
    import pyarrow as pa

    return column.to_pandas(
        types_mapper={pa.int64(): pd.Int64Dtype(), pa.uint64(): pd.UInt64Dtype()}.get
    )


def _column(one: pa.Table, timezone: str) -> Any:
    import pyarrow as pa
    import pyarrow.types as pt

    column = one.column(0)
    try:
        return column.to_pandas(date_as_object=not pt.is_date(column.type) or _python_has(column))
    except (ValueError, OverflowError, NotImplementedError, pa.ArrowException):
        return _texts(one, timezone)


def _python_has(column: pa.ChunkedArray) -> bool:
    try:
        column.to_pylist()
    except (ValueError, OverflowError):
        return False
    return True


def _texts(one: pa.Table, timezone: str) -> Any:
    import pandas as pd

    with connect_without_threads(timezone) as connection:
        connection.register("one", one)
        found = connection.sql("SELECT * FROM one")
        [kind] = found.types
        select = selected(found.columns, [kind], "text") or quoting.name(one.column_names[0])
        carried = found.project(select).to_arrow_table()
        values = [text for chunk in carried.column(0).chunks for text in texts(kind, chunk)]
    return pd.Series(values, dtype=object)
