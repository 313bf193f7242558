"""A table's columns through several runs: modes, checks, replay of what was set aside, `schema
show` and `schema history`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import invoke
from pipeline.declare.load_file import load_pipelines
from pipeline.runtime.worker_process import table_spec
from sinks.parquet.writer import AttemptWriter
from tests.support.helpers import ROOT, Project, lines

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
        came = invoke(
            [*command.split(), str(self.project.file), *arguments, "--bucket", self.project.bucket]
        )
        out = self.capsys.readouterr()
        assert came == code, out
        return out.out + out.err

    def json(self, command: str, *arguments: str) -> Any:
        return json.loads(self.text(command, *arguments, "--json"))


def test_columns_and_checks_from_the_first_commit_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project(tmp_path, FLOW.replace("MODE", "evolve"))
    here = Here(project, capsys)
    assert "nothing is committed yet" in here.text("schema show")
    project.upload("a.jsonl", lines({"n": 1, "s": "a"}, {"n": 500, "s": "b"}, {"n": 2}))
    project.upload("bad.jsonl", lines({"n": -1, "s": "a"}))
    done = project.run(code=1)
    assert (done["committed"], done["rows"], done["rejected"]) == (1, 2, 1)
    assert here.json("sql", "SELECT reason FROM shop__rejected") == [
        {"reason": "check named: s IS NOT NULL"}
    ]
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
    for words in (
        "3 columns, learned from the rows",
        "positive",
        "new, int64",
        "the log is kept from commit 1 on",
    ):
        assert words in text

    project.file = tmp_path / "freeze.py"
    project.write(FLOW.replace("MODE", "freeze"))
    project.upload("c.jsonl", lines({"n": 1, "s": "a", "other": True}))
    said = here.text("quarantine replay", "up/c.jsonl", code=1)
    assert (
        "column 'other' (bool) is not in table shop, which is frozen: declare it in schema=" in said
    )

    project.file = tmp_path / "rescue.py"
    project.write(FLOW.replace("MODE", "rescue"))
    assert '{"other": true}' in here.text("quarantine replay", "up/c.jsonl", "--rows", "1").replace(
        "\\", ""
    )
    assert project.run()["committed"] == 1
    found = here.json(
        "sql", "SELECT n, s, _rescued->>'other' AS other FROM shop WHERE _rescued IS NOT NULL"
    )
    assert found == [{"n": 1, "s": "a", "other": "true"}]
    assert here.json("sql", "SELECT count(*) AS n FROM shop")[0]["n"] == 4
    assert here.json("schema history")[0]["changes"][-1]["added"] == {"_rescued": "string"}
    project.audit()


def test_the_guides_pipeline_does_with_rows_what_the_guide_says(tmp_path: Path) -> None:
    [source] = re.findall(
        r"```python\n# shop.py\n(.*?)```", (ROOT / "docs/guides/schema.md").read_text(), re.DOTALL
    )
    (tmp_path / "shop.py").write_text(source)
    [shop] = load_pipelines(str(tmp_path / "shop.py"))
    writer = AttemptWriter(table_spec(shop), schema=None, task="t", nonce="n", scratch=tmp_path)
    rows = [
        {"shop": "a", "amount": "12.5", "colour": "red"},
        {"shop": "", "amount": 1},
        {"amount": 20_000},
    ]
    writer.add(0, "good", "e", rows)
    writer.add(1, "bad", "e", [{"shop": "b", "amount": -1}])
    done = writer.finish()
    assert (done.rows, done.rejected, list(done.problems)) == ({0: 2}, {0: 1}, [1])
    assert done.broken == {"amount_is_not_negative": 1, "shop_is_named": 1, "amount_is_usual": 1}


@pytest.mark.parametrize(
    ("columns", "more", "said"),
    [
        (
            '("a", pa.duration("s"))',
            "",
            "column 'a' has type duration[s], which tables do not hold",
        ),
        (
            '("a", pa.list_(pa.struct([("x", pa.int8()), ("X", pa.int8())])))',
            "",
            "column 'a[]' has the fields 'x' and 'X'",
        ),
        ('("a", pa.int8()), ("A", pa.int8())', "", "columns 'a' and 'A' have the same name"),
        ('("a", pa.float64())', ", partition_by=['a']", "partition_by='a': column 'a' is double"),
    ],
)
def test_columns_that_no_table_can_have_are_refused_before_anything_runs(
    tmp_path: Path, columns: str, more: str, said: str
) -> None:
    """They would send every file to quarantine."""
    project = Project(
        tmp_path,
        f"""
        import pyarrow as pa
        from pipeline import Pipeline
        logs = Pipeline("logs", source="up/", schema=pa.schema([{columns}]){more})

        @logs.transform
        def parse(obj):
            return []
        """,
    )
    project.upload("a", "x")
    for command in ("run", "plan"):
        assert f"pipeline logs, {'partition' if more else 'schema=: '}" in (
            reported := project.call(command, code=2).stderr
        )
        assert said in reported
