"""The reference: which files a table keeps, and what their values are then.

It knows Python's values and the rules, and no Arrow.

It holds every value that was committed, so that "exact" is looked up rather than derived.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

Row = dict[str, Any]
EXACT = 2**53
OWN = {"_source_key", "_source_etag", "_task", "_rescued"}


class Refused(Exception):
    """The file is set aside."""


@dataclass
class Kind:
    """What a place of a table holds: `name`, all numbers that were committed there, and the places
    within.
    """

    name: str = "null"
    whole: list[int] = field(default_factory=list)
    decimals: list[Decimal] = field(default_factory=list)
    inner: dict[str, Kind] = field(default_factory=dict)


def kind_of(values: Iterable[Any], widen: str) -> Kind:
    """The kind of the values of one file at one place. Raises Refused where they are of several."""
    found = [value for value in values if value is not None]
    names = {_name(value) for value in found}
    if not names:
        return Kind()
    name = names.pop() if len(names) == 1 else _both_in_file(names, widen)
    kind = Kind(name)
    kind.whole = [value for value in found if type(value) is int]
    kind.decimals = [value for value in found if isinstance(value, Decimal)]
    if any(not -(2**63) <= n < 2**64 for n in kind.whole) or (
        max(kind.whole, default=0) >= 2**63 and min(kind.whole) < 0
    ):
        raise Refused("beyond 64 bits")
    if name == "float" and any(abs(n) > EXACT for n in kind.whole):
        if widen != "string":
            raise Refused("no float")
        kind.name = "text"
    if name == "struct":
        _require_names(key for value in found for key in value)
        for key in dict.fromkeys(key for value in found for key in value):
            kind.inner[key] = kind_of((value.get(key) for value in found), widen)
    if name == "list":
        kind.inner["[]"] = kind_of((one for value in found for one in value), widen)
    if name == "decimal" and not _fits_digits(kind):
        raise Refused("more than 38 digits")
    return kind


def _require_names(names: Iterable[str]) -> None:
    different = set(names)
    if any(not name or "\0" in name for name in different) or len(
        {name.lower() for name in different}
    ) < len(different):
        raise Refused("names")


def _both_in_file(names: set[str], widen: str) -> str:
    if names == {"int", "float"}:
        return "float"
    if names == {"int", "decimal"}:
        return "decimal"
    if widen == "string" and not {"list", "struct", "bytes"} & names:
        return "text"
    raise Refused(f"mixed {names}")


def _name(value: Any) -> str:
    for kind, name in (
        (bool, "bool"),
        (int, "int"),
        (float, "float"),
        (str, "text"),
        (UUID, "text"),
        (bytes, "bytes"),
    ):
        if isinstance(value, kind):
            if isinstance(value, str) and any(0xD800 <= ord(c) < 0xE000 for c in value):
                raise Refused("no text")
            return name
    if isinstance(value, datetime):
        return "naive" if value.tzinfo is None else "aware"
    if isinstance(value, date):
        return "date"
    if isinstance(value, time):
        return "time"
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise Refused("no number")
        return "decimal"
    if isinstance(value, dict):
        return "struct"
    if isinstance(value, list | tuple):
        return "list"
    raise Refused(type(value).__name__)


def joined(known: Kind, new: Kind, widen: str) -> Kind:
    """The table's kind with a file's. Raises Refused where no kind holds all values of both."""
    name = (
        known.name
        if new.name == "null"
        else new.name
        if known.name == "null"
        else _both(known, new, widen)
    )
    kind = Kind(name, [*known.whole, *new.whole], [*known.decimals, *new.decimals])
    if not _holds(name, known, new, kind):
        if widen != "string":
            raise Refused(f"no {name}")
        kind.name = "text"
    if name == "struct":
        _require_names(dict.fromkeys([*known.inner, *new.inner]))
    for key in dict.fromkeys([*known.inner, *new.inner]):
        kind.inner[key] = joined(known.inner.get(key, Kind()), new.inner.get(key, Kind()), widen)
    return kind


def _both(known: Kind, new: Kind, widen: str) -> str:
    if known.name == new.name:
        return known.name
    pair = (known.name, new.name)
    if pair == ("float", "int") or (pair == ("int", "float") and widen != "none"):
        return "float"
    if pair == ("decimal", "int") or (pair == ("int", "decimal") and widen != "none"):
        return "decimal"
    if widen == "string" and not {"list", "struct", "bytes"} & set(pair):
        return "text"
    raise Refused(f"{pair}")


def _holds(name: str, known: Kind, new: Kind, both: Kind) -> bool:
    """Whether numbers of this kind are all that were committed, exactly."""
    if name == "float":
        return all(abs(n) <= EXACT for n in both.whole)
    if name == "int":  # a file's integers are signed, or unsigned where one needs it
        sides = {max(side.whole) >= 2**63 for side in (known, new) if side.whole}
        return len(sides) < 2
    return name != "decimal" or _fits_digits(both)


def _fits_digits(kind: Kind) -> bool:
    """At most 38 digits hold all of them.

    Integers count by what their column may reach: see `contract`.
    """
    wide = any(abs(n) > EXACT for n in kind.whole)
    before = max(
        [_before_point(d) for d in kind.decimals] + ([20 if wide else 16] if kind.whole else []),
        default=0,
    )
    after = max((max(-int(d.as_tuple().exponent), 0) for d in kind.decimals), default=0)
    return before + after <= 38


def _before_point(value: Decimal) -> int:
    _, digits, exponent = value.as_tuple()
    return max(len(digits) + int(exponent), 0)


def shown(value: Any, kind: Kind) -> Any:
    """A committed value as a table of this kind shows it."""
    if value is None:
        return None
    if kind.name == "float":
        return float(value)
    if kind.name == "decimal":
        return Decimal(value)
    if kind.name == "text":
        return text_of(value)
    if kind.name == "struct":
        return {key: shown(value.get(key), inner) for key, inner in kind.inner.items()}
    if kind.name == "list":
        return [shown(one, kind.inner["[]"]) for one in value]
    return value.astimezone(UTC) if kind.name == "aware" else value


def text_of(value: Any) -> str:
    """A value where its column became text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, Decimal):
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, datetime):
        text = (
            value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
        ).isoformat(" ")
        text = text.rstrip("0") if "." in text else text
        return text if value.tzinfo is None else text + "+00"
    if isinstance(value, time):
        text = value.isoformat()
        return text.rstrip("0") if "." in text else text
    return str(value)


