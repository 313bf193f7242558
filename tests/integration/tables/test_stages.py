"""Stages: documents become words become lengths; what changes above reaches what is below, commit
by commit.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.helpers import Project

FLOW = """
from pipeline import Pipeline, Object

docs = Pipeline("docs", source="up/", file_mb=1)
words = Pipeline("words", source=docs)
lengths = Pipeline("lengths", source=words)

@docs.transform
def read(obj: Object):
    for number, line in enumerate(obj.lines()):
        yield {"line": number, "text": line.strip()}

@words.transform
def split(obj: Object):
    for row in obj.rows():
        for word in row["text"].split():
            if word == "BAD":
                raise ValueError("a bad word")
            yield {"line": row["line"], "word": word}

@lengths.transform
def measure(obj: Object):
    table = obj.table()
    return [{"words": table.num_rows, "letters": sum(len(w) for w in table["word"].to_pylist())}]
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path, FLOW)
    made.upload("a.txt", "one two\nthree\n")
    made.upload("b.txt", "four\n")
    made.upload("empty.txt", "")
    return made


def lengths(project: Project) -> dict[str, tuple[int, int]]:
    rows = project.sql("SELECT _source_key AS k, words, letters FROM lengths ORDER BY 1")
    return {row["k"]: (row["words"], row["letters"]) for row in rows}


def test_one_run_takes_documents_through_all_stages(project: Project) -> None:
    project.run()
    assert lengths(project) == {"words:docs:up/a.txt": (3, 11), "words:docs:up/b.txt": (1, 4)}
    joined = (
        "SELECT d.text, count(*) AS n FROM docs d JOIN words w ON w._source_key = 'docs:' ||"
        " d._source_key GROUP BY 1 ORDER BY 1"
    )
    assert project.sql(joined)[0] == {"text": "four", "n": 1}
    project.audit()
    again = [json.loads(line) for line in project.call("run", "--json").stdout.splitlines()]
    assert [report["commits"] for report in again] == [0, 0, 0], "nothing new"


def test_changes_and_deletions_above_reach_the_rows_below(project: Project) -> None:
    project.run()
    project.upload("a.txt", "five six seven\n")
    (project.root / "up" / "b.txt").unlink()
    project.upload("c.txt", "eight\n")
    project.run()
    assert lengths(project) == {"words:docs:up/a.txt": (3, 12), "words:docs:up/c.txt": (1, 5)}
    project.audit()


def test_other_files_are_no_change_but_rows_made_anew_are(project: Project) -> None:
    for name in ("a", "b"):
        project.upload(f"{name}.txt", f"word {name}\n")
        project.run()
    project.call("compact")
    reports = [json.loads(line) for line in project.call("run", "--json").stdout.splitlines()]
    assert [report["planned"] for report in reports] == [
        0,
        0,
        0,
    ], "compaction moves rows, it makes none"
    project.upload("b.txt", "changed after a compaction\n")
    project.run()
    assert lengths(project)["words:docs:up/b.txt"] == (4, 23)
    project.write(FLOW.replace('"text": line.strip()', '"text": "more " + line.strip()'))
    reports = [
        json.loads(line)
        for line in project.call("backfill", "--outdated", "--json").stdout.splitlines()
    ]
    assert [report["committed"] for report in reports] == [3, 2, 2]
    assert lengths(project)["words:docs:up/b.txt"] == (5, 27)
    project.audit()


def test_a_failure_below_is_one_sources_and_lineage_goes_through(project: Project) -> None:
    project.upload("b.txt", "a BAD one\n")
    project.call("run", code=1)
    assert list(lengths(project)) == ["words:docs:up/a.txt"]
    [failed] = json.loads(project.call("quarantine list", "--files", "--json", code=1).stdout)
    assert failed["key"] == "docs:up/b.txt"
    replayed = json.loads(
        project.call("quarantine replay", "docs:up/b.txt", "--json", code=1).stdout
    )[0]
    assert replayed["status"] == "failed"
    assert "a bad word" in replayed["reason"]
    reported = json.loads(project.call("lineage", "words:docs:up/a.txt", "--json").stdout)[0]
    assert reported["pipeline"] == "lengths"
    assert reported["from"]["pipeline"] == "words"
    assert reported["from"]["from"]["source"] == "up/a.txt"
    below = json.loads(project.call("lineage", "up/a.txt", "--json").stdout)[0]
    assert below["stages"] == ["docs:up/a.txt", "words:docs:up/a.txt"]
    project.upload("b.txt", "a good one\n")
    project.run()
    assert lengths(project)["words:docs:up/b.txt"] == (3, 8)


def test_a_published_generation_above_is_what_stages_read(project: Project) -> None:
    project.run()
    project.write(FLOW.replace("line.strip()}", "line.strip() + ' x'}"))
    project.call("backfill", "--new-generation", code=2)
    flow = f"{project.file}:docs"
    done = project.call_on(flow, "backfill", "--new-generation")
    assert done.returncode == 0, done.stderr
    assert lengths(project)["words:docs:up/b.txt"] == (1, 4), "not before it is published"
    assert project.call_on(flow, "publish").returncode == 0
    project.run()
    assert lengths(project) == {"words:docs:up/a.txt": (5, 13), "words:docs:up/b.txt": (2, 5)}
    project.audit()


def test_a_hint_goes_through_all_stages(project: Project) -> None:
    project.run()
    project.upload("new.txt", "nine ten\n")
    project.call("hint", "up/new.txt")
    assert lengths(project)["words:docs:up/new.txt"] == (2, 7)
