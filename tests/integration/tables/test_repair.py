"""A table that no query could read is named, and fixed by one command.

tests/data/state-2 was made by the version of 2026-11-27. Its files: a and b are good (b has an
empty list and an empty object); c has person.Name beside a's person.name; d has Host and host in
one object, e has Host alone; f has a NUL in a field's name.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.helpers import ROOT, Project, lines

FLOW = """
import json
from pipeline import Pipeline, Object
t = Pipeline("t", source="up/")

@t.transform
def parse(obj: Object):
    return [json.loads(line) for line in obj.lines()]

t.aggregate("by_id", by=["id"], sql="SELECT id, count(*) AS n FROM t GROUP BY id")
"""
UPLOADS = {
    "a": [{"id": 1, "person": {"name": "Ann"}, "n": 1}, {"id": 2, "person": None, "n": 2}],
    "b": [{"id": 3, "tags": [], "labels": {}, "n": 3}],
    "c": [{"id": 4, "person": {"Name": "Bob"}, "n": 4}],
    "d": [{"id": 5, "items": [{"Host": "x", "host": "y"}]}],
    "e": [{"id": 6, "items": [{"Host": "z"}]}],
    "f": [{"id": 7, "p": {"a\0b": 1, "a": 2}}],
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    shutil.copytree(ROOT / "tests" / "data" / "state-2", tmp_path / "bucket")
    return Project(tmp_path, FLOW)


def test_every_command_that_reads_the_rows_says_which_column_and_which_files(
    project: Project,
) -> None:
    for command in (["sql", "SELECT id FROM t"], ["audit"], ["aggregate"]):
        done = project.finish(command[0], str(project.file), *command[1:])
        assert done.returncode == 2, (command, done.stdout, done.stderr)
        said = (done.stdout + done.stderr).strip()
        assert (
            "column 'person' has the fields 'name' and 'Name', which SQL cannot tell apart" in said
        )
        assert "schema repair" in said
        assert command[0] != "sql" or "person.Name, from up/c, up/d, up/f" in said
        assert "Traceback" not in said


def test_one_command_mends_it_and_only_the_files_at_fault_are_set_aside(project: Project) -> None:
    [reported] = json.loads(project.call("schema repair", "--dry-run", "--json").stdout)
    assert reported["files"] == ["up/c", "up/d", "up/f"]
    assert set(reported["fields"]) == {"person.Name", "items[].host", "p.a\0b"}
    assert project.finish("sql", str(project.file), "SELECT 1 FROM t").returncode == 2, (
        "a dry run changes nothing"
    )
    project.call("schema repair")
    assert [row["id"] for row in project.sql("SELECT id FROM t ORDER BY id")] == [1, 2, 3, 6]
    assert project.sql(
        "SELECT person, tags, labels, items FROM t WHERE id IN (1, 3, 6) ORDER BY id"
    ) == [
        {"person": {"name": "Ann"}, "tags": None, "labels": None, "items": None},
        {"person": None, "tags": [], "labels": None, "items": None},
        {"person": None, "tags": None, "labels": None, "items": [{"Host": "z"}]},
    ]
    listed = json.loads(project.call("quarantine list", "--json", code=None).stdout)
    assert {one["key"] for one in listed} == {"up/c", "up/d", "up/f"}
    assert "nothing to repair" in project.call("schema repair").stdout


def test_the_table_goes_on_after_it_is_mended(project: Project) -> None:
    project.call("schema repair")
    for name, rows in UPLOADS.items():
        project.upload(name, lines(*rows))
    project.call("run", code=None)
    listed = json.loads(project.call("quarantine list", "--json", code=None).stdout)
    assert {one["key"] for one in listed} == {"up/c", "up/d", "up/f"}
    project.upload("g", lines({"id": 8, "tags": ["x"], "labels": {"k": 1}, "n": 0.5}))
    project.call("run", code=None)
    found = project.sql("SELECT id, tags, labels, n FROM t WHERE id IN (1, 3, 8) ORDER BY id")
    assert found == [
        {"id": 1, "tags": None, "labels": None, "n": 1.0},
        {"id": 3, "tags": [], "labels": {"k": None}, "n": 3.0},
        {"id": 8, "tags": ["x"], "labels": {"k": 1}, "n": 0.5},
    ]
    assert project.call("audit").returncode == 0
