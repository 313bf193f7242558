"""Every table that was committed can be read, by every path, and all of them say the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.values.model import Row
from tests.values.paths import ArrowWorld, lived
from tests.values.strategies import ANY, files, grouping, groups_of
from tests.values.test_arrow import tables

FEW = settings(
    max_examples=4, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None
)
"""The same in every run, and without the hours that shrinking would take: `python -m tests.values` tries others."""


def life(given_files: list[list[Row]], sizes: list[int], widen: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lived(Path(folder, "world"), given_files, groups_of(given_files, sizes), widen)


def life_of_table(table: pa.Table) -> None:
    """The same of an Arrow table and a part of it; what SQL says at first is what all other paths must say."""
    with tempfile.TemporaryDirectory() as folder:
        lived(Path(folder, "world"), [table, table.slice(1)], [[0], [1]], None, make=ArrowWorld)


@given(files(ANY), grouping, st.sampled_from([None, "none", "string"]))
@FEW
def test_every_path_says_what_was_committed(given_files: list[list[Row]], sizes: list[int], widen: Any) -> None:
    life(given_files, sizes, widen)


@given(tables())
@FEW
def test_every_path_says_the_same_of_arrow_tables(table: pa.Table) -> None:
    life_of_table(table)
