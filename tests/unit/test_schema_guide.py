"""The guide's table of types is the code's."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from pipeline.model.settings import Widen
from sinks.values.common_type import common_type, fixed_type
from sinks.values.extremes import NONE_WIDE, Wide
from tests.support.helpers import ROOT

TYPES = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp[s]": pa.timestamp("s"),
    "timestamp[us]": pa.timestamp("us"),
    "timestamp[ns]": pa.timestamp("ns"),
    "timestamp[us, UTC]": pa.timestamp("us", "UTC"),
    "decimal(10,2)": pa.decimal128(10, 2),
    "decimal(18,2)": pa.decimal128(18, 2),
    "decimal(12,4)": pa.decimal128(12, 4),
    "list<int32>": pa.list_(pa.int32()),
    "list<int64>": pa.list_(pa.int64()),
    "struct<a int64>": pa.struct([("a", pa.int64())]),
    "struct<a int64, b string>": pa.struct([("a", pa.int64()), ("b", pa.string())]),
}
POLICIES: tuple[Widen, ...] = ("none", "float", "string")


def rows() -> list[list[str]]:
    section = (
        (ROOT / "docs/guides/schema.md")
        .read_text()
        .partition("## Which types fit together")[2]
        .partition("\n## ")[0]
    )
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in re.split(r"\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]} and {row[1]}")
def test_types_fit_together_as_the_guide_says(row: list[str]) -> None:
    (known, known_wide), (new, new_wide) = kind_of(row[0]), kind_of(row[1])
    for policy, said in zip(POLICIES, row[2:5], strict=True):
        assert common_type(known, new, policy, known_wide, new_wide) == (
            None if said == "no" else TYPES[said]
        ), policy
    fixed = {"no": None, "fits": known}.get(row[5], TYPES.get(row[5]))
    assert fixed_type(known, new) == fixed


def kind_of(cell: str) -> tuple[pa.DataType, Wide]:
    """A cell's type, and whether it says that the values are beyond what other types hold."""
    named, _, said = cell.partition("`, ")
    return TYPES[named], frozenset({()}) if "some beyond" in said or said == "beyond" else NONE_WIDE


def test_every_kind_of_type_is_in_the_table() -> None:
    named = {cell.partition("`, ")[0] for row in rows() for cell in row[:2]}
    assert named == set(TYPES) - {"decimal(18,2)"}
