"""Which objects a backfill takes."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.discover.backfill_selection import Selection
from pipeline.discover.compare import Known
from pipeline.discover.router import Router
from pipeline.model.settings import PipelineSettings, TransformSettings
from tests.support.builders import pipeline_settings

HOUR_US = 3_600_000_000


def settings() -> PipelineSettings:
    return pipeline_settings(
        TransformSettings(name="csv", version="c2", match=("**/*.csv",)),
        TransformSettings(name="rest", version="r1", match=("**/*.t*",)),
    )


def takes(
    key: str = "up/a.csv",
    modified_us: int = 0,
    *,
    version: str = "c2",
    sequence: int = 5,
    **wanted: Any,
) -> bool:
    chosen = Selection(settings=settings(), **wanted).again(Router(settings()))
    return chosen(key, modified_us, Known("e", "o", version, sequence))


def test_without_bounds_everything_is_taken() -> None:
    assert takes()
    assert takes("up/matched-by-nothing")


@pytest.mark.parametrize(
    ("prefix", "taken"),
    [("up/", True), ("up/a", True), ("up/b", False), ("up/a.csv", True), ("up/a.csv2", False)],
)
def test_keys_by_prefix(prefix: str, taken: bool) -> None:
    assert takes(prefix=prefix) is taken


@pytest.mark.parametrize(
    ("at", "taken"), [(-1, False), (0, True), (HOUR_US - 1, True), (HOUR_US, False)]
)
def test_times_from_the_first_on_and_before_the_second(at: int, taken: bool) -> None:
    assert takes(modified_us=at, since_us=0, until_us=HOUR_US) is taken


@pytest.mark.parametrize(
    ("key", "transform", "taken"),
    [
        ("up/a.csv", "csv", True),
        ("up/a.csv", "rest", False),
        ("up/a.txt", "rest", True),
        ("up/a.other", "csv", False),
        ("up/a.csv", "gone", False),
    ],
)
def test_by_the_transform_that_takes_them_now(key: str, transform: str, taken: bool) -> None:
    assert takes(key, transform=transform) is taken


@pytest.mark.parametrize(
    ("key", "version", "taken"),
    [
        ("up/a.csv", "c2", False),
        ("up/a.csv", "c1", True),
        ("up/a.csv", "r1", True),
        ("up/a.txt", "r1", False),
        ("up/a.other", "old", False),
    ],
)
def test_outdated_are_rows_of_another_version_of_the_code_that_takes_the_object_now(
    key: str, version: str, taken: bool
) -> None:
    assert takes(key, version=version, outdated=True) is taken


@pytest.mark.parametrize(("sequence", "taken"), [(4, True), (5, True), (6, False)])
def test_a_resumed_backfill_leaves_out_what_was_committed_since_it_began(
    sequence: int, taken: bool
) -> None:
    assert takes(sequence=sequence, committed_upto=5) is taken


def test_all_bounds_hold_together() -> None:
    fits: dict[str, Any] = {
        "prefix": "up/",
        "since_us": 0,
        "until_us": HOUR_US,
        "transform": "csv",
        "outdated": True,
        "committed_upto": 5,
    }
    assert takes(version="c1", modified_us=1, **fits)
    for wrong in (
        {"prefix": "x"},
        {"since_us": 2},
        {"until_us": 1},
        {"transform": "rest"},
        {"committed_upto": 4},
    ):
        assert not takes(version="c1", modified_us=1, **{**fits, **wrong}), wrong
