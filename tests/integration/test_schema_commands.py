"""A table's columns through several runs: modes, checks, replay of what was set aside, `schema show` and `schema history`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import invoke
from tests.helpers import Project, lines

FLOW = """
import json
from pipeline import Pipeline, Object

shop = Pipeline("shop", source="up/", schema_mode="MODE")
shop.check("positive", "n >= 0")
shop.check("named", "s IS NOT NULL", action="reject")
shop.check("small", "n < 100", action="warn")

@shop.transform
def parse(obj: Object):
    return [json.loads(line) for line in obj.lines()]
"""


class Here:
    """Commands of a project in this process: many, and a process for each would take long."""

    def __init__(self, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
        self.project, self.capsys = project, capsys

    def text(self, command: str, *arguments: str, code: int = 0) -> str:
        self.capsys.readouterr()
        came = invoke([*command.split(), str(self.project.file), *arguments, "--bucket", self.project.bucket])
        out = self.capsys.readouterr()
        assert came == code, out
        return out.out + out.err

    def json(self, command: str, *arguments: str) -> Any:
        return json.loads(self.text(command, *arguments, "--json"))


def test_columns_and_checks_from_the_first_commit_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project(tmp_path, FLOW.replace("MODE", "evolve"))
    here = Here(project, capsys)
    assert "nothing is committed yet" in here.text("schema show")
    project.upload("a.jsonl", lines({"n": 1, "s": "a"}, {"n": 500, "s": "b"}, {"n": 2}))
    project.upload("bad.jsonl", lines({"n": -1, "s": "a"}))
    done = project.run(code=1)
    assert (done["committed"], done["rows"], done["rejected"]) == (1, 2, 1)
    assert here.json("sql", "SELECT reason FROM shop__rejected") == [{"reason": "check named: s IS NOT NULL"}]
    [failed] = here.json("sql", "SELECT reason FROM quarantine")
    assert failed["reason"] == "check positive: n >= 0: a row breaks it"
    assert "check positive" in here.text("quarantine replay", "up/bad.jsonl", code=1)
    first = here.json("sql", "SELECT max(sequence) AS n FROM commits WHERE broken = 3")[0]["n"]
    project.upload("b.jsonl", lines({"n": 1, "s": "a", "new": [1]}))
    project.run()
    shown = here.json("schema show")[0]
    assert [(c["name"], c["type"], c["exact"]) for c in shown["columns"]] == [
        ("n", "int64", True),
        ("s", "string", True),
        ("new", "list<item: int64>", True),
    ]
    assert shown["columns"][0]["since"] == first < shown["columns"][2]["since"]
    assert [(c["name"], c["action"], c["broken"]) for c in shown["checks"]] == [
        ("positive", "quarantine", 1),
        ("named", "reject", 1),
        ("small", "warn", 1),
    ]
    added = [change["added"] for change in here.json("schema history")[0]["changes"]]
    assert added == [{"n": "int64", "s": "string"}, {"new": "list<item: int64>"}]
    text = here.text("schema show") + here.text("schema history")
    for words in ("3 columns, learned from the rows", "positive", "new, int64", "the log is kept from commit 1 on"):
        assert words in text

    project.file = tmp_path / "freeze.py"
    project.write(FLOW.replace("MODE", "freeze"))
    project.upload("c.jsonl", lines({"n": 1, "s": "a", "other": True}))
    project.run(code=1)
    reason = here.json("sql", "SELECT reason FROM quarantine WHERE key = 'up/c.jsonl'")[0]["reason"]
    assert reason.startswith("column 'other' (bool) is not in table shop, which is frozen: declare it in schema=")
    assert "is frozen" in here.text("quarantine replay", "up/c.jsonl", code=1)

    project.file = tmp_path / "rescue.py"
    project.write(FLOW.replace("MODE", "rescue"))
    assert '{"other": true}' in here.text("quarantine replay", "up/c.jsonl", "--rows", "1").replace("\\", "")
    here.text("quarantine retry", "up/c.jsonl")
    assert project.run()["committed"] == 1
    found = here.json("sql", "SELECT n, s, _rescued->>'other' AS other FROM shop WHERE _rescued IS NOT NULL")
    assert found == [{"n": 1, "s": "a", "other": "true"}]
    assert here.json("sql", "SELECT count(*) AS n FROM shop")[0]["n"] == 4
    assert here.json("schema history")[0]["changes"][-1]["added"] == {"_rescued": "string"}
    project.audit()
