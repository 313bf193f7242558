"""The main job, from uploads to SQL, through the command line with real worker processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.helpers import LOGS, Project, lines


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_new_changed_and_deleted_files(project: Project) -> None:
    for i in range(30):
        project.upload(f"{i:02}.jsonl", lines({"kind": "ab"[i % 2], "v": i}, {"kind": "c", "v": 1}))
    first = project.run()
    assert (first["committed"], first["rows"], first["quarantined"]) == (30, 60, 0)
    assert project.run()["commits"] == 0, "nothing new, nothing written"

    project.upload("00.jsonl", lines({"kind": "a", "v": 1000}))
    (project.root / "up" / "01.jsonl").unlink()
    project.upload("new.jsonl", lines({"kind": "new", "v": 5}))
    second = project.run()
    assert (second["planned"], second["committed"], second["deleted"]) == (2, 2, 1)

    totals = {row["kind"]: (row["n"], row["total"]) for row in project.sql("SELECT * FROM by_kind")}
    assert totals == {
        "a": (15, 1000 + sum(range(2, 30, 2))),
        "b": (14, sum(range(3, 30, 2))),
        "c": (28, 28),
        "new": (1, 5),
    }
    by_hand = project.sql("SELECT kind, count(*) AS n, sum(v) AS total FROM logs GROUP BY kind")
    assert {r["kind"]: (r["n"], r["total"]) for r in by_hand} == totals
    assert project.audit()["sources"] == {"committed": 30}


def test_a_bad_file_stops_nobody_and_is_retried_when_it_changes(project: Project) -> None:
    project.upload("good.jsonl", lines({"kind": "a", "v": 1}))
    bad = project.upload("bad.jsonl", "not json\n")
    report = project.run(code=1)
    assert (report["committed"], report["quarantined"]) == (1, 1)
    assert project.run()["planned"] == 0, "the same version is not tried again"

    listed = json.loads(project.call("quarantine list", "--json", code=1).stdout)
    assert [(q["key"], q["kind"]) for q in listed] == [("up/bad.jsonl", "failed")]
    assert "JSONDecodeError" in listed[0]["reason"]
    shown = project.call("quarantine show", "up/bad.jsonl").stdout
    assert "json.loads(line)" in shown
    assert "JSONDecodeError" in project.call("quarantine replay", "up/bad.jsonl", code=1).stderr

    bad.write_text(lines({"kind": "a", "v": 2}))
    assert project.run()["committed"] == 1
    assert project.call("quarantine list").stdout == "nothing is quarantined\n"
    assert project.sql("SELECT total FROM by_kind") == [{"total": 3}]


def test_retry_runs_the_code_as_it_is_now(project: Project) -> None:
    project.write(LOGS.replace("json.loads(line)", "json.loads(line)['no such key']"))
    for name in ("one", "two"):
        project.upload(name, lines({"kind": "a", "v": 1}))
    assert project.run(code=1)["quarantined"] == 2
    project.write(LOGS)
    assert project.run()["planned"] == 0
    assert "1 file released" in project.call("quarantine retry", "up/one").stdout
    assert project.run()["committed"] == 1
    project.call("quarantine retry", "--all")
    assert project.run()["committed"] == 1
    assert project.audit()["sources"] == {"committed": 2}


def test_routes_results_and_rejected_rows(tmp_path: Path) -> None:
    project = Project(
        tmp_path,
        """
        from dataclasses import dataclass
        import pyarrow as pa
        import pandas as pd
        from pipeline import Pipeline, Object

        mixed = Pipeline("mixed", source="up/", exclude=["*.tmp"])

        @dataclass
        class Row:
            how: str
            n: int

        @mixed.transform(match="*.table")
        def table(obj: Object):
            return pa.table({"how": ["table"], "n": [len(obj.read())]})

        @mixed.transform(match="*.batches")
        def batches(obj: Object):
            yield from pa.table({"how": ["batch", "batch"], "n": [1, 2]}).to_batches()

        @mixed.transform(match="*.frame")
        def frame(obj: Object):
            return pd.DataFrame({"how": ["frame"], "n": [obj.path.stat().st_size]})

        @mixed.transform(match="*.classes")
        def classes(obj: Object):
            obj.reject({"line": 7}, "no good")
            return [Row("class", 3)]

        @mixed.transform(match="*.none")
        def none(obj: Object):
            return None

        @mixed.transform(match="*.batch", batch_size=2)
        def many(objs: list[Object]):
            return [{"how": "many", "n": len(objs)} for _ in objs]

        @mixed.transform(match="*.model")
        class Model:
            def load(self):
                self.n = 41

            def __call__(self, obj: Object):
                self.n += 1
                return {"how": "model", "n": self.n}
        """,
    )
    names = "a.table b.batches c.frame d.classes e.none f.batch g.batch h.batch i.model j.tmp k.x"
    for name in names.split():
        project.upload(name, "12345")
    report = project.run()
    assert (
        report["committed"],
        report["rejected"],
        report["unmatched"],
        report["unmatched_sample"],
    ) == (9, 1, 1, ["up/k.x"])
    rows = project.sql("SELECT how, n, _source_key AS k FROM mixed ORDER BY how, n, k")
    assert [(r["how"], r["n"]) for r in rows] == [
        ("batch", 1), ("batch", 2), ("class", 3), ("frame", 5), ("many", 1), ("many", 2),
        ("many", 2), ("model", 42), ("table", 5),
    ]  # fmt: skip
    assert project.sql("SELECT row, reason, _source_key FROM mixed__rejected") == [
        {"row": '{"line": 7}', "reason": "no good", "_source_key": "up/d.classes"}
    ]
    assert project.audit()["sources"] == {
        "committed": 9,
        "matched by no transform": 1,
        "not included": 1,
    }


def test_two_pipelines_in_one_file_and_bucket(tmp_path: Path) -> None:
    project = Project(
        tmp_path,
        """
        from pipeline import Pipeline, Object
        one = Pipeline("one", source="up/")
        two = Pipeline("two", source="up/")

        @one.transform
        def count(obj: Object):
            return {"size": obj.size_bytes}

        @two.transform
        def name(obj: Object):
            return {"name": obj.name}
        """,
    )
    project.upload("x", "123")
    project.call("run")
    assert project.sql("SELECT size, name FROM one JOIN two USING (_source_key)") == [
        {"size": 3, "name": "x"}
    ]
    assert json.loads(project.call("status", "--json").stdout)[1]["sources"]["committed"] == 1
    assert [row["pipeline"] for row in project.sql("SELECT pipeline FROM sources ORDER BY 1")] == [
        "one",
        "two",
    ]


def test_partitions_and_files_without_rows(tmp_path: Path) -> None:
    source = LOGS.replace('source="up/"', 'source="up/", partition_by=["kind"]')
    project = Project(tmp_path, source)
    project.upload(
        "a",
        lines(
            {"kind": "x/y", "v": 1},
            {"kind": None, "v": 2},
            {"kind": "..", "v": 3},
            {"kind": "", "v": 4},
        ),
    )
    project.upload("empty", "")
    project.upload("noval", "{}\n{}\n")
    report = project.run(code=1)
    assert (report["committed"], report["quarantined"]) == (2, 1)
    folders = sorted(p.name for p in (project.root / "tables/logs/rows").iterdir())
    assert folders == ["kind=", "kind=%2E%2E", "kind=__HIVE_DEFAULT_PARTITION__", "kind=x%2Fy"]
    assert [r["v"] for r in project.sql("SELECT v FROM logs ORDER BY v")] == [1, 2, 3, 4]


def test_rows_without_values_and_an_empty_bucket(project: Project) -> None:
    assert project.run()["listed"] == 0
    assert project.sql("SELECT count(*) AS n FROM logs") == [{"n": 0}]
    project.upload("noval", "{}\n{}\n")
    project.write(LOGS.partition("logs.aggregate")[0])
    assert project.run()["rows"] == 2
    assert project.sql("SELECT count(*) AS n FROM logs") == [{"n": 2}]
    assert project.audit()["rows"] == 2


def test_schema_grows_and_contradictions_name_column_types_and_file(project: Project) -> None:
    project.upload("1", lines({"kind": "a", "v": 1}))
    project.run()
    project.upload("2", lines({"kind": "b", "v": 2, "extra": {"deep": [1]}}))
    project.upload("3", lines({"kind": "c", "v": "three"}))
    project.upload("4", lines({"kind": "d", "v": True}))
    project.upload("5", lines({"kind": "e", "v": 4.5}))
    assert project.run(code=1)["quarantined"] == 2
    reasons = {
        q["key"]: q["reason"]
        for q in json.loads(project.call("quarantine list", "--json", code=1).stdout)
    }
    assert "column 'v' is string, but in table logs it is " in reasons["up/3"]
    assert "column 'v' is bool, but in table logs it is " in reasons["up/4"]
    assert project.sql("SELECT kind, extra FROM logs ORDER BY kind") == [
        {"kind": "a", "extra": None},
        {"kind": "b", "extra": {"deep": [1]}},
        {"kind": "e", "extra": None},
    ]
    project.write(
        LOGS.partition("logs.aggregate")[0].replace('source="up/"', 'source="up/", widen="string"')
    )
    project.call("quarantine retry", "--all")
    assert project.run()["committed"] == 2
    assert [r["v"] for r in project.sql("SELECT v FROM logs ORDER BY kind")] == [
        "1",
        "2",
        "three",
        "true",
        "4.5",
    ]
    project.audit()


def test_limit_and_plan_change_nothing_else(project: Project) -> None:
    for i in range(5):
        project.upload(str(i), lines({"kind": "a", "v": i}))
    plan = json.loads(project.call("plan", "--json").stdout)[0]
    assert (plan["routes"][0]["new"], plan["listed"]) == (5, 5)
    assert not (project.root / "_tidemill").exists(), "plan writes nothing"
    assert project.run("--limit", "2")["committed"] == 2
    assert json.loads(project.call("plan", "--json").stdout)[0]["routes"][0]["new"] == 3
    assert project.run()["committed"] == 3
    assert "nothing to do" in project.call("plan").stdout


def test_lineage_both_ways(project: Project) -> None:
    project.upload("a", lines({"kind": "a", "v": 1}))
    project.run()
    found = json.loads(project.call("lineage", "up/a", "--json").stdout)[0]
    assert (found["rows"], found["transform"].split()[0]) == (1, "parse")
    back = json.loads(project.call("lineage", found["outputs"][0], "--json").stdout)[0]
    assert back["sources"] == ["up/a"]
    assert "did you mean 'up/a'" in project.call("lineage", "up/aa", code=2).stderr


def test_vacuum_removes_what_retention_lets_go(tmp_path: Path) -> None:
    project = Project(tmp_path, LOGS.replace('source="up/"', 'source="up/", retention_days=0'))
    project.upload("a", lines({"kind": "a", "v": 1}))
    project.run()
    project.upload("a", lines({"kind": "a", "v": 2}, {"kind": "a", "v": 3}))
    project.run()
    rows = project.root / "tables/logs/rows"
    assert len(list(rows.iterdir())) == 2
    assert "would delete" in project.call("vacuum", "--dry-run").stdout
    assert len(list(rows.iterdir())) == 2
    report = json.loads(project.call("vacuum", "--json").stdout)[0]
    assert report["files"] >= 1
    assert len(list(rows.iterdir())) == 1
    assert project.sql("SELECT total FROM by_kind") == [{"total": 5}]
    assert project.run()["commits"] == 0
    project.audit()


def test_a_changed_aggregate_is_computed_anew_and_a_broken_one_says_so(project: Project) -> None:
    project.upload("a", lines({"kind": "a", "v": 1}, {"kind": "a", "v": 5}))
    project.run()
    project.write(LOGS.replace("sum(v) AS total", "max(v) AS total"))
    assert project.sql("SELECT total FROM by_kind") == [{"total": 5}], (
        "queries do not wait for a run"
    )
    assert "1 aggregate brought up to date" in project.call("run").stdout
    assert project.run()["commits"] == 0
    project.write(LOGS.replace("sum(v) AS total", "sum(w) AS total"))
    assert "aggregate by_kind of logs: " in project.call("run", code=2).stderr
    assert (
        "aggregate by_kind cannot be computed: "
        in project.call("sql", "SELECT * FROM by_kind", code=2).stderr
    )
    project.audit()


def test_state_answers_sql(project: Project) -> None:
    project.upload("a", lines({"kind": "a", "v": 1}))
    project.upload("b", "bad\n")
    project.run(code=1)
    assert project.sql("SELECT key, status, rows FROM sources ORDER BY key") == [
        {"key": "up/a", "status": "committed", "rows": 1},
        {"key": "up/b", "status": "quarantined (failed)", "rows": None},
    ]
    assert project.sql(
        "SELECT sum(committed) AS c, sum(failed) AS f, sum(rows) AS r FROM commits"
    ) == [{"c": 1, "f": 1, "r": 1}]
    assert project.sql(
        "SELECT count(*) AS n FROM outputs WHERE status = 'live' AND table_name = 'rows'"
    ) == [{"n": 1}]
    assert project.sql("SELECT key FROM quarantine") == [{"key": "up/b"}]
