"""From what a transform returned to lists of dict rows and Arrow tables, a bounded number of rows at a time."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputRejected

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_MAX = 20_000
"""Dict rows handed on at once."""

EXPECTED = "an Arrow table, record batches, an iterable of dicts or dataclasses, a pandas DataFrame, or None"

Rows = list[dict[str, Any]]


def parts_of(result: object) -> Iterator[Rows | pa.Table]:
    """The result as parts, in order. Raises InputRejected for what is no result, and whatever the user's iterator raises."""
    if result is None:
        return
    if type(result) is list and all(type(row) is dict for row in result):  # the common case
        for start in range(0, len(result), ROWS_MAX):
            yield result[start : start + ROWS_MAX] if len(result) > ROWS_MAX else result
        return
    table = _table(result)
    if table is not None:
        yield table
        return
    row = _row(result)
    if row is not None:
        yield [row]
        return
    if isinstance(result, str | bytes | bytearray) or not isinstance(result, Iterable):
        raise InputRejected(f"the transform returned {_named(result)}; expected {EXPECTED}")
    yield from _items(result)


def _items(result: Iterable[object]) -> Iterator[Rows | pa.Table]:
    rows: Rows = []
    for number, item in enumerate(result, 1):
        row = item if type(item) is dict else _row(item)
        if row is not None:
            rows.append(row)
            if len(rows) == ROWS_MAX:
                yield rows
                rows = []
            continue
        table = _table(item)
        if table is None:
            raise InputRejected(f"row {number} of the transform's result is {_named(item)}; expected a dict or a dataclass")
        if rows:
            yield rows
            rows = []
        yield table
    if rows:
        yield rows


def _row(item: object) -> dict[str, Any] | None:
    if isinstance(item, Mapping):
        return dict(item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return dataclasses.asdict(item)
    return None


def _table(item: object) -> pa.Table | None:
    import pyarrow as pa

    if isinstance(item, pa.Table):
        return item
    if isinstance(item, pa.RecordBatch):
        return pa.Table.from_batches([item])
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(item, getattr(pandas, "DataFrame", ())):
        return pa.Table.from_pandas(item, preserve_index=False)
    if hasattr(item, "__arrow_c_stream__") and not isinstance(item, pa.RecordBatchReader):
        return pa.table(item)
    return None


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of inferred types. Raises InputRejected that names the column and the row that do not fit."""
    import pyarrow as pa

    try:
        columns = _columns(rows)
        if columns is not None:
            return pa.table({name: pa.array(values) for name, values in columns.items()})
        return _as_table(pa.array(rows))
    except MemoryError:  # pyarrow's is both
        raise
    except (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError) as error:
        raise InputRejected(_explained(rows, error)) from None


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]] | None:
    """Rows that all have the same names, by column: converting columns is a third faster than converting rows."""
    names = list(rows[0])
    if not names or set(map(len, rows)) != {len(names)} or not all(type(name) is str for name in names):
        return None
    try:
        return {name: [row[name] for row in rows] for name in names}
    except KeyError:
        return None


def _as_table(array: pa.StructArray) -> pa.Table:
    import pyarrow as pa

    names = [field.name for field in array.type]
    if not names:  # rows without values are rows all the same
        return pa.Table.from_batches([pa.RecordBatch.from_struct_array(array)])
    return pa.Table.from_arrays(array.flatten(), names=names)


def _explained(rows: Sequence[Mapping[str, Any]], error: Exception) -> str:
    """Which column and which row an error of conversion is about."""
    import pyarrow as pa

    for number, row in enumerate(rows, 1):
        for name in row:
            if not isinstance(name, str):
                return f"row {number} has the column name {name!r}; expected text"
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError):
            number, first = _offender(values)
            return f"column {name!r}: row {number} has {_named(values[number - 1])}{first}"
    return " ".join(str(error).split())


def _offender(values: Sequence[object]) -> tuple[int, str]:
    """The first row with which the column cannot be converted any more."""
    import pyarrow as pa

    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pa.array(values[:middle])
            low = middle
        except (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError):
            high = middle
    before = next((v for v in values[: high - 1] if v is not None and type(v) is not type(values[high - 1])), None)
    return high, ", which tables do not hold" if before is None else f" where earlier rows have {_named(before)}"


def _named(value: object) -> str:
    """A value's type, with a short look at it."""
    look = repr(value)
    return f"{type(value).__name__} {look if len(look) <= 40 else look[:37] + '...'}"
