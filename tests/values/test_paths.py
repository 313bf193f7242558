"""Every table that was committed can be read, by every path, and all of them say the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.values.model import Row
from tests.values.paths import ArrowWorld, lived
from tests.values.strategies import ANY, files, grouping, groups_of
from tests.values.test_arrow import tables

FEW = settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
"""The same in every run, and without the hours that shrinking would take: `python -m tests.values`
tries others.
"""


def life(given_files: list[list[Row]], sizes: list[int], widen: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lived(Path(folder, "world"), given_files, groups_of(given_files, sizes), widen)


def life_of_table(table: pa.Table) -> None:
    """The same of an Arrow table and a part of it; what SQL says at first is what all other paths
    must say.
    """
    with tempfile.TemporaryDirectory() as folder:
        lived(Path(folder, "world"), [table, table.slice(1)], [[0], [1]], None, make=ArrowWorld)


@given(files(ANY), grouping, st.sampled_from([None, "none", "string"]))
@FEW
def test_every_path_says_what_was_committed(
    given_files: list[list[Row]], sizes: list[int], widen: Any
) -> None:
    life(given_files, sizes, widen)


@given(tables())
@FEW
def test_every_path_says_the_same_of_arrow_tables(table: pa.Table) -> None:
    life_of_table(table)


VALUES: dict[str, Any] = {
    "bool": True,
    "int": 2**60,
    "float": 0.5,
    "text": "x",
    "bytes": b"\x00",
    "date": date(1, 1, 1),
    "naive": datetime(9999, 12, 31, 23, 59, 59),  # noqa: DTZ001
    "aware": datetime(2026, 1, 1, tzinfo=UTC),
    "time": time(1, 2, 3),
    "decimal": Decimal("1.50"),
    "uuid": UUID(int=1),
}
WRAPS: dict[str, Callable[[Any], Any]] = {
    "alone": lambda value: value,
    "list": lambda value: [value],
    "struct": lambda value: {"x": value},
    "lists": lambda value: [[value]],
    "structs": lambda value: [{"x": value}],
}


def test_what_was_not_known_becomes_any_type_at_any_depth() -> None:
    """In each column nothing is known at first, then all but the value itself is, then that is."""
    names = [(kind, wrap) for kind in VALUES for wrap in WRAPS]
    unknown = {f"{kind}_{wrap}": None for kind, wrap in names}
    around = {f"{kind}_{wrap}": WRAPS[wrap](None) for kind, wrap in names}
    known = {f"{kind}_{wrap}": WRAPS[wrap](VALUES[kind]) for kind, wrap in names}
    with tempfile.TemporaryDirectory() as folder:
        lived(Path(folder, "world"), [[unknown], [around], [known]], [[0], [1], [2]], "none")
