"""Files of rows: mostly of one table, so that many are kept, with other kinds of values here and
there.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from sinks.parquet.partitions import why_not
from tests.values.model import Row

EDGES = [
    0,
    1,
    -1,
    2**31,
    2**53,
    2**53 + 1,
    -(2**53) - 1,
    2**63 - 1,
    -(2**63),
    2**63,
    2**64 - 1,
    2**64,
]
whole = st.one_of(st.integers(-9, 9), st.sampled_from(EDGES))
floats = st.one_of(
    st.sampled_from([0.5, -0.0, 0.1, 1e20, 1e-7, float("nan"), float("inf"), float("-inf")]),
    st.floats(allow_nan=False),
)
texts = st.one_of(
    st.sampled_from(["", "x", "1", "NULL", "[]", "\0", 'a"b', "ä€𝄞", "\ud83d"]), st.text(max_size=4)
)
NAMES = ["a", "b", "A", "", "x\0", "key", "select", 'q"', "a.b", "É"]
names = st.one_of(st.sampled_from(["a", "b", "c"]), st.sampled_from(NAMES), st.text(max_size=2))
zones = st.sampled_from(
    [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))]
)
dates = st.one_of(
    st.sampled_from([date(1, 1, 1), date(9999, 12, 31), date(1970, 1, 1)]), st.dates()
)
naive = st.one_of(
    st.sampled_from([datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)]),  # noqa: DTZ001
    st.datetimes(),
)
aware = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=zones)  # noqa: DTZ001
decimals = (
    st.decimals(
        allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=3
    )
    | st.decimals()
)

SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int": whole,
    "float": floats,
    "number": st.one_of(st.integers(-9, 9), st.sampled_from([0.5, -2.25])),
    "text": texts,
    "bytes": st.binary(max_size=3),
    "date": dates,
    "naive": naive,
    "aware": aware,
    "time": st.times(),
    "decimal": decimals,
    "uuid": st.uuids(),
}
JSON = ("bool", "int", "float", "number", "text")


SHAPES = ("scalar",) * 5 + ("list", "struct", "struct", "unknown")


def values(kinds: tuple[str, ...], depth: int = 3) -> st.SearchStrategy[st.SearchStrategy[Any]]:
    """A strategy of strategies: what one place of a table mostly holds."""
    scalars = st.sampled_from(kinds).map(lambda kind: SCALARS[kind])
    if not depth:
        return scalars
    unknown = st.sampled_from(
        [st.none(), st.just([]), st.just({}), st.just([None]), st.just([[]]), st.just([{}])]
    )

    def of_shape(shape: str) -> st.SearchStrategy[st.SearchStrategy[Any]]:
        if shape == "list":
            return values(kinds, depth - 1).map(
                lambda one: st.lists(st.one_of(one, st.none()), max_size=3)
            )
        if shape == "struct":
            fields = st.dictionaries(names, values(kinds, depth - 1), min_size=1, max_size=3)
            return fields.map(lambda found: st.fixed_dictionaries({}, optional=found))
        return unknown if shape == "unknown" else scalars

    return st.sampled_from(SHAPES).flatmap(of_shape)


@st.composite
def files(draw: st.DrawFn, kinds: tuple[str, ...] = JSON) -> list[list[Row]]:
    """Some files of one table. Each value is null now and then, or of a kind of its own."""
    plan = draw(st.dictionaries(names, values(kinds), min_size=1, max_size=3))
    found: list[list[Row]] = []
    for _ in range(draw(st.integers(1, 5))):
        columns = {
            name: _beside(one, draw(st.integers(0, 9)), draw(values(kinds)))
            for name, one in plan.items()
        }
        found.append(
            draw(st.lists(st.fixed_dictionaries({}, optional=columns), min_size=1, max_size=3))
        )
    return found


def _beside(
    one: st.SearchStrategy[Any], chance: int, odd: st.SearchStrategy[Any]
) -> st.SearchStrategy[Any]:
    """What a column holds in one file: mostly its own values; now and then others instead of them,
    or among them.
    """
    if chance < 6:
        return one
    if chance < 8:
        return st.one_of(one, st.sampled_from([None, [], {}]))
    return odd if chance == 8 else st.one_of(one, odd)


DECLARED = (
    pa.int64(), pa.float64(), pa.string(), pa.bool_(), pa.date32(),
    pa.timestamp("us"), pa.timestamp("us", "UTC"),
    pa.decimal128(12, 3), pa.binary(), pa.list_(pa.int64()), pa.struct([("a",
        pa.int64())]), pa.map_(pa.string(), pa.int64()),
)  # fmt: skip
declared = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.sampled_from(DECLARED), min_size=1, max_size=2
).map(pa.schema)


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """What a pipeline declares of its table."""
    columns = draw(st.one_of(st.none(), declared))
    by = draw(st.sampled_from([(), (), ("a",), ("b",), ("a", "b")]))
    refused = any(
        columns is not None and name in columns.names and why_not(name, columns.field(name).type)
        for name in by
    )
    return {
        "mode": draw(st.sampled_from(["evolve", "freeze", "rescue"])),
        "declared": columns,
        "partition_by": () if refused else by,  # else it is refused before anything runs
    }


ANY = tuple(SCALARS)
grouping = st.lists(st.integers(1, 3), min_size=1, max_size=5)


def groups_of(files: list[Any], sizes: list[int]) -> list[list[int]]:
    """The files' numbers cut into groups of these sizes, the last one taking the rest."""
    found, start = [], 0
    for size in sizes:
        if start < len(files):
            found.append(list(range(start, min(start + size, len(files)))))
            start += size
    if start < len(files):
        found.append(list(range(start, len(files))))
    return found
