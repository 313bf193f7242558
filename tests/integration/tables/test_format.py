"""States written by earlier versions stay readable: each released format has a bucket in
tests/data.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from pipeline.passes.audit import all_entries
from pipeline.testing import inline_runtime
from tests.integration.tables.test_aggregates import flow
from tests.support.helpers import ROOT, Project, lines

FLOW = """
import json
from pipeline import Pipeline, Object
logs = Pipeline("logs", source="up/")

@logs.transform
def parse(obj: Object):
    return [json.loads(line) for line in obj.lines()]

logs.aggregate("by_kind", by=["kind"],
    sql="SELECT kind, count(*) AS n, sum(v) AS v, min(day) AS first FROM logs GROUP BY kind")
"""


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "tests" / "data" / "state-1", tmp_path / "bucket")
    return tmp_path / "bucket"


def test_a_state_of_format_1_is_read_whole(bucket: Path) -> None:
    opened = inline_runtime(flow(), bucket)
    state = asyncio.run(opened.log().load())
    assert {
        key: (e.rows, e.transform, e.generation)
        for key, e in asyncio.run(all_entries(opened.log(), state)).items()
    } == {
        "up/a": (2, "parse", 0),
        "up/b": (1, "parse", 0),
        "up/c": (1, "parse", 0),
    }
    assert [(q.key, q.kind) for q in state.quarantine.values()] == [("up/bad", "failed")]
    assert [t.inputs.keys for t in state.tasks.values()] == [["up/open"]]
    assert set(state.aggregates) == {"by_kind", "by_month"}
    assert state.removed


def test_a_state_of_format_1_goes_on(bucket: Path) -> None:
    project = Project(bucket.parent, FLOW)
    assert {r["kind"]: r["v"] for r in project.sql("SELECT kind, v FROM by_kind")} == {
        "x": 13,
        "y": 22,
    }
    project.upload("b", lines({"kind": "y", "v": 2, "day": "2026-01-01"}))
    project.upload("c", lines({"kind": "x", "v": 4, "day": "2026-01-01"}))
    report = project.run()
    assert report["deleted"] == 2, "`a` and `bad` are gone"
    assert {r["kind"]: r["v"] for r in project.sql("SELECT kind, v FROM by_kind")} == {
        "x": 4,
        "y": 2,
    }
