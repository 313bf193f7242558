"""docs/TYPES.md says what the code does: its tables are those of the contract, and each example is
written and read back.
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest

from sinks.values.column_types import delta_type, duckdb_type, postgres_type
from sinks.values.contract import outside_type, plain_type, rules, stored_type
from sinks.values.view_sql import view_type
from tests.support.helpers import ROOT
from tests.values.writing import read_back, written

PAGE = ROOT / "docs" / "TYPES.md"
STORED: list[pa.DataType] = [
    *(
        pa.bool_(),
        pa.int8(),
        pa.int16(),
        pa.int32(),
        pa.int64(),
        pa.uint8(),
        pa.uint16(),
        pa.uint32(),
        pa.uint64(),
    ),
    *(
        pa.float32(),
        pa.float64(),
        pa.decimal128(18, 4),
        pa.string(),
        pa.binary(),
        pa.date32(),
        pa.time64("us"),
        pa.time64("ns"),
    ),
    *(pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.timestamp("ns", "UTC")),
    *(pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.map_(pa.string(), pa.int64())),
    *(pa.null(), pa.list_(pa.null()), pa.struct([])),
]


def arrow_table() -> list[str]:
    """The table of what becomes of Arrow's types."""
    probes = ["refused" if rule.plain.__name__ == "_refused" else "kept" for rule in rules()]
    return [
        f"| {rule.types} | {said} | {rule.form} |"
        for rule, said in zip(rules(), probes, strict=True)
    ]


def systems_table() -> list[str]:
    """The table of what each system shows."""
    lines = []
    for kind in STORED:
        outside = outside_type(kind)
        parquet = stored_type(kind)
        cells = (
            kind,
            parquet or "no column",
            view_type(kind),
            delta_type(outside),
            postgres_type(outside),
            duckdb_type(outside),
        )
        lines.append("| " + " | ".join(f"`{cell}`" for cell in cells) + " |")
    return lines


@pytest.mark.parametrize("line", [*arrow_table(), *systems_table()])
def test_every_type_is_in_the_page(line: str) -> None:
    assert line in PAGE.read_text().splitlines()


def examples() -> list[tuple[str, str]]:
    section = PAGE.read_text().partition("## From Python")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \| (?:`([^`]+)`|refused)", section, re.M)


@pytest.mark.parametrize(("source", "stored"), examples())
def test_python_values_become_what_the_page_says(source: str, stored: str) -> None:
    import dataclasses
    import datetime
    import decimal
    import uuid

    import numpy
    import pandas

    known = {
        "datetime": datetime,
        "Decimal": decimal.Decimal,
        "uuid": uuid,
        "numpy": numpy,
        "pandas": pandas,
    }
    known |= {
        "UTC": datetime.UTC,
        "date": datetime.date,
        "time": datetime.time,
        "timedelta": datetime.timedelta,
    }
    known["Point"] = dataclasses.make_dataclass("Point", [("x", int)])
    known["datetime"] = datetime.datetime
    value: Any = eval(source, known)  # noqa: S307 - our own page
    bad, schema, _ = written([[{"v": value}]], [[0]])
    if not stored:
        assert bad
        return
    assert schema is not None
    assert str(schema.field("v").type) == stored
    assert read_back([[{"v": value}]]).num_rows == 1


def test_plain_types_are_their_own(subtests: Any = None) -> None:
    for kind in STORED:
        assert plain_type(kind) == kind
