"""What becomes of a file is what its values say, whatever lies beside it."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sinks.parquet import transform_results, writer
from tests.values.model import Row, Table, same
from tests.values.strategies import ANY, JSON, files, grouping, groups_of, specs
from tests.values.writing import written

USUAL = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
widenings = st.sampled_from(["none", "float", "string"])


def check(given_files: list[list[Row]], widen: Any) -> None:
    model = Table(widen)
    kept = {i for i, rows in enumerate(given_files) if model.offer(str(i), rows)}
    bad, _, rows = written(given_files, [[i] for i in range(len(given_files))], widen)
    assert set(range(len(given_files))) - bad == kept
    expected: dict[int, list[Row]] = {i: [] for i in kept}
    for key, row in model.shown():
        expected[int(key)].append(row)
    for i in kept:
        assert len(rows[i]) == len(expected[i])
        for wanted, found in zip(expected[i], rows[i], strict=True):
            assert list(wanted) == list(found)
            for name in wanted:
                assert same(wanted[name], found[name]), (name, wanted[name], found[name])


def company(
    given_files: list[list[Row]],
    sizes: list[int],
    widen: Any,
    goes: int,
    spec: dict[str, Any] | None = None,
) -> None:
    """The files one by one, and in groups. goes: after so many rows a file comes in another go, and
    perhaps into another output.

    SQL says nothing of the order of rows that lie in several outputs, so neither does this.
    """
    spec = spec or {}
    alone = written(given_files, [[i] for i in range(len(given_files))], widen, **spec)
    with pytest.MonkeyPatch.context() as patch:
        if not _has_long(given_files):  # the limit that docs/SEMANTICS.md names with this promise
            patch.setattr(transform_results, "ROWS_MAX", 1)
            patch.setattr(writer, "CONVERT_ROWS", goes)
        patch.setattr(writer, "FILE_BYTES", 1 if goes % 2 else writer.FILE_BYTES)
        grouped = written(
            [iter(rows) for rows in given_files], groups_of(given_files, sizes), widen, **spec
        )
    assert alone[0] == grouped[0]
    if len(alone[0]) < len(given_files):  # else the columns are the declared ones, committed or not
        assert alone[1] == grouped[1]
    assert _unordered(alone[2]) == _unordered(grouped[2])


def _has_long(value: Any) -> bool:
    """Whether there are whole numbers that `int64` does not hold, at any depth."""
    if isinstance(value, dict):
        return any(map(_has_long, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_long, value))
    return isinstance(value, int) and value >= 2**63


def _unordered(rows: dict[int, list[Row]]) -> dict[int, list[str]]:
    return {i: sorted(map(repr, of_file)) for i, of_file in rows.items()}


@given(files(JSON), widenings)
@USUAL
def test_documents_are_kept_exactly_or_set_aside(given_files: list[list[Row]], widen: Any) -> None:
    check(given_files, widen)


@given(files(ANY), widenings)
@USUAL
def test_python_values_are_kept_exactly_or_set_aside(
    given_files: list[list[Row]], widen: Any
) -> None:
    check(given_files, widen)


@given(files(ANY), grouping, widenings, st.integers(1, 9))
@USUAL
def test_the_company_of_a_file_changes_nothing(
    given_files: list[list[Row]], sizes: list[int], widen: Any, goes: int
) -> None:
    company(given_files, sizes, widen, goes)


@given(files(ANY), grouping, widenings, st.integers(1, 9), specs())
@USUAL
def test_nor_does_it_in_any_mode_with_declared_columns_and_partitions(
    given_files: list[list[Row]], sizes: list[int], widen: Any, goes: int, spec: dict[str, Any]
) -> None:
    company(given_files, sizes, widen, goes, spec)


@pytest.mark.parametrize("kind", [Counter, lambda **names: defaultdict(int, names)])
def test_a_mapping_that_answers_for_names_it_lacks_has_only_those_it_has(kind: Any) -> None:
    _, _, rows = written([[{"m": kind(a=1)}, {"m": kind(b=2)}]], [[0]])
    assert rows[0] == [{"m": {"a": 1, "b": None}}, {"m": {"a": None, "b": 2}}]
