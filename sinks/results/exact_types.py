"""In which type a query's column leaves DuckDB, so that what is printed has every value exactly.

Pure.

Arrow, which carries results, has no form for some of DuckDB's types and bends them without a word:
numbers of more than 38 digits, times with an offset, bits, long intervals. Python's own dates end
at the year 9999. So such values leave as text, by DuckDB's cast.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol, cast

from pipeline.errors import SettingsError
from pipeline.sql import quoting

Carrier = Literal["text", "parquet", "arrow"]
"""For whom: formats that write text (table, csv, json), Parquet, Arrow."""


class Kind(Protocol):
    """DuckDB's type of a column: `DuckDBPyType`."""

    @property
    def id(self) -> str: ...
    @property
    def children(self) -> list[tuple[str, object]]: ...


PLAIN = frozenset(
    (
        *(
            "boolean",
            "tinyint",
            "smallint",
            "integer",
            "bigint",
            "utinyint",
            "usmallint",
            "uinteger",
            "ubigint",
        ),
        *("float", "double", "decimal", "varchar", "blob"),
    )
)
"""Leave as they are, whoever asks."""
LONG = frozenset(("hugeint", "uhugeint"))
"""Whole numbers that may have more digits than decimals have."""
_AS_TEXT = frozenset(("bignum", "bit", "time with time zone", "interval", "union"))
"""Neither Parquet nor Arrow has them: Arrow's intervals end after 292 years, its unions lose their
nulls on the way.
"""
_NESTED = frozenset(("list", "array", "struct", "tuple", "map"))
DIGITS_MAX = 38


def carried(kind: Kind, carrier: Carrier) -> str:
    """The SQL type that a column of this one is cast to."""
    name = kind.id
    if name in _NESTED:
        return _nested(kind, carrier)
    if name in PLAIN:
        return "VARCHAR" if name == "varchar" else str(kind)
    if name == "null":
        return "VARCHAR" if carrier == "text" else str(kind)
    if name == "variant":
        return "JSON"
    if carrier == "text" or _leaves_as_text(name, carrier):
        return "VARCHAR"
    if name in LONG:
        return f"DECIMAL({DIGITS_MAX},0)"
    if name in ("timestamp_s", "timestamp_ms") and carrier == "parquet":
        return "TIMESTAMP"
    return str(kind)


def _leaves_as_text(name: str, carrier: Carrier) -> bool:
    return name in _AS_TEXT or (name == "enum" and carrier == "parquet")


def _nested(kind: Kind, carrier: Carrier) -> str:
    inner = members(kind)
    if kind.id in ("list", "array"):
        return carried(inner[0][1], carrier) + _size(kind, carrier)
    if kind.id == "map":
        return _map(inner[0][1], inner[1][1], carrier)
    fields = ", ".join(f"{quoting.name(name)} {carried(one, carrier)}" for name, one in inner)
    return f"STRUCT({fields})" if inner else "VARCHAR"


def _map(key: Kind, value: Kind, carrier: Carrier) -> str:
    named = "VARCHAR" if key.id == "null" else carried(key, carrier)
    return f"MAP({named}, {carried(value, carrier)})"


def _size(kind: Kind, carrier: Carrier) -> str:
    """What makes the type of values one of lists."""
    if kind.id == "array" and carrier == "arrow":
        return f"[{dict(kind.children)['size']}]"
    return "[]"


def members(kind: Kind) -> list[tuple[str, Kind]]:
    """What a nested type is made of, by name."""
    found = [(name, cast("Kind", one)) for name, one in kind.children if hasattr(one, "id")]
    if kind.id == "tuple":
        return [(f"element{i}", one) for i, (_, one) in enumerate(found, 1)]
    return found


def selected(names: Sequence[str], kinds: Sequence[Kind], carrier: Carrier) -> str | None:
    """A SELECT list over a query's result, by position; None where the result may
    leave as it is.
    """
    wanted, casts = unique(names), [carried(kind, carrier) for kind in kinds]
    if wanted == [*names] and all(
        cast == str(kind) for cast, kind in zip(casts, kinds, strict=True)
    ):
        return None
    return ", ".join(
        f"{_column(i, kind, target)} AS {quoting.name(name)}"
        for i, (name, kind, target) in enumerate(zip(wanted, kinds, casts, strict=True), 1)
    )


def _column(position: int, kind: Kind, target: str) -> str:
    return f"#{position}" if target == str(kind) else f"CAST(#{position} AS {target})"


def unique(names: Sequence[str]) -> list[str]:
    """The second `a` (or `A`: many readers do not tell them apart) is `a_1`, as in DuckDB's own
    tables.
    """
    taken, found = {name.casefold() for name in names}, list[str]()
    seen: set[str] = set()
    for name in names:
        wanted, i = name, 0
        while wanted.casefold() in seen or (i and wanted.casefold() in taken):
            i += 1
            wanted = f"{name}_{i}"
        seen.add(wanted.casefold())
        found.append(wanted)
    return found


def long_columns(names: Sequence[str], kinds: Sequence[Kind]) -> list[str]:
    """Columns that hold whole numbers which decimals may be too short for."""
    return [name for name, kind in zip(unique(names), kinds, strict=True) if _has_long(kind)]


@contextmanager
def too_long_numbers(columns: Sequence[str]) -> Iterator[None]:
    """Where a number of one of these columns is too long for decimals, the error says which and
    what to do.
    """
    try:
        yield
    except SettingsError as error:
        if not columns or f"to DECIMAL({DIGITS_MAX},0)" not in str(error):
            raise
        named = " or ".join(columns)
        raise SettingsError(
            f"column {named} has a number of more than {DIGITS_MAX} digits, which Parquet and Arrow"
            f" have no type for: ask for CAST({columns[0]} AS VARCHAR); csv and json have all"
            " digits"
        ) from None


def _has_long(kind: Kind) -> bool:
    return kind.id in LONG or (
        kind.id in _NESTED and any(_has_long(one) for _, one in members(kind))
    )
