"""What a query's result is in each of the five formats: every value of every DuckDB type, at any
depth, as it was.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli.tables.result_formats import carrier, writer
from pipeline.errors import SettingsError
from sinks.query.object_files import LocalFiles
from sinks.query.warehouse import Warehouse
from sinks.results.exact_types import unique


@dataclass(frozen=True)
class Value:
    """One value: its type in SQL, the SQL that makes it, and what it is in JSON."""

    kind: str
    sql: str
    json: Any
    digits: int = 0
    """Of the longest number in it."""


def known(kind: str, *pairs: tuple[str, Any]) -> st.SearchStrategy[Value]:
    return st.sampled_from(
        [Value(kind, f"CAST({made} AS {kind})", expected) for made, expected in pairs]
    )


def texts(kind: str, *values: str) -> st.SearchStrategy[Value]:
    return known(
        kind,
        *(
            (f"'{value}'", value.replace(" ", "T", 1) if "TIMESTAMP" in kind else value)
            for value in values
        ),
    )


def quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def whole(kind: str, least: int, most: int) -> st.SearchStrategy[Value]:
    return st.integers(least, most).map(
        lambda n: Value(kind, f"CAST('{n}' AS {kind})", n, len(str(abs(n))))
    )


def decimals(precision: int, scale: int) -> st.SearchStrategy[Value]:
    def made(n: int) -> Value:
        text = format(Decimal(f"{n}e-{scale}"), "f")
        return Value(
            f"DECIMAL({precision},{scale})",
            f"CAST('{text}' AS DECIMAL({precision},{scale}))",
            Decimal(text),
        )

    return st.integers(-(10**precision) + 1, 10**precision - 1).map(made)


def floats(kind: str, width: int) -> st.SearchStrategy[Value]:
    names = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    found = st.floats(width=width)  # type: ignore[call-overload]
    return found.map(lambda x: Value(kind, f"CAST('{x!r}' AS {kind})", names.get(repr(x), x)))  # type: ignore[no-any-return]


WHOLE = [
    *(
        whole(f"{kind}INT", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        for kind, bits in (("TINY", 8), ("SMALL", 16), ("BIG", 64))
    ),
    *(
        whole(f"U{kind}", 0, 2**bits - 1)
        for kind, bits in (("TINYINT", 8), ("INTEGER", 32), ("BIGINT", 64), ("HUGEINT", 128))
    ),
    whole("HUGEINT", -(2**127), 2**127 - 1),
    whole("BIGNUM", -(10**60), 10**60),
]
DATES = (
    "infinity",
    "-infinity",
    "9999-12-31",
    "0001-01-01",
    "0044-03-15 (BC)",
    "5000000-01-01",
    "2026-02-28",
)
MOMENTS = (
    "9999-12-31 23:59:59.999999",
    "0001-01-01 00:00:00",
    "2026-02-28 12:30:00.5",
    "200000-01-01 00:00:00",
)
NANO = ("2026-02-28 12:30:00.123456789", "1677-09-22 00:00:00", "2262-04-11 00:00:00.000000001")
LEAVES = st.one_of(
    *WHOLE,
    floats("DOUBLE", 64),
    floats("FLOAT", 32),
    decimals(38, 9),
    decimals(38, 38),
    *(decimals(18, scale) for scale in (0, 2, 6, 7)),
    known("BOOLEAN", ("true", True), ("false", False)),
    st.text(st.characters(exclude_characters="\0", codec="utf-8")).map(
        lambda s: Value("VARCHAR", quoted(s), s)
    ),
    st.sampled_from(["", "NULL", 'a"b', "a,b", "a\nb", "\r", " x ", "\\N", "%s"]).map(
        lambda s: Value("VARCHAR", quoted(s), s)
    ),
    st.binary(max_size=40).map(lambda b: Value("BLOB", f"unhex('{b.hex()}')", b.hex())),
    known("DATE", *((f"'{text}'", text) for text in DATES)),
    texts("TIMESTAMP", *MOMENTS),
    texts("TIMESTAMP_MS", *MOMENTS[1:]),
    texts("TIMESTAMP_S", "2026-02-28 12:30:00", "9999-12-31 23:59:59", "0001-01-01 00:00:00"),
    texts("TIMESTAMP_NS", *NANO),
    known("TIMESTAMP", ("'infinity'", "infinity"), ("'-infinity'", "-infinity")),
    known("TIMESTAMP", ("TIMESTAMP '0044-03-15 (BC) 10:00:00'", "0044-03-15 (BC) 10:00:00")),
    known(
        "TIMESTAMPTZ", *((f"'{text}+00'", f"{text.replace(' ', 'T')}+00:00") for text in MOMENTS)
    ),
    known("TIMESTAMPTZ", ("'infinity'", "infinity"), ("'-infinity'", "-infinity")),
    known(
        "TIMESTAMPTZ_NS", *((f"'{text}+00'", f"{text.replace(' ', 'T')}+00:00") for text in NANO)
    ),
    texts("TIME", "24:00:00", "00:00:00", "23:59:59.999999"),
    texts("TIME_NS", "23:59:59.999999999", "00:00:00.000000001"),
    texts("TIMETZ", "12:00:00+05:30", "24:00:00-15:59:59", "00:00:00.000001+00"),
    known(
        "INTERVAL",
        ("'1 month 2 days 3 seconds'", "1 month 2 days 00:00:03"),
        ("to_microseconds(9223372036854775807)", "2562047788:00:54.775807"),
    ),
    texts("BIT", "0", "0101", "11111111111111111"),
    texts("UUID", "00000000-0000-0000-0000-000000000001", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    texts("ENUM('a', 'x''y', '')".replace("''", "''"), "a", ""),
    known("JSON", ("""'{"a": [1, null]}'""", '{"a": [1, null]}')),
    known("GEOMETRY", ("'POINT (1 2)'", "POINT (1 2)")),
    st.just(
        Value(
            "UNION(n INTEGER, s VARCHAR)",
            "CAST(union_value(s := 'x') AS UNION(n INTEGER, s VARCHAR))",
            "x",
        )
    ),
    st.just(Value("INTEGER", "CAST(NULL AS INTEGER)", None)),
    st.just(Value("INTERVAL", "CAST(NULL AS INTERVAL)", None)),
    st.just(Value("UNION(n INTEGER)", "CAST(NULL AS UNION(n INTEGER))", None)),
    st.just(
        Value("DECIMAL(3,1)[2]", "CAST([1.5, NULL] AS DECIMAL(3,1)[2])", [Decimal("1.5"), None])
    ),
    st.just(Value("STRUCT", "{}", {})),
    st.just(Value('"NULL"', "NULL", None)),
)
FIELDS = st.sampled_from(["a", "B c", 'q"', "%s", "é", "key", "value"])


def lists(value: Value) -> Value:
    return Value(
        f"{value.kind}[]", f"[{value.sql}, {value.sql}]", [value.json, value.json], value.digits
    )


def structs(names: list[str], values: tuple[Value, ...]) -> Value:
    names = names[: len(values)]
    values = values[: len(names)]
    ids = ['"' + name.replace('"', '""') + '"' for name in names]
    fields = list(zip(ids, values, strict=True))
    kind = f"STRUCT({', '.join(f'{name} {value.kind}' for name, value in fields)})"
    made = f"struct_pack({', '.join(f'{name} := {value.sql}' for name, value in fields)})"
    found = {name: value.json for name, value in zip(names, values, strict=True)}
    return Value(kind, made, found, max(value.digits for value in values))


def maps(key: Value, value: Value) -> Value:
    if key.json is None or key.kind == "STRUCT":
        key = Value("VARCHAR", "'k'", "k")
    found = (
        {key.json: value.json}
        if key.kind in ("VARCHAR", "JSON")
        else [{"key": key.json, "value": value.json}]
    )
    kind = f"MAP({key.kind}, {value.kind})"
    return Value(kind, f"map([{key.sql}], [{value.sql}])", found, max(key.digits, value.digits))


def nested(inner: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    return st.one_of(
        inner.map(lists),
        st.builds(
            structs, st.lists(FIELDS, min_size=1, max_size=3, unique=True), st.tuples(inner, inner)
        ),
        st.builds(maps, inner, inner),
    )


VALUES = st.one_of(LEAVES, nested(LEAVES), nested(nested(LEAVES)), nested(nested(nested(LEAVES))))


@pytest.fixture(scope="module")
def warehouse() -> Iterator[Warehouse]:
    with Warehouse(LocalFiles("/")) as opened:
        yield opened


@contextmanager
def standard_output() -> Iterator[io.BytesIO]:
    before, body = sys.stdout, io.BytesIO()
    sys.stdout = io.TextIOWrapper(body, encoding="utf-8", write_through=True)
    try:
        yield body
    finally:
        sys.stdout.flush()
        sys.stdout.detach()
        sys.stdout = before


def printed(warehouse: Warehouse, statement: str, form: str, null: str = "") -> bytes:
    with (
        standard_output() as body,
        warehouse.open_query(statement, carrier=carrier(form), provenance=False) as result,
    ):
        writer(form, null)(result, result)
    return body.getvalue()


def strict(text: bytes | str, **how: Any) -> Any:
    def refused(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), pairs
        return dict(pairs)

    return json.loads(text, parse_constant=refused, object_pairs_hook=no_twins, **how)


def rough(value: Any) -> Any:
    """What is left where a format has fewer types: leaves are text, maps of texts are objects."""
    if isinstance(value, dict):
        return {name: rough(one) for name, one in value.items()} or "{}"
    if isinstance(value, list):
        pairs = [
            one
            for one in value
            if isinstance(one, dict)
            and set(one) == {"key", "value"}
            and isinstance(one["key"], str)
        ]
        if value and len(pairs) == len(value) and len({one["key"] for one in pairs}) == len(pairs):
            return {one["key"]: rough(one["value"]) for one in pairs}
        return [rough(one) for one in value]
    if isinstance(value, float):
        return repr(value)
    return value if value is None or isinstance(value, bool) else str(value)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_json_has_the_value(warehouse: Warehouse, value: Value) -> None:
    """Strict JSON, with all digits, and nothing said twice."""
    body = printed(warehouse, f"SELECT {value.sql} AS x", "json")
    assert strict(body, parse_float=_number) == [{"x": value.json}]


def _number(text: str) -> Any:
    return float(text) if "e" in text else _Digits(text)


class _Digits(Decimal):
    """Equal to a float that is written so, and to a decimal of the same digits."""

    def __eq__(self, other: object) -> bool:
        return float(self) == other if isinstance(other, float) else Decimal(self) == other

    __hash__ = Decimal.__hash__


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from(["", "NULL", "-", "1"]))
def test_csv_has_the_value(warehouse: Warehouse, value: Value, null: str) -> None:
    """Nested values are JSON, and NULL differs from every text by quotes."""
    body = printed(warehouse, f"SELECT {value.sql} AS x, 1 AS y", "csv", null).decode()
    head, row = csv.reader(io.StringIO(body, newline=""))
    assert (head, row[1]) == (["x", "y"], "1")
    bare = (
        body.partition("\n")[2].removesuffix(",1\n")
        if null != "1"
        else body.partition("\n")[2].removesuffix(',"1"\n')
    )
    assert (bare == null) == (value.json is None)
    if isinstance(value.json, dict | list):
        assert strict(row[0], parse_float=_number) == value.json
    elif value.json is not None and not isinstance(value.json, float | bool):
        expected = format(value.json, "f") if isinstance(value.json, Decimal) else str(value.json)
        assert row[0] == (
            expected.replace("T", " ", 1).replace("+00:00", "+00")
            if "TIMESTAMP" in value.kind
            else expected
        )


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from(["parquet", "arrow"]))
def test_files_have_the_value(warehouse: Warehouse, value: Value, form: str) -> None:
    """Read back by DuckDB: in the same type, or as text where the format has none."""
    if value.digits > 38 and "BIGNUM" not in value.kind:
        return
    body = io.BytesIO(printed(warehouse, f"SELECT {value.sql} AS x", form))
    table = pq.read_table(body) if form == "parquet" else pa.ipc.open_stream(body).read_all()
    name = warehouse.add_table("back", table)
    found = strict(printed(warehouse, f"SELECT * FROM {name}", "json"), parse_float=_number)
    assert rough_eq(found[0]["x"], value.json), (found, value.json)


def rough_eq(found: Any, expected: Any) -> bool:
    found, expected = rough(found), rough(expected)
    return bool(found == expected)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_a_table_shows_the_value(warehouse: Warehouse, value: Value) -> None:
    """On one line, whatever it is."""
    lines = printed(warehouse, f"SELECT {value.sql} AS x", "table").decode().splitlines()
    assert len(lines) == 3
    if value.json is None:
        assert lines[2].strip() == "NULL"
    if isinstance(value.json, int) and not isinstance(value.json, bool):
        assert re.sub(r"\D", "", lines[2]) == str(abs(value.json))


def test_names_are_told_apart(warehouse: Warehouse) -> None:
    """The second column of a name is numbered in every format, and no column is lost."""
    statement = "SELECT 1 AS a, 2 AS a, 3 AS A, 4 AS a_1, [5] AS b, [6] AS b"
    names = ["a", "a_2", "A_3", "a_1", "b", "b_1"]
    assert unique(["a", "a", "A", "a_1", "b", "b"]) == names
    assert list(strict(printed(warehouse, statement, "json"))[0].items()) == [
        *zip(names, [1, 2, 3, 4, [5], [6]], strict=True)
    ]
    assert pq.read_table(io.BytesIO(printed(warehouse, statement, "parquet"))).column_names == names
    assert pa.ipc.open_stream(printed(warehouse, statement, "arrow")).schema.names == names
    assert printed(warehouse, statement, "csv").splitlines()[0].decode() == ",".join(names)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize(
    "made",
    [
        "'340282366920938463463374607431768211455'::UHUGEINT",
        "[170141183460469231731687303715884105727]",
    ],
)
def test_numbers_too_long_for_a_format_are_refused(
    warehouse: Warehouse, made: str, form: str
) -> None:
    """The line names the column and the way out."""
    with pytest.raises(
        SettingsError,
        match=r"column big has a number of more than 38 digits.*CAST\(big AS VARCHAR\)",
    ):
        printed(warehouse, f"SELECT 1 AS a, {made} AS big", form)


@pytest.mark.parametrize("form", ["json", "csv"])
def test_no_rows_and_many_batches(warehouse: Warehouse, form: str) -> None:
    """What is printed is whole, whatever it was cut into."""
    assert (
        printed(warehouse, "SELECT 1 AS a WHERE false", form)
        == {"json": b"[]\n", "csv": b"a\n"}[form]
    )
    body = printed(
        warehouse, "SELECT i, [i] AS l, i::VARCHAR AS s FROM range(50000) t(i)", form
    ).decode()
    if form == "json":
        assert strict(body) == [{"i": i, "l": [i], "s": str(i)} for i in range(50_000)]
    else:
        assert [*csv.reader(io.StringIO(body))][1:] == [
            [str(i), f"[{i}]", str(i)] for i in range(50_000)
        ]


def test_null_alone_is_a_row(warehouse: Warehouse) -> None:
    """An empty line would be none."""
    assert printed(warehouse, "SELECT NULL::VARCHAR AS a", "csv") == b'a\n""\n'
    assert (
        printed(warehouse, "SELECT unnest([NULL, '', 'NULL']) AS a", "csv", "NULL")
        == b'a\nNULL\n\n"NULL"\n'
    )


def test_long_blobs_are_shown_short(warehouse: Warehouse) -> None:
    """A table on a terminal is for eyes; the other formats have all bytes."""
    statement = (
        "SELECT repeat('\\xff'::BLOB, 5000) AS b, {'inner': repeat('\\x00'::BLOB, 100)} AS s"
    )
    shown = printed(warehouse, statement, "table").decode()
    assert "f" * 32 + "... (5,000 bytes)" in shown
    assert "0" * 32 + "... (100 bytes)" in shown
    assert strict(printed(warehouse, statement, "json")) == [
        {"b": "ff" * 5000, "s": {"inner": "00" * 100}}
    ]
