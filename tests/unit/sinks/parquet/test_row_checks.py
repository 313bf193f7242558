"""Checks: what is no condition is refused when it is declared; a row that breaks one is dealt with
before anything is committed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from pipeline import Pipeline
from pipeline.errors import SettingsError
from pipeline.model.settings import CheckAction, CheckSettings
from sinks.parquet import writer as parquet
from tests.unit.sinks.parquet.test_writer import rows_of, writer


def declared(
    *checks: tuple[str, CheckAction], schema: pa.Schema | None = None
) -> tuple[CheckSettings, ...]:
    p = Pipeline("t", source="up/", schema=schema)
    for i, (sql, action) in enumerate(checks):
        p.check(f"c{i}", sql, action=action)
    return tuple(p.checks)


def written(sources: list[object], *checks: tuple[str, CheckAction], **spec: Any) -> Any:
    w = writer(Path("/nowhere"), checks=declared(*checks), **spec)
    for i, result in enumerate(sources):
        w.add(i, f"k{i}", "e", result)
    return w.finish()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("amount >=", "is no SQL expression"),
        ("1), (2", "not one SQL expression"),
        ("1) FROM x; DROP TABLE x; SELECT (1", "is no SQL expression|not one SQL expression"),
        ("", "give a condition"),
        ("sum(amount) > 3", "about one row"),
        ("row_number() OVER () > 1", "about one row"),
        ("(SELECT 1) = 1", "about one row"),
        ("count(*) > 1", "about one row"),
        ("nosuch(amount)", "nosuch does not exist"),
        ("amount.x > 1", "struct"),
    ],
)
def test_what_is_no_condition_over_a_row_is_refused_when_declared(sql: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as refused:
        declared((sql, "warn"), schema=pa.schema({"amount": pa.int64()}))
    assert "\n" not in str(refused.value)
    assert "pipeline t, check c0: " in str(refused.value)


def test_names_and_actions_are_checked() -> None:
    p = Pipeline("t", source="up/")
    p.check("positive", "n > 0")
    for name, action, words in (
        ("positive", "warn", "taken"),
        ("other", "drop", "quarantine"),
        ("No", "warn", "lower-case"),
    ):
        with pytest.raises(SettingsError, match=words):
            p.check(name, "n > 0", action=action)  # type: ignore[arg-type]
    assert [(c.name, c.action, c.columns) for c in p.checks] == [("positive", "quarantine", ("n",))]


def test_declaring_a_check_leaves_no_thread_behind() -> None:
    declared(("n > 0", "warn"))
    before = psutil.Process().num_threads()
    declared(("n > 0", "warn"), ("length(s) > 0", "warn"))
    assert psutil.Process().num_threads() == before, "workers are forked from this process"


def test_a_file_that_breaks_a_check_is_set_aside_alone_with_the_condition_as_reason() -> None:
    done = written(
        [[{"n": 1}], [{"n": -1}, {"n": -2}, {"n": 3}], pa.table({"n": [-5, None]})],
        ("n >= 0", "quarantine"),
    )
    assert done.problems == {
        1: "check c0: n >= 0: 2 rows break it",
        2: "check c0: n >= 0: a row breaks it",
    }
    assert [(row["_source_key"], row["n"]) for row in rows_of(done)] == [("k0", 1)]
    assert (done.rows, done.broken) == ({0: 1}, {"c0": 3})


def test_rejected_rows_go_to_the_rejected_table_with_the_check_as_reason_and_the_rest_stays() -> (
    None
):
    rows = [{"n": 1, "s": "a"}, {"n": -1, "s": "b"}, {"n": None, "s": None}]
    done = written([rows, iter(rows[:1])], ("n >= 0", "reject"), ("s IS NOT NULL", "reject"))
    assert done.rows == {0: 1, 1: 1}
    assert done.rejected == {0: 2}
    assert [(r["n"], r["_source_key"]) for r in rows_of(done)] == [(1, "k0"), (1, "k1")]
    assert [
        (json.loads(r["row"]), r["reason"], r["_source_key"]) for r in rows_of(done, "rejected")
    ] == [
        ({"n": -1, "s": "b"}, "check c0: n >= 0", "k0"),
        ({"n": None, "s": None}, "check c1: s IS NOT NULL", "k0"),
    ]


def test_warnings_are_counted_only() -> None:
    done = written([[{"n": -1}, {"n": 1}], [{"n": -3}]], ("n >= 0", "warn"), ("n < 100", "warn"))
    assert (done.rows, done.problems, done.rejected, done.broken) == (
        {0: 2, 1: 1},
        {},
        {},
        {"c0": 2},
    )


def test_rows_that_users_reject_and_rows_that_a_check_rejects_are_counted_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parquet, "CONVERT_ROWS", 1)
    w = writer(Path("/nowhere"), checks=declared(("n >= 0", "reject")))
    w.add(0, "k", "e", [{"n": -1}, {"n": 1}], [("line", "no JSON")])
    done = w.finish()
    assert (done.rows, done.rejected) == ({0: 1}, {0: 2})
    assert sorted(r["reason"] for r in rows_of(done, "rejected")) == ["check c0: n >= 0", "no JSON"]


def test_a_column_that_the_rows_lack_is_null_and_null_meets_a_condition() -> None:
    assert written([[{"n": 1}]], ("m > 3", "quarantine")).problems == {}
    assert written([[{"n": 1}]], ("m IS NOT NULL", "quarantine")).problems == {
        0: "check c0: m IS NOT NULL: a row breaks it"
    }
    nested = written([[{"u": {"id": 1}}, {"u": {"id": -1}}]], ("u.id > 0", "reject"))
    assert (nested.rows, nested.rejected) == ({0: 1}, {0: 1})
    assert (
        written([[{"n": 1}]], ("_source_key LIKE 'x%'", "quarantine"))
        .problems[0]
        .startswith("check c0")
    )


def test_a_check_that_cannot_be_computed_costs_the_file_at_fault() -> None:
    done = written([[{"s": "1"}], [{"s": "x"}]], ("s::int > 0", "quarantine"))
    assert list(done.problems) == [1]
    assert done.problems[1].startswith("check c0 cannot be computed (s::int > 0): ")
    done = written([[{"n": 1}]], ("n + 1", "quarantine"))
    assert "neither true nor false" in done.problems[0]


def test_checks_see_what_is_stored_also_after_a_rescue() -> None:
    schema = pa.schema({"n": pa.int64()})
    done = written(
        [[{"n": "12", "x": 1}, {"n": "y"}]],
        ("_rescued IS NULL", "reject"),
        mode="rescue",
        declared=schema,
    )
    assert (done.rows, done.rejected) == ({}, {0: 2})
    done = written(
        [[{"n": "12"}, {"n": "y"}]], ("n IS NOT NULL", "reject"), mode="rescue", declared=schema
    )
    assert (done.rows, done.rejected) == ({0: 1}, {0: 1})
    assert json.loads(rows_of(done, "rejected")[0]["row"]) == {"n": None, "_rescued": '{"n": "y"}'}


@pytest.mark.parametrize("mode", ["freeze", "rescue"])
def test_a_check_on_a_column_that_is_not_declared_is_refused_where_no_other_can_come(
    mode: Any,
) -> None:
    closed = Pipeline(
        "t",
        source="up/",
        schema=pa.schema([("amount", pa.float64()), ("tags", pa.list_(pa.int64()))]),
        schema_mode=mode,
    )
    with pytest.raises(
        SettingsError,
        match=(
            r"check pos: the columns are fixed .* and 'ammount' is none of them; did you mean"
            r" 'amount'\?"
        ),
    ):
        closed.check("pos", "ammount > 3")
    closed.check("case", "AMOUNT > 3")
    closed.check("qualified", "t.amount > 3")
    closed.check("own", "_source_key <> ''")
    closed.check(
        "parameters",
        "len(list_filter(tags, lambda x: x > 3)) = 0 AND len([y FOR y IN tags IF y > 3]) = 0",
    )
    if mode == "rescue":
        closed.check("rescued", "_rescued IS NULL")
    else:
        with pytest.raises(SettingsError, match="_rescued"):
            closed.check("rescued", "_rescued IS NULL")
    assert len(closed.checks) == (5 if mode == "rescue" else 4)


@pytest.mark.parametrize("mode", ["freeze", "rescue"])
@pytest.mark.parametrize("option", ["order_by", "partition_by"])
def test_other_names_of_columns_are_looked_at_too(mode: Any, option: Any) -> None:
    with pytest.raises(
        SettingsError, match=f"{option}: the columns are fixed .*did you mean 'amount'?"
    ):
        Pipeline(
            "t",
            source="up/",
            schema=pa.schema([("amount", pa.float64())]),
            schema_mode=mode,
            **{option: ["amuont"]},
        )


def test_a_column_that_may_come_may_be_checked() -> None:
    evolving = Pipeline("t", source="up/", schema=pa.schema([("amount", pa.float64())]))
    evolving.check("pos", "ammount > 3")
    assert evolving.checks[0].columns == ("ammount",)


def test_a_check_that_fails_at_a_word_of_sql_says_what_to_quote() -> None:
    with pytest.raises(SettingsError, match='write "at", with the quotes'):
        Pipeline("t", source="up/").check("late", "at > 3")
    Pipeline("t", source="up/").check("late", '"at" > 3')
