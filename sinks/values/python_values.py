"""Python's values as Arrow arrays, each exactly: one type for a column, or an error that says which
values do not go together.

pyarrow infers a column's type from its first values and bends the others to it: a time of day is
cut off beside a date, a zone beside times without one, nanoseconds always. Here the kinds of all
values are looked at first.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import accumulate, chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sinks.values.casting import Bent, cast_array, hollow
from sinks.values.contract import ZONE
from sinks.values.plain_values import plain
from sinks.values.python_scalars import plain_value, without_nanoseconds

if TYPE_CHECKING:
    import pyarrow as pa

NESTED_MAX = 64
"""Lists in lists, and so on, that are looked into; tables hold fewer (`schema.NESTING_MAX`)."""
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - as times without a zone are counted
MICRO = timedelta(microseconds=1)

Values = Sequence[Any]


@dataclass(frozen=True, slots=True)
class How:
    """texts: values of several kinds in one place become text, as `widen="string"` asks. depth: of
    what they lie in.
    """

    texts: bool = False
    depth: int = 1

    def within(self) -> How:
        """Inside of a list or a struct. Raises TooDeep."""
        if self.depth > NESTED_MAX:
            raise TooDeep
        return How(self.texts, self.depth + 1)


_NOTHING = type(None)
_TZINFO = attrgetter("tzinfo")


class Mixed(ValueError):
    """Values of kinds that make no column. kinds: two values that do not go together, or one that
    goes nowhere.
    """

    first: object
    second: object

    def __init__(self, first: object, second: object = None) -> None:
        super().__init__("values of different kinds")
        self.first, self.second = first, second


class TooDeep(ValueError):
    """Lists in lists in lists."""


PLAIN = How()


def array_of(values: Values, how: How = PLAIN) -> pa.Array:
    """The values as one array of a type that tables have.

    Raises Mixed, Bent, TooDeep, and what pyarrow raises.
    """
    import pyarrow as pa

    kinds = set(map(type, values))
    kinds.discard(_NOTHING)
    if not kinds:
        return pa.nulls(len(values))
    if len(kinds) == 1:
        make = _MAKERS.get(next(iter(kinds)))
        if make is not None:
            return make(values, how)
    elif kinds == _INT_FLOAT:
        return _numbers(values, how)
    return _usual(values, kinds, how)


# -- one kind --------------------------------------------------------------------------------------


def _booleans(values: Values, _: How) -> pa.Array:
    import pyarrow as pa

    return pa.array(values, pa.bool_())


def _whole(values: Values, _: How) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values, pa.int64())
    except (OverflowError, pa.ArrowInvalid):
        if min(value for value in values if value is not None) < 0:
            raise
        return pa.array(values, pa.uint64())


def _floats(values: Values, _: How) -> pa.Array:
    import pyarrow as pa

    return pa.array(values, pa.float64())


def _texts(values: Values, _: How) -> pa.Array:
    import pyarrow as pa

    return pa.array(values, pa.string())


def _bytes(values: Values, _: How) -> pa.Array:
    import pyarrow as pa

    return pa.array(values, pa.binary())


def _dates(values: Values, _: How) -> pa.Array:
    import pyarrow as pa

    return pa.array(values, pa.date32())


def _times(values: Values, _: How) -> pa.Array:
    import pyarrow as pa

    zoned = next(
        (value for value in values if value is not None and value.tzinfo is not None), None
    )
    if zoned is not None:
        raise Mixed(zoned)  # a time of day in a zone is no instant, and tables have no type for it
    return pa.array(values, pa.time64("us"))


def _datetimes(values: Values, _: How) -> pa.Array:
    import pyarrow as pa

    zones = set(map(type, map(_TZINFO, filter(None, values))))
    if len(zones) > 1 and _NOTHING in zones:
        naive = next(value for value in values if value is not None and value.tzinfo is None)
        raise Mixed(
            naive, next(value for value in values if value is not None and value.tzinfo is not None)
        )
    if zones == {_NOTHING}:
        return pa.array(values, pa.timestamp("us"))
    without = next(
        (value for value in values if value is not None and value.utcoffset() is None), None
    )
    if without is not None:
        raise Mixed(without)
    try:
        return pa.array(values, pa.timestamp("us", ZONE))
    except OverflowError:  # an instant before the year 1, or after 9999: Python has none
        counted = [
            None if v is None else (v.replace(tzinfo=None) - EPOCH - v.utcoffset()) // MICRO
            for v in values
        ]
        return pa.array(counted, pa.int64()).cast(pa.timestamp("us", ZONE))


def decimals(values: Values, _: How | None = None) -> pa.Array:
    import pyarrow as pa

    strange = next((value for value in values if value is not None and not value.is_finite()), None)
    if strange is not None:
        raise Mixed(strange)
    return plain(pa.array(values))


def _uuids(values: Values, how: How) -> pa.Array:
    return _texts([None if value is None else str(value) for value in values], how)


def _dicts(values: Values, how: How) -> pa.Array:
    import pyarrow as pa

    within = how.within()
    fields = by_field(values)
    if not fields:
        return hollow(pa.array([value is not None for value in values], pa.bool_()))
    children = [array_of(column, within) for column in fields.values()]
    return pa.StructArray.from_arrays(children, names=[*fields], mask=null_mask(values))


def _list_values(values: Values, how: How) -> pa.Array:
    within = how.within()
    return lists(values, lambda inner: array_of(inner, within))


def lists(values: Values, make: Callable[[Values], pa.Array]) -> pa.Array:
    import pyarrow as pa

    wrong = next((v for v in values if v is not None and not isinstance(v, list | tuple)), None)
    if wrong is not None:
        raise Mixed([], wrong)
    offsets = pa.array(
        [0, *accumulate(len(value) if value is not None else 0 for value in values)], pa.int32()
    )
    inner = make(list(chain.from_iterable(value for value in values if value)))
    return pa.ListArray.from_arrays(offsets, inner, mask=null_mask(values))


def by_field(values: Values) -> dict[str, list[Any]]:
    """Dicts by field, in the order that the names come; what is missing is None.

    Raises Mixed for a name that is no text.
    """
    # no Counter, say: it has what it lacks
    if set(map(type, values)) == {dict} and len(set(map(len, values))) == 1:
        names = _checked(values[0])
        with contextlib.suppress(KeyError):  # mostly all are like the first
            return {name: [value[name] for value in values] for name in names}
    names = _checked(dict.fromkeys(chain.from_iterable(filter(None, values))))
    return {
        name: [None if value is None else value.get(name) for value in values] for name in names
    }


def _checked(names: Iterable[Any]) -> list[str]:
    found = list(names)
    for name in found:
        if not isinstance(name, str):
            raise Mixed(name)
    return found


def null_mask(values: Values) -> pa.Array | None:
    import pyarrow as pa

    return pa.array([value is None for value in values], pa.bool_()) if None in values else None


_INT_FLOAT = {int, float}
_MAKERS: dict[type, Callable[[Values, How], pa.Array]] = {
    bool: _booleans,
    int: _whole,
    float: _floats,
    str: _texts,
    bytes: _bytes,
    date: _dates,
    time: _times,
    datetime: _datetimes,
    Decimal: decimals,
    UUID: _uuids,
    dict: _dicts,
    list: _list_values,
    tuple: _list_values,
}

_TEXT_KINDS = {bool, int, float, str, date, time, datetime, Decimal, UUID}


def _numbers(values: Values, how: How) -> pa.Array:
    """Integers among floats.

    Raises pa.ArrowInvalid where no float is such an integer, and they are not to become text.
    """
    import pyarrow as pa

    try:
        return pa.array(values, pa.float64())
    except pa.ArrowInvalid:
        if not how.texts:
            raise
        return of_each_kind(values, pa.string(), how)


# -- many kinds ------------------------------------------------------------------------------------


def _usual(values: Values, kinds: set[type], how: How) -> pa.Array:
    """Values of several kinds, or of kinds that stand for others: numpy's and pandas' scalars,
    subclasses, dataclasses.
    """
    import pyarrow as pa

    numpy = sys.modules.get("numpy")
    if numpy is not None and all(issubclass(kind, numpy.datetime64) for kind in kinds):
        return plain(pa.array(values))
    plainer = [plain_value(value) for value in values]
    if any(getattr(value, "nanosecond", 0) for value in plainer):
        return _nanoseconds(plainer)
    found = set(map(type, plainer)) - {_NOTHING}
    if not found:
        return pa.nulls(len(values))
    if found == {int, Decimal}:
        return decimals([None if value is None else Decimal(value) for value in plainer])
    if found == {str, UUID}:
        return _texts([None if value is None else str(value) for value in plainer], how)
    if found == {list, tuple}:
        return _list_values(plainer, how)
    if found == _INT_FLOAT:
        return _numbers(plainer, how)
    if len(found) == 1 and (make := _MAKERS.get(next(iter(found)))) is not None:
        return make(plainer, how)
    if how.texts and found <= _TEXT_KINDS:
        return of_each_kind(plainer, pa.string(), how)
    first = next(value for value in plainer if value is not None)
    raise Mixed(
        first,
        next(
            (value for value in plainer if value is not None and type(value) is not type(first)),
            None,
        ),
    )


def of_each_kind(values: Values, kind: pa.DataType, how: How) -> pa.Array:
    """The values in a given type, those of each Python type by themselves.

    Raises as `array_of` does.
    """
    import pyarrow as pa

    groups: dict[type, list[int]] = {}
    for row, value in enumerate(values):
        if value is not None:
            groups.setdefault(type(value), []).append(row)
    if not groups:
        return cast_array(pa.nulls(len(values)), kind)
    if len(groups) == 1:
        return _cast(values, kind, how)
    pieces: list[pa.Array] = []
    order = [0] * len(values)
    for rows in groups.values():
        for at, row in enumerate(rows, sum(len(piece) for piece in pieces)):
            order[row] = at
        pieces.append(_cast([values[row] for row in rows], kind, how))
    total = sum(len(piece) for piece in pieces)
    found = pa.concat_arrays([*pieces, pa.nulls(1, kind)])
    return found.take(
        pa.array([total if values[row] is None else at for row, at in enumerate(order)], pa.int64())
    )


def _cast(values: Values, kind: pa.DataType, how: How) -> pa.Array:
    """Values of one Python type."""
    import pyarrow.types as pt

    first = next(value for value in values if value is not None)
    if type(first) is int and (pt.is_decimal(kind) or pt.is_string(kind)):
        return cast_array(decimals([None if v is None else Decimal(v) for v in values]), kind)
    if (
        isinstance(first, Decimal)
        and pt.is_string(kind)
        and any(v is not None and not v.is_finite() for v in values)
    ):
        raise Mixed(first)
    return cast_array(array_of(values, how), kind)


def _nanoseconds(values: Values) -> pa.Array:
    """Times of which some have nanoseconds."""
    import pyarrow as pa

    wrong = next(
        (value for value in values if value is not None and not isinstance(value, datetime)), None
    )
    zones = {value.tzinfo is None for value in values if isinstance(value, datetime)}
    if wrong is not None or len(zones) > 1:
        first = next(value for value in values if value is not None)
        other = wrong or next(
            v for v in values if v is not None and (v.tzinfo is None) != (first.tzinfo is None)
        )
        raise Mixed(
            first,
            other
            if other is not first
            else next(v for v in values if v is not None and v is not first),
        )
    counted: list[int | None] = []
    for value in values:
        if value is None:
            counted.append(None)
            continue
        micro = (without_nanoseconds(value) - EPOCH - (value.utcoffset() or timedelta(0))) // MICRO
        counted.append(micro * 1000 + getattr(value, "nanosecond", 0))
    if any(one is not None and not -(2**63) + 2 < one < 2**63 - 2 for one in counted):
        raise Bent(
            "has nanoseconds beside times outside of the years 1678 to 2261, which have none"
        )
    return pa.array(counted, pa.int64()).cast(pa.timestamp("ns", None if zones == {True} else ZONE))
