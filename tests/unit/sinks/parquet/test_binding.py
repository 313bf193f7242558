"""What the rules would miss, DuckDB's own binder catches before the commit."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import InputRejected
from sinks.parquet.binding import require_bound
from sinks.parquet.row_checks import connection_of
from sinks.values import common_type, contract, field_names, schema
from sinks.values.view_sql import missing
from tests.unit.sinks.parquet.test_writer import rows_of, writer
from tests.values.arrow_types import LEAVES


@pytest.mark.parametrize(
    "kind",
    [
        pa.struct([("a", pa.int8()), ("A", pa.int8())]),
        pa.list_(pa.struct([("", pa.int8())])),
        pa.map_(pa.string(), pa.struct([("x", pa.int8()), ("x", pa.int8())])),
    ],
)
def test_columns_that_no_view_can_have_are_found_by_binding_them(kind: pa.DataType) -> None:
    good = pa.schema(
        [("fine", pa.list_(pa.null())), ("hollow", pa.struct([])), ("t", pa.timestamp("ns", "UTC"))]
    )
    require_bound(None, good)
    with pytest.raises(InputRejected, match="column 'bad' is one that no query can read"):
        require_bound(good, good.append(pa.field("bad", kind)))


@pytest.mark.parametrize("names", [("name", "Name"), ("a", "a")])
def test_columns_that_hide_each_other_are_found(names: tuple[str, str]) -> None:
    """DuckDB takes them, and gives the second another name."""
    first, second = (pa.field(name, pa.string()) for name in names)
    with pytest.raises(
        InputRejected,
        match=f"column '{names[1]}' is one that no query can read .another has its name.",
    ):
        require_bound(pa.schema([first]), pa.schema([first, second]))


def test_duckdb_has_every_single_value_under_a_plain_name() -> None:
    """What binding does not ask about, once for all."""
    plain = {contract.plain_type(kind) for kind in LEAVES}
    for kind in plain:
        connection_of(os.getpid()).execute(f'SELECT {missing(kind)} AS "select"')
    assert len(plain) > 15


def test_a_rule_that_misses_something_costs_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "name_conflicts", lambda _: {})
    for module in (field_names, common_type, schema):
        monkeypatch.setattr(module, "folded", str)
    w = writer(tmp_path)
    w.add(0, "a", "e", [{"p": {"name": 1}}])
    w.add(1, "b", "e", [{"p": {"Name": 2}}])
    w.add(2, "c", "e", [{"p": {"name": 3}}])
    result = w.finish()
    assert list(result.problems) == [1]
    assert "no query can read" in result.problems[1]
    assert [row["p"] for row in rows_of(result)] == [{"name": 1}, {"name": 3}]