class Table:
    """What a table holds after each file was offered, in the order of the commits."""

    def __init__(self, widen: str) -> None:
        self.widen = widen
        self.columns: dict[str, Kind] = {}
        self.rows: dict[str, list[Row]] = {}

    def offer(self, key: str, rows: list[Row]) -> bool:
        """Whether the file is kept."""
        try:
            columns = self._with(rows)
        except Refused:
            return False
        self.columns, self.rows[key] = columns, rows
        return True

    def _with(self, rows: list[Row]) -> dict[str, Kind]:
        names = dict.fromkeys(name for row in rows for name in row)
        if any(name.lower() in OWN for name in names):
            raise Refused("Tidemill's own")
        found = {name: kind_of((row.get(name) for row in rows), self.widen) for name in names}
        _require_names(dict.fromkeys([*self.columns, *found]))
        every = dict.fromkeys([*self.columns, *found])
        return {
            name: joined(self.columns.get(name, Kind()), found.get(name, Kind()), self.widen)
            for name in every
        }

    def shown(self) -> Iterator[tuple[str, Row]]:
        """Every row with its key, as a query shows it."""
        for key, rows in self.rows.items():
            for row in rows:
                yield key, {name: shown(row.get(name), kind) for name, kind in self.columns.items()}


def same(expected: Any, found: Any) -> bool:
    """Whether a value that was read is the expected one."""
    if expected is None or found is None:
        return expected is None and found is None
    if isinstance(expected, float):
        return isinstance(found, float) and (
            (math.isnan(expected) and math.isnan(found)) or expected == found
        )
    if isinstance(expected, dict):
        if not expected and found in ({}, []):  # no field is known yet: an empty map
            return True
        return (
            isinstance(found, dict)
            and list(expected) == list(found)
            and all(same(expected[k], found[k]) for k in expected)
        )
    if isinstance(expected, list | tuple):
        return (
            isinstance(found, list | tuple)
            and len(expected) == len(found)
            and all(map(same, expected, found))
        )
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    if isinstance(expected, UUID):
        return str(expected) == found
    if (
        isinstance(expected, datetime)
        and isinstance(found, datetime)
        and (expected.tzinfo is None) != (found.tzinfo is None)
    ):
        return False
    return bool(expected == found)
