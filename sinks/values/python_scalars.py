"""One Python value as one of Python's own kinds: what numpy, pandas and subclasses have in place of
them.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

OWN: frozenset[type] = frozenset(
    {bool, int, float, str, bytes, date, time, datetime, Decimal, UUID, dict, list, tuple}
)

_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int),
    (float, float),
    (bytes, bytes),
    (bytearray, bytes),
    (memoryview, bytes),
    (Decimal, Decimal),
    (UUID, lambda value: UUID(int=value.int)),
    (Mapping, dict),
    (list, list),
    (tuple, list),
    (set, list),
    (frozenset, list),
    (time, lambda v: time(v.hour, v.minute, v.second, v.microsecond, v.tzinfo, fold=v.fold)),
)
"""Subclasses are taken for what they are made of."""


def plain_value(value: Any) -> Any:
    """The value as one of Python's own kinds; as it is where there is none, and where it has
    nanoseconds.
    """
    if value is None or type(value) in OWN:
        return value
    pandas, numpy = sys.modules.get("pandas"), sys.modules.get("numpy")
    if pandas is not None and (value is pandas.NaT or value is pandas.NA):
        return None
    if numpy is not None and isinstance(value, numpy.generic | numpy.ndarray):
        return _of_numpy(value)
    if isinstance(value, Enum):
        return plain_value(value.value) if isinstance(value, int | str | float) else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return (
            value if getattr(value, "nanosecond", 0) else without_nanoseconds(value, value.tzinfo)
        )
    if isinstance(value, date):
        return date(value.year, value.month, value.day)
    for base, make in _BASES:
        if isinstance(value, base):
            return make(value)
    return value


def without_nanoseconds(value: datetime, zone: Any = None) -> datetime:
    """A time as Python's own, which has microseconds; in no zone, or in this one."""
    day, hour, micro = (
        (value.year, value.month, value.day),
        (value.hour, value.minute, value.second),
        value.microsecond,
    )
    return datetime(*day, *hour, micro, zone, fold=value.fold)  # noqa: DTZ001


def _of_numpy(value: Any) -> Any:
    numpy = sys.modules["numpy"]
    if isinstance(value, numpy.ndarray):
        return list(value) if value.ndim else plain_value(value[()])
    if isinstance(value, numpy.datetime64 | numpy.timedelta64):
        return _of_numpy_time(value)
    if isinstance(value, numpy.longdouble | numpy.clongdouble):
        return value  # more than a float holds
    return plain_value(value.item())


def _of_numpy_time(value: Any) -> Any:
    """numpy's times as Python's; one with nanoseconds as pandas' where that is here, else it stays,
    and goes nowhere.
    """
    if str(value) == "NaT":
        return None
    plain_value = value.item()
    if isinstance(plain_value, date | datetime):
        return plain_value
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(value, sys.modules["numpy"].datetime64):
        return value
    stamp = pandas.Timestamp(value)
    return stamp if stamp.nanosecond else stamp.to_pydatetime()
