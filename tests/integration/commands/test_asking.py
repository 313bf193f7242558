"""What `tidemill sql` takes for a statement, and what a star is in it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.helpers import Project, lines

TWO = """
import json
from pipeline import Pipeline, Object

def declare(name):
    p = Pipeline(name, source=f"{name}/")
    @p.transform
    def rows(obj: Object):
        return [json.loads(line) for line in obj.lines()]
    return p

t, u = declare("t"), declare("u")
t.dimension("names", "names.csv")
t.aggregate("by_key", by=["_source_key"], sql="SELECT _source_key, count(*) AS n FROM t GROUP BY 1")
t.check("of_here", "_source_key LIKE 't/%'")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("asking"), TWO)
    for name in ("t", "u"):
        (project.root / name).mkdir()
        for i in (1, 2):
            (project.root / name / f"{i}.jsonl").write_text(
                lines({"id": i, "s": ""}, {"id": 3, "s": "x"})
            )
    (project.root / "names.csv").write_text("id,name\n1,one\n3,three\n")
    project.call("run")
    return project


def columns(project: Project, statement: str) -> list[str]:
    return project.call("sql", statement, "--format", "csv").stdout.splitlines()[0].split(",")


HIDDEN = ["_source_etag", "_source_key", "_task"]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT * FROM t", ["id", "s"]),
        ("FROM t", ["id", "s"]),
        ("TABLE t", ["id", "s"]),
        ("SELECT t.* FROM t", ["id", "s"]),
        ("SELECT * FROM t__rejected", ["row", "reason"]),
        ("SELECT *, _source_key FROM t", ["id", "s", "_source_key"]),
        ("SELECT _task, * FROM t ORDER BY _source_key LIMIT 1", ["_task", "id", "s"]),
        ("SELECT * EXCLUDE (s) FROM t", ["id"]),
        ("SELECT * REPLACE (upper(_source_key) AS _source_key) FROM t", ["id", "s", "_source_key"]),
        ("SELECT * RENAME (_source_key AS k) FROM t", ["id", "s", "k"]),
        ("SELECT * FROM t JOIN names USING (id)", ["id", "s", "name"]),
        ("SELECT n.*, t.* FROM t JOIN names n USING (id)", ["id", "name", "id_1", "s"]),
        ("SELECT * FROM t UNION ALL SELECT * FROM u", ["id", "s"]),
        ("SELECT * FROM (SELECT * FROM t) q WHERE _source_key = 't/1.jsonl'", ["id", "s"]),
        ("WITH q AS (SELECT * FROM t) SELECT * FROM q UNION ALL SELECT * FROM q", ["id", "s"]),
        ("WITH q AS (SELECT * FROM t) SELECT _source_key FROM q", ["_source_key"]),
        ("SELECT COLUMNS('_.*') FROM t", ["_source_key", "_source_etag", "_task"]),
        ("SELECT COLUMNS(*) FROM t", ["id", "s", "_source_key", "_source_etag", "_task"]),
        ("SELECT * FROM by_key", ["n"]),
        ("SELECT * FROM (SELECT _source_key, _task FROM t)", ["_source_key", "_task"]),
        (
            "SELECT * FROM t UNION ALL SELECT 1, '', '', '', ''",
            ["id", "s", "_source_key", "_source_etag", "_task"],
        ),
        ("SELECT * FROM sources", None),
    ],
)
def test_a_star_leaves_provenance_out(
    project: Project, statement: str, expected: list[str] | None
) -> None:
    """Of the result, and only where something else is left; by name it is there."""
    found = columns(project, statement)
    assert found == expected if expected is not None else "key" in found


