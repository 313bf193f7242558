"""What a target can never hold is said in one line, with the column's name, and what it held before
stays.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.errors import SettingsError
from sinks.copies.postgres_limits import COLUMNS_MAX, lasting, refuse_columns
from tests.contract.sinks_world import World, rows_of

_tags = (f"limits{n}" for n in itertools.count())


@pytest.fixture
def tag() -> str:
    return next(_tags)


def plain_flow() -> Pipeline:
    p = Pipeline("sales", source="up/")

    @p.transform
    def parse(obj: Any) -> Any:
        return [json.loads(line) for line in obj.lines()]

    return p


def by_tables_own() -> Pipeline:
    p = plain_flow()
    p.aggregate("sums", by=["n"], sql="SELECT n, count(*) AS ctid FROM sales GROUP BY n")
    return p


def published(world: World, stage: str, tag: str, kind: str = "postgres") -> str:
    return asyncio.run(
        world.publisher(world.target(kind, tag), world.snapshots[stage]).publish("it")
    ).problem


@pytest.mark.parametrize(
    "name",
    ["xmin", "tableoid", "ctid", "n" * 64, "ä" * 32],
    ids=["xmin", "tableoid", "ctid", "long", "bytes"],
)
def test_a_column_that_postgres_cannot_have_is_refused_by_name(
    tmp_path: Path, tag: str, name: str
) -> None:
    """Before a row is sent; the same with 63 bytes, or in capitals, goes in."""
    world = World(
        tmp_path, plain_flow, {"first": {"a": [{"n": 1}]}, "then": {"b": [{"n": 2, name: 3}]}}
    )
    assert published(world, "first", tag) == ""
    problem = published(world, "then", tag)
    assert problem.startswith("Postgres cannot have the column")
    assert name[:40] in problem
    assert "\n" not in problem
    assert [row["n"] for row in rows_of("postgres", world, tag, "sales")] == [1]


def test_near_misses_go_in(tmp_path: Path, tag: str) -> None:
    """Other names are nobody's."""
    row = {"XMIN": 1, "oid": 2, "m" * 63: 3, "rowid": 4, "at": 5, "select": 6}
    world = World(tmp_path, plain_flow, {"first": {"a": [row]}})
    for kind in ("postgres", "duckdb", "delta"):
        assert published(world, "first", tag, kind) == ""
        [found] = rows_of(kind, world, tag, "sales")
        assert {name: found[name] for name in row} == row


def test_an_aggregate_of_such_a_column_is_refused(tmp_path: Path, tag: str) -> None:
    """It names the aggregate."""
    world = World(tmp_path, by_tables_own, {"first": {"a": [{"n": 1}]}})
    assert "the column 'ctid' of sums" in published(world, "first", tag)


def test_values_and_rows_that_postgres_cannot_hold_are_named(tmp_path: Path, tag: str) -> None:
    """By its own error: without values, with the column."""
    far = plain_flow()
    wide = {f"n{i}": 2**60 + i for i in range(1_500)}
    world = World(tmp_path, lambda: far, {"first": {"a": [wide]}})
    problem = published(world, "first", tag)
    assert problem.startswith("Postgres cannot hold a row: row is too big")
    assert "\n" not in problem


def test_only_lasting_errors_are_final() -> None:
    """A connection that broke is tried again; a date out of range never goes in.

    Values are not repeated.
    """
    context = 'COPY sales, line 7, column "odd, name": "secret"'
    assert lasting("22008", 'date out of range: "secret"', context) == (
        """Postgres cannot hold a row: column '"odd, name"': date out of range"""
    )
    assert lasting(
        "54000", "row is too big: size 9000, maximum size 8160", "COPY sales, line 1"
    ).startswith("Postgres cannot hold")
    for code in ("08006", "57P01", "40001", "53100", None):
        assert lasting(code, "x", context) == ""


def test_as_many_columns_as_there_may_be() -> None:
    """One more is one too many, and it is named."""
    names = [f"c{i}" for i in range(COLUMNS_MAX + 1)]
    refuse_columns("t", names[:-1])
    with pytest.raises(SettingsError, match="1,601 columns, from 'c1600' on too many"):
        refuse_columns("t", names)
