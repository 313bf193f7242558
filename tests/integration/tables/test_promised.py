"""What is there though no file brought it, `_rescued`; and what is shown though Python has no form
for it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.helpers import Project, lines

RESCUE = """
import json
from pipeline import Pipeline, Object

t = Pipeline("t", source="up/"{mode})

@t.transform
def rows(obj: Object):
    return [json.loads(line) for line in obj.lines()]

t.check("whole", "_rescued IS NULL OR _rescued ->> 'n' <> 'bad'")
ODD = "SELECT s, count(_rescued) AS rescued, max(_rescued ->> 'n') AS last FROM t GROUP BY s"
t.aggregate("odd", by=["s"], sql=ODD)
"""


def test_rescued_is_there_before_anything_was_rescued(tmp_path: Path) -> None:
    """In queries, checks, aggregates, tables of programs and diffs; and the same once a row was
    rescued.
    """
    project = Project(tmp_path, RESCUE.format(mode=", schema_mode='rescue'"))
    project.call("plan")
    assert project.sql("SELECT count(_rescued) AS n FROM t") == [{"n": 0}]
    project.upload("1.jsonl", lines({"s": "a", "n": 1}))
    project.run()
    assert project.sql("SELECT * FROM t") == [{"s": "a", "n": 1, "_rescued": None}]
    assert project.sql("SELECT _rescued ->> 'n' AS n FROM t WHERE _rescued IS NULL") == [
        {"n": None}
    ]
    assert project.sql("FROM odd") == [{"s": "a", "rescued": 0, "last": None}]
    project.call("aggregate", "--check")
    project.upload("2.jsonl", lines({"s": "a", "n": "bad"}))
    project.run(code=1)
    project.upload("3.jsonl", lines({"s": "a", "n": "odd"}))
    project.run()
    assert project.sql("SELECT n, _rescued FROM t ORDER BY n") == [
        {"n": 1, "_rescued": None},
        {"n": None, "_rescued": '{"n": "odd"}'},
    ]
    assert project.sql("FROM odd") == [{"s": "a", "rescued": 1, "last": "odd"}]
    project.call("aggregate", "--check")


def test_a_table_that_turns_to_rescuing_has_the_column_at_once(tmp_path: Path) -> None:
    """The mode counts, not when the rows came."""
    project = Project(tmp_path, RESCUE.format(mode="").partition("t.check")[0])
    project.upload("1.jsonl", lines({"s": "a", "n": 1}))
    project.run()
    assert "_rescued" in project.call("sql", "SELECT _rescued FROM t", code=2).stderr
    project.write(RESCUE.format(mode=", schema_mode='rescue'"))
    assert project.sql("SELECT _rescued FROM t") == [{"_rescued": None}]
    assert project.sql("FROM odd") == [{"s": "a", "rescued": 0, "last": None}]
    project.run()
    assert project.sql("FROM odd") == [{"s": "a", "rescued": 0, "last": None}]


FAR = """
import pyarrow as pa
from pipeline import Pipeline, Object

t = Pipeline("t", source="up/")

@t.transform
def rows(obj: Object):
    {first}
    return pa.table({{"d": pa.array([3_000_000], pa.date32()), "b": [b"\\xff"],
        "f": [float("nan")]}})
"""


def test_a_replay_shows_values_that_python_has_no_form_for(tmp_path: Path) -> None:
    """As `sql` does; it is no bug of ours."""
    project = Project(tmp_path, FAR.format(first="raise ValueError('not yet')"))
    project.upload("a", "x")
    project.run(code=1)
    project.write(FAR.format(first=""))
    [shown] = json.loads(
        project.call("quarantine replay", "up/a", "--rows", "1", "--json").stdout,
        parse_constant=pytest.fail,
    )
    assert shown["sample"] == [{"d": "10183-09-21", "b": "ff", "f": "NaN"}]
    assert "10183-09-21" in project.call("quarantine replay", "up/a", "--rows", "1").stdout