def test_a_star_counts_and_compares_what_it_shows(project: Project) -> None:
    """Rows of two files that say the same are one row of DISTINCT."""
    assert project.sql("SELECT count(*) AS n FROM t") == [{"n": 4}]
    assert project.sql("SELECT DISTINCT * FROM t ORDER BY id, s") == [
        {"id": 1, "s": ""},
        {"id": 2, "s": ""},
        {"id": 3, "s": "x"},
    ]
    assert project.sql("SELECT * FROM t EXCEPT SELECT * FROM u") == []
    assert project.sql("SELECT *, count(*) AS n FROM t WHERE s <> '' GROUP BY ALL") == [
        {"id": 3, "s": "x", "n": 2}
    ]
    assert [row["column_name"] for row in project.sql("DESCRIBE t")][2:] == [
        "_source_key",
        "_source_etag",
        "_task",
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "-- a comment\nSELECT 1 AS a",
        "--no space\nSELECT 1 AS a",
        "/* a comment */ SELECT 1 AS a",
        "\n\n  SELECT 1 AS a;\n",
        "SELECT 1 AS a; -- done",
        "SELECT 1 AS a;;",
    ],
)
def test_a_statement_may_be_written_as_people_do(
    project: Project, statement: str, tmp_path: Path
) -> None:
    """As an argument, from a file, from standard input."""
    assert project.sql(statement) == [{"a": 1}]
    script = tmp_path / "q.sql"
    script.write_bytes(b"\xef\xbb\xbf" + statement.encode())
    assert json.loads(project.call("sql", "--file", str(script), "--json").stdout) == [{"a": 1}]
    for words in (["-"], ["--file", "-"]):
        command = project.command("sql", str(project.file), *words, "--json")
        done = subprocess.run(
            command, input=statement, env=project.env(), capture_output=True, text=True, timeout=60
        )
        assert json.loads(done.stdout) == [{"a": 1}], done.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["SELECT 1", "--file", "q.sql"], "not both"),
        (["--file", "none.sql"], "none.sql: No such file"),
        (["--file", "."], "Is a directory"),
        (["-- nothing but a comment"], "one SELECT"),
        ([""], "one SELECT"),
        (["SELECT 1; SELECT 2"], "one SELECT"),
        (["--fromat", "csv"], "--format"),
        (["SELECT 1", "--null", "x"], "--null goes with --format csv"),
        (["SELECT * FROM (SELECT 1 AS at) x WHERE at = 1"], "at"),
    ],
)
def test_what_is_no_statement_is_refused(project: Project, words: list[str], why: str) -> None:
    """In one line."""
    done = project.call("sql", *words, code=2)
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_a_statement_json_lists_the_tables(project: Project) -> None:
    """As objects, with whose they are."""
    found = json.loads(project.call("sql", "--json").stdout)
    assert found[0] == {"table": "t", "pipeline": "t", "kind": "rows"}
    assert {one["table"] for one in found} >= {
        "t",
        "t__rejected",
        "by_key",
        "names",
        "u",
        "sources",
        "quarantine",
    }
    assert project.call("sql").stdout.splitlines() == [one["table"] for one in found]


def test_json_has_one_shape_in_every_command(project: Project, tmp_path: Path) -> None:
    """One document, a list of objects; `run` prints an object a line, since it may
    watch for ever.
    """
    groups = ("schema show", "schema history", "quarantine list", "jobs list")
    plain = (
        "plan",
        "status",
        "sql",
        "files",
        "audit",
        "aggregate",
        "sinks",
        "compact",
        "vacuum",
        "generations",
    )
    own = {
        "lineage": ["t/1.jsonl"],
        "diff": ["1", "2"],
        "aggregate": ["--check"],
        "vacuum": ["--dry-run"],
    }
    for command in (*groups, *plain, "lineage", "diff"):
        file = f"{project.file}:t" if command == "diff" else str(project.file)
        done = project.finish(*command.split(), file, *own.get(command, []), "--json")
        assert done.returncode in {0, 1}, done.stderr
        found = json.loads(done.stdout, parse_constant=pytest.fail)
        assert isinstance(found, list), command
        assert all(isinstance(one, dict) for one in found), command
    for line in project.call("run", "--json").stdout.splitlines():
        assert isinstance(json.loads(line), dict)
    done = project.finish("init", str(tmp_path / "new"), "--json")
    assert isinstance(json.loads(done.stdout), list)
