"""From what a transform returned to lists of dict rows and Arrow tables, a bounded number of rows
at a time.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputRejected
from sinks.values.casting import Bent, conversion_errors, hollow
from sinks.values.declared_values import declared_array
from sinks.values.python_values import How, Mixed, TooDeep, array_of, by_field
from sinks.values.schema import NESTING_MAX

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_MAX = 20_000
"""Dict rows handed on at once."""

EXPECTED = (
    "an Arrow table, record batches, an iterable of dicts or dataclasses, a pandas DataFrame, or"
    " None"
)

Rows = list[dict[str, Any]]
ROWS_BYTES = 8 * 2**20
"""Memory that rows may take before they are handed on, few as they may be."""
LOOK_ROWS = 32
"""So many rows at most come between two that are looked at, if they are small."""
LARGE_ROW_BYTES = 16_384
_SINGLE = frozenset({str, bytes, int, float, bool, type(None), date, datetime, Decimal})
LOOKED_AT = 1_000
"""Values of a list within a row that are looked at one by one; longer lists count by their length.
"""


class HeavyRows(list[dict[str, Any]]):
    """Few rows of much memory."""

    size_bytes = ROWS_BYTES


_ADVICE = ": make them one kind, or declare the column in schema="


def parts_of(result: object) -> Iterator[Rows | pa.Table]:
    """The result as parts, in order.

    Raises InputRejected for what is no result, and whatever the user's iterator raises.
    """
    if result is None:
        return
    if type(result) is list and {dict}.issuperset(map(type, result)):  # the common case
        yield from _slices(result)
        return
    parts = _at_once(result)
    if parts is not None:
        yield from parts
        return
    if isinstance(result, str | bytes | bytearray) or not isinstance(result, Iterable):
        raise InputRejected(f"the transform returned {_named(result)}; expected {EXPECTED}")
    yield from _items(result)


def _slices(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), ROWS_MAX):
        yield rows[start : start + ROWS_MAX] if len(rows) > ROWS_MAX else rows


def _items(result: Iterable[object]) -> Iterator[Rows | pa.Table]:
    rows: Rows = []
    weight = _Weight()
    for number, item in enumerate(result, 1):
        row = item if type(item) is dict else _row(item)
        if row is not None:
            rows.append(row)
            if len(rows) == ROWS_MAX:
                yield rows
                rows, weight = [], _Weight()
            elif len(rows) >= weight.look_at and weight.is_full(rows):
                yield HeavyRows(rows)
                rows, weight = [], _Weight()
            continue
        parts = _at_once(item)
        if parts is None:
            raise InputRejected(
                f"row {number} of the transform's result is {_named(item)}; expected a dict or a"
                " dataclass"
            )
        if rows:
            yield rows
            rows = []
        yield from parts
    if rows:
        yield rows


class _Weight:
    """About how many bytes rows hold, from some of them: from each where they are large, else from
    one in LOOK_ROWS or so.
    """

    def __init__(self) -> None:
        self._bytes, self._step = 0, 1
        self.look_at = 1

    def is_full(self, rows: Rows) -> bool:
        """Whether the rows so far are to be handed on. `look_at` says with how many
        to ask again.
        """
        size = row_bytes(rows[-1])
        self._bytes += size * self._step
        self._step = (
            1
            if size > LARGE_ROW_BYTES
            else 1 + (len(rows) * 2_654_435_761 >> 9) % min(len(rows), LOOK_ROWS)
        )
        self.look_at = len(rows) + self._step
        return self._bytes >= ROWS_BYTES


def row_bytes(row: Mapping[str, Any]) -> int:
    """Roughly the bytes of a row, also within lists and dicts."""
    values = row.values()
    if _SINGLE.issuperset(map(type, values)):  # mostly
        return sum(map(sys.getsizeof, values))
    total, waiting = 0, [*values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str | bytes | bytearray):
            total += len(value)
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value if len(value) <= LOOKED_AT else ()
            total += 0 if len(value) <= LOOKED_AT else 16 * len(value)
        else:
            total += getattr(value, "nbytes", 32)
    return total


def _row(item: object) -> dict[str, Any] | None:
    if isinstance(item, Mapping):
        return dict(item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return dataclasses.asdict(item)
    return None


def _at_once(item: object) -> Sequence[Rows | pa.Table] | None:
    """A frame, a table or a single row as parts; None for anything else."""
    frame = _frame(item)
    if frame is not None:
        return frame
    table = _table(item)
    if table is not None:
        return [table]
    row = _row(item)
    return [[row]] if row is not None else None


def _table(item: object) -> pa.Table | None:
    import pyarrow as pa

    if isinstance(item, pa.Table):
        return item
    if isinstance(item, pa.RecordBatch):
        return pa.Table.from_batches([item])
    if hasattr(item, "__arrow_c_stream__") and not isinstance(item, pa.RecordBatchReader):
        return pa.table(item)
    return None


def _frame(item: object) -> list[Rows | pa.Table] | None:
    """A pandas frame, without its index, as parts; None for anything else.

    Columns of Python objects are taken value by value, where pyarrow would bend some. Missing
    values are null, NaN among them.
    """
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(item, getattr(pandas, "DataFrame", ())):
        return None
    return _of_frame(item)


def _of_frame(frame: Any) -> list[Rows | pa.Table]:
    import pyarrow as pa

    names = _names_of(frame)
    arrays = []
    for i in range(len(names)):
        series = frame.iloc[:, i]
        if series.dtype != object:
            arrays.append(pa.array(series, from_pandas=True))
            continue
        values = [_unless_nan(value) for value in series.tolist()]
        try:
            arrays.append(_column(values, None))
        except conversion_errors():
            # as declared, perhaps; else this is said there, with the column and the row
            return [*_slices(_rows_of(frame, names))]
    return [pa.Table.from_arrays(arrays, names=names)] if names else []


def _names_of(frame: Any) -> list[str]:
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputRejected(f"there are two columns named {twice!r}: rename one")
    return names


def _rows_of(frame: Any, names: Sequence[str]) -> Rows:
    rows: Rows = [
        dict(zip(names, row, strict=True)) for row in frame.itertuples(index=False, name=None)
    ]
    return [{name: _unless_nan(value) for name, value in row.items()} for row in rows]


def _unless_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def table_of(
    rows: Sequence[Mapping[str, Any]],
    declared: Mapping[str, pa.DataType] | None = None,
    *,
    texts: bool = False,
) -> pa.Table:
    """Rows as a table: declared columns in their types, the others in the type that holds their
    values exactly.

    texts: values of several kinds in one place are text.

    Raises InputRejected that names the column and the row that do not fit.
    """
    import pyarrow as pa

    declared, how = declared or {}, How(texts)
    columns = _columns(rows)
    arrays = [
        _named_column(name, values, declared.get(name), how) for name, values in columns.items()
    ]
    if not arrays:  # rows without values are rows all the same
        nothing = hollow(pa.array([True] * len(rows), pa.bool_()))
        return pa.Table.from_batches([pa.RecordBatch.from_struct_array(nothing)])
    return pa.Table.from_arrays(arrays, names=[*columns])


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    try:
        return by_field(rows)
    except Mixed:
        number, name = next(
            (n, name) for n, row in enumerate(rows, 1) for name in row if not isinstance(name, str)
        )
        raise InputRejected(f"row {number} has the column name {name!r}; expected text") from None


def _named_column(name: str, values: list[Any], kind: pa.DataType | None, how: How) -> pa.Array:
    """Raises InputRejected that names the column and the row."""
    try:
        return _column(values, kind, how)
    except MemoryError:  # pyarrow's is both
        raise
    except conversion_errors() as error:
        raise InputRejected(_explained(name, values, kind, error)) from None


def _column(values: list[Any], kind: pa.DataType | None, how: How = How()) -> pa.Array:  # noqa: B008 - it is frozen
    """One column. Raises some of `conversion_errors`."""
    import pyarrow as pa

    found = array_of(values, how) if kind is None else declared_array(values, kind)
    if isinstance(found, pa.ChunkedArray):  # more than 2 GB
        raise Bent("has more than 2 GB in one part of a file")
    return found


def _explained(name: str, values: list[Any], kind: pa.DataType | None, error: Exception) -> str:
    """Which column and which row an error of conversion is about."""
    if isinstance(error, TooDeep | RecursionError):
        return (
            f"column {name!r} is nested more than {NESTING_MAX} levels deep: flatten it, or store"
            " it as text"
        )
    number = _offender(values, kind)
    if kind is not None:
        return (
            f"column {name!r} is declared as {kind}, and row {number} has"
            f" {_named(values[number - 1])}: {reason_of(error)}"
        )
    return _explained_by_value(name, number, values, error)


def _explained_by_value(name: str, number: int, values: list[Any], error: Exception) -> str:
    value = values[number - 1]
    before = _of_another_type(value, values[: number - 1], error)
    if isinstance(error, Bent) and before is None:
        return f"column {name!r} {error}"
    return f"column {name!r}: row {number} has {_misfit(value, before, error)}"


def _misfit(value: object, before: object, error: Exception) -> str:
    """What is wrong with the value. before: an earlier one that it does not go with, if any."""
    if isinstance(error, Mixed) and isinstance(value, dict | list | tuple):
        if error.second is None:
            return f"within it {_named(error.first)}, which tables do not hold"
        return f"within it {_named(error.second)} beside {_named(error.first)}{_ADVICE}"
    if before is not None:
        return f"{_named(value)} where earlier rows have {_named(before)}{_ADVICE}"
    return f"{_named(value)}, which tables do not hold"


def _of_another_type(value: object, earlier: list[Any], error: Exception) -> object:
    """What stood there before the value and does not go with it; None where that is not known."""
    before = next((v for v in earlier if v is not None and type(v) is not type(value)), None)
    if before is None and isinstance(error, Mixed) and error.second is not None:
        return error.first
    return before


def reason_of(error: Exception) -> str:
    """What an error of conversion says, on one line."""
    if isinstance(error, Mixed):
        return "its kind is another"
    return " ".join(str(error).split())


def _offender(values: list[Any], kind: pa.DataType | None) -> int:
    """The first row with which the column cannot be converted any more."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _column(values[:middle], kind)
            low = middle
        except conversion_errors():
            high = middle
    return high


def _named(value: object) -> str:
    """A value's type, with a short look at it."""
    look = repr(value)
    return f"{type(value).__name__} {look if len(look) <= 40 else look[:37] + '...'}"
