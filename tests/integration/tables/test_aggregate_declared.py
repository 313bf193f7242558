"""Aggregates: what can never be one is refused before anything runs, and every value of a result
has a form to be stored in.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.helpers import Project, lines

FLOW = """
import json
from pipeline import Pipeline, Object

t = Pipeline("t", source="up/")

@t.transform
def rows(obj: Object):
    return [json.loads(line) for line in obj.lines()]

t.aggregate("made", by={by!r}, sql={sql!r})
"""


@pytest.mark.parametrize(
    ("by", "sql", "why"),
    [
        (["k"], "SELECT k, count(* FROM t GROUP BY k", "its SQL cannot be read: Parser Error"),
        (["k"], "SELEC k FROM t", "its SQL cannot be read"),
        (["k"], "SELECT k FROM t GROUP BY k; DROP TABLE t", "not one SELECT"),
        (["k"], "CREATE TABLE x AS SELECT 1", "not one SELECT"),
        (["k"], "-- nothing", "not one SELECT"),
        (
            ["k"],
            "SELECT k, count(*) AS n, sum(v) AS N FROM t GROUP BY k",
            "two columns of its result are called 'N'",
        ),
        (
            ["k"],
            "SELECT k, k, count(*) AS n FROM t GROUP BY k",
            "two columns of its result are called 'k'",
        ),
        (
            ["day"],
            "SELECT k, count(*) AS n FROM t GROUP BY k",
            "by='day' is not a column of its result (k, n)",
        ),
        (["k"], "SELECT k, count(*) AS _tidemill_rows FROM t GROUP BY k", "Tidemill's own"),
    ],
)
def test_what_can_never_be_an_aggregate_is_refused_before_the_run(
    tmp_path: Path, by: list[str], sql: str, why: str
) -> None:
    """By `plan`, and by `run` while its workers begin; in one line."""
    project = Project(tmp_path, FLOW.format(by=by, sql=sql))
    project.upload("1.jsonl", lines({"k": "a", "v": 1}))
    for command in ("plan", "run"):
        done = project.call(command, code=2)
        assert why in done.stderr
        assert "aggregate made" in done.stderr
        assert len(done.stderr.splitlines()) == 1


ODD = """SELECT k, INTERVAL 1 MONTH * count(*) AS span, union_value(n := count(*)) AS either,
 sum(v::HUGEINT) AS total,
 {} AS nothing, [union_value(s := k)] AS list, '12:00:00+02'::TIMETZ AS tz, '101'::BIT AS bits,
 'a'::ENUM('a') AS e, max(v)::BIGNUM AS big,
 NULL AS unknown, [] AS empty, MAP {} AS none, avg(v) * 'inf'::DOUBLE AS far,
  DATE 'infinity' AS always,
 count(*), uuid() IS NULL AS f FROM t GROUP BY k"""
STORED = {
    "k": "a",
    "span": "2 months",
    "either": "2",
    "total": 3,
    "nothing": "{}",
    "list": ["a"],
    "tz": "12:00:00+02",
    "bits": "101",
    "e": "a",
    "big": "2",
    "unknown": None,
    "empty": [],
    "none": {},
    "far": "Infinity",
    "always": "infinity",
    "count_star()": 2,
    "f": False,
}


def test_every_type_of_a_result_has_a_form_to_be_stored_in(tmp_path: Path) -> None:
    """The same whether it is committed, computed when asked, or computed for the groups that
    changed.
    """
    project = Project(tmp_path, FLOW.format(by=["k"], sql=ODD))
    project.upload("1.jsonl", lines({"k": "a", "v": 1}, {"k": "a", "v": 2}))
    assert project.run()["aggregates_failed"] == ""
    assert project.sql("FROM made") == [STORED]
    project.call("aggregate", "--check")
    project.upload("2.jsonl", lines({"k": "b", "v": 5}))
    assert project.run()["aggregates_failed"] == ""
    kinds = {row["column_name"]: row["column_type"] for row in project.sql("DESCRIBE made")}
    assert project.sql("FROM made WHERE k = 'a'") == [STORED]
    project.write(FLOW.format(by=["k"], sql=ODD + " HAVING true"))
    assert project.sql("FROM made WHERE k = 'a'") == [STORED]
    assert {row["column_name"]: row["column_type"] for row in project.sql("DESCRIBE made")} == kinds


def test_a_diff_of_such_values_is_json(tmp_path: Path) -> None:
    """Examples have every value as `sql` has it."""
    project = Project(tmp_path, FLOW.format(by=["k"], sql=ODD))
    project.upload("1.jsonl", lines({"k": "a", "v": 1}))
    project.run()
    project.upload("1.jsonl", lines({"k": "a", "v": 7}, {"k": "c", "v": 8}))
    project.upload("2.jsonl", lines({"k": "b", "v": 5}))
    project.run()
    done = project.call("diff", "1", "3", "--json", code=None)
    assert done.returncode in {0, 1}, done.stderr
    json.loads(done.stdout, parse_constant=pytest.fail)
