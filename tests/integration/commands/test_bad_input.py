"""Bad input: one clear line, exit code 2, nothing lost, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.cli import invoke
from tests.support.helpers import LOGS, Project, lines


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    assert invoke(list(arguments)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tidemill: ")
    assert err.count("\n") == 1, err
    return err


DECLARATIONS = {
    "no transform": ('p = Pipeline("p", source="up/")', "has no transform"),
    "bad name": ('Pipeline("P p", source="up/")', "use a lower-case letter"),
    "state's name": ('Pipeline("sources", source="up/")', "taken by a table of Tidemill's own"),
    "source is no prefix": (
        'Pipeline("p", source="up")',
        "must be a key prefix that ends with '/'",
    ),
    "source has dots": ('Pipeline("p", source="../up/")', "has an empty, '.' or '..' part"),
    "loop": ('Pipeline("p", source="x/", output="x/out/")', "overlaps the output prefix 'x/out/'"),
    "loop the other way": (
        'Pipeline("p", source="x/in/", output="x/")',
        "overlaps the output prefix 'x/'",
    ),
    "own prefix": ('Pipeline("p", source="_tidemill/p/")', "overlaps Tidemill's own prefix"),
    "widen": ('Pipeline("p", source="x/", widen="all")', 'is not one of "none", "float", "string"'),
    "globs": ('Pipeline("p", source="x/", include="*.csv")', "must be a list of strings"),
    "retention": (
        'Pipeline("p", source="x/", retention_days=-1)',
        "is not a number between 0 and",
    ),
    "aggregate without groups": (
        'Pipeline("p", source="x/").aggregate("a", by=[], sql="SELECT 1")',
        "needs at least one column",
    ),
    "aggregate without SQL": (
        'Pipeline("p", source="x/").aggregate("a", by=["k"], sql=" ")',
        "sql= is empty",
    ),
    "no arguments": (
        'p = Pipeline("p", source="x/")\n@p.transform\ndef f(): pass',
        "is called with one object and nothing else",
    ),
    "two arguments": (
        'p = Pipeline("p", source="x/")\n@p.transform\ndef f(a, b): pass',
        "its signature is (a, b)",
    ),
    "no call": (
        'p = Pipeline("p", source="x/")\n@p.transform\nclass F: pass',
        "needs a method __call__(self, obj)",
    ),
    "time limit": (
        'p = Pipeline("p", source="x/")\n@p.transform(timeout_s="5")\ndef f(a): pass',
        "timeout_s='5' is not a number",
    ),
    "twice": (
        (
            'p = Pipeline("p", source="x/")\n@p.transform\ndef f(a): pass\n@p.transform\ndef f(a):'
            " pass"
        ),
        "two transforms named f",
    ),
    "syntax": ("def (", "line 2: SyntaxError"),
    "import": ("import no_such_module_at_all", "line 2: ModuleNotFoundError"),
    "raises": ("1 / 0", "line 2: ZeroDivisionError"),
    "nothing declared": ("x = 1", "declares no Pipeline"),
}


@pytest.mark.parametrize("name", DECLARATIONS)
def test_files_that_declare_something_wrong(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, words = DECLARATIONS[name]
    file = tmp_path / "flow.py"
    file.write_text("from pipeline import Pipeline\n" + source + "\n")
    assert words in refused(capsys, "run", str(file), "--bucket", str(tmp_path))
    assert not (tmp_path / "_tidemill").exists()


def test_missing_things(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(project.file)
    assert "there is no file none.py" in refused(capsys, "run", "none.py", "--bucket", "x")
    assert "neither a file" in refused(capsys, "run", "no_such_module", "--bucket", "x")
    assert "declares no pipeline 'lgos'; did you mean 'logs'?" in refused(
        capsys, "run", f"{file}:lgos", "--bucket", "x"
    )
    assert "no bucket: give --bucket" in refused(capsys, "run", file)
    assert "does not exist" in refused(capsys, "run", file, "--bucket", str(tmp_path / "none"))
    assert "no bucket Tidemill knows" in refused(capsys, "run", file, "--bucket", "gs://x")
    assert "there is no command 'statu'; did you mean 'status'?" in refused(capsys, "statu")
    assert "No such option" in refused(capsys, "run", file, "--wach")
    bucket = str(project.root)
    assert "is not quarantined" in refused(
        capsys, "quarantine", "show", file, "up/x", "--bucket", bucket
    )
    assert "name the files to retry" in refused(
        capsys, "quarantine", "retry", file, "--bucket", bucket
    )
    assert "is no source and no output" in refused(
        capsys, "lineage", file, "up/x", "--bucket", bucket
    )
    assert "exists already" in refused(capsys, "init", str(make_taken(tmp_path)))


def make_taken(folder: Path) -> Path:
    (folder / "taken").mkdir()
    (folder / "taken" / "events.py").write_text("# mine")
    return folder / "taken"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("SELEC 1", "Parser Error"),
        ("SELECT nothing FROM sources", 'Referenced column "nothing" not found'),
        ("SELECT * FROM lgs", "there is no table 'lgs'; did you mean 'logs'?"),
        ("SELECT 1; SELECT 2", "give one SELECT statement"),
        ("", "give one SELECT statement"),
        ("DROP VIEW logs", "give one SELECT statement"),
        ("INSERT INTO logs VALUES (1)", "give one SELECT statement"),
        ("COPY logs TO 'stolen.csv'", "give one SELECT statement"),
        ("ATTACH 'x.db'", "give one SELECT statement"),
        ("INSTALL httpfs", "give one SELECT statement"),
        ("SET enable_external_access = true", "give one SELECT statement"),
        ("EXPLAIN ANALYZE COPY logs TO 'stolen.csv'", "give one SELECT statement"),
        ("SELECT * FROM read_csv('/etc/passwd')", "queries read the pipeline's tables only"),
        ("SELECT * FROM read_text('{folder}/flow.py')", "queries read the pipeline's tables only"),
        ("SELECT * FROM glob('/*')", "queries read the pipeline's tables only"),
        (
            "SELECT * FROM read_parquet('{folder}/bucket/tables/logs/rows/*.parquet')",
            "queries read the pipeline's tables only",
        ),
        ("SELECT * FROM '{folder}/flow.csv'", "queries read the pipeline's tables only"),
        ("SELECT * FROM query('COPY (SELECT 1) TO ''stolen.csv''')", ""),
    ],
)
def test_sql_is_read_only_and_sandboxed(
    statement: str,
    words: str,
    project: Project,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(project.folder)
    (project.folder / "flow.csv").write_text("a\n1\n")
    before = everything(project.folder)
    reported = refused(
        capsys,
        "sql",
        str(project.file),
        statement.format(folder=project.folder),
        "--bucket",
        str(project.root),
    )
    assert words in reported
    assert everything(project.folder) == before


def everything(folder: Path) -> list[str]:
    """Names in a folder, but for what importing Python leaves there."""
    return sorted(p.name for p in folder.iterdir() if p.name != "__pycache__")


def test_a_query_that_takes_too_long_is_stopped(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    endless = (
        "SELECT count(*) FROM range(1000000000) a, range(1000000000) b WHERE a.range + b.range = 7"
    )
    words = refused(
        capsys, "sql", str(project.file), endless, "--bucket", str(project.root), "--timeout", "0.3"
    )
    assert "took longer than 0.3 s" in words


RESULTS = {
    "a text": ('return "rows"', "the transform returned str 'rows'; expected an Arrow table"),
    "a number": ("return 5", "the transform returned int 5; expected an Arrow table"),
    "lists": (
        "return [[1, 2]]",
        "row 1 of the transform's result is list [1, 2]; expected a dict or a dataclass",
    ),
    "mixed types": (
        'return [{"a": 1}, {"a": "x"}]',
        "column 'a': row 2 has str 'x' where earlier rows have int 1",
    ),
    "objects": ('return [{"a": object()}]', "column 'a': row 1 has object"),
    "huge": ('return [{"a": 2**70}]', "column 'a': row 1 has int 1180591620717411303424"),
    "number as name": ("return [{1: 2}]", "row 1 has the column name 1; expected text"),
    "own column": ('return [{"_task": 2}]', "a column named '_task', which is Tidemill's own"),
    "no name": ('return [{"": 2}]', "a column without a name"),
    "case": ('return [{"a": 1, "A": 2}]', "columns 'a' and 'A' have the same name"),
    "surrogate": ('return [{"a": "\\ud800"}]', "column 'a': row 1 has str"),
    "raises later": ('yield {"a": 1}\n    raise ValueError("late")', "ValueError: late"),
}


def test_wrong_results_say_which_file_what_came_and_what_was_expected(tmp_path: Path) -> None:
    functions = "".join(
        f'@p.transform(match="{i}")\ndef f{i}(obj):\n    {source}\n\n'
        for i, (source, _) in enumerate(RESULTS.values())
    )
    project = Project(
        tmp_path, 'from pipeline import Pipeline\np = Pipeline("p", source="up/")\n\n' + functions
    )
    for i in range(len(RESULTS)):
        project.upload(str(i), "x")
    assert project.run(code=1)["quarantined"] == len(RESULTS)
    listed = json.loads(project.call("quarantine list", "--json", code=1).stdout)
    reasons = {q["key"]: q["reason"] for q in listed}
    for i, (_, words) in enumerate(RESULTS.values()):
        assert words in reasons[f"up/{i}"]
    project.audit()


DAMAGE = {
    "a newer format": (
        "format.json",
        lambda b: b.replace(b'"format":3', b'"format":99'),
        "written by a newer Tidemill",
    ),
    "format cut off": ("format.json", lambda b: b[:20], "is damaged"),
    "log cut off": ("log/*2.json", lambda b: b[:-10], "log/00000000000000000002.json"),
    "log of nonsense": ("log/*2.json", lambda b: b"[]", "log/00000000000000000002.json"),
    "newer log": ("log/*2.json", lambda b: b.replace(b'"format":3', b'"format":4'), "newer"),
    "checkpoint cut off": ("checkpoint/*.json", lambda b: b[:100], "checkpoint/"),
    "ledger run changed": (
        "ledger/*.parquet",
        lambda b: b[:-1] + b"x",
        "checksum is not the one its checkpoint recorded",
    ),
    "floor of nonsense": ("gc/floor", lambda b: b"many", "gc/floor should hold a sequence number"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_state_is_refused_by_name_and_untouched(
    name: str, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern, damage, words = DAMAGE[name]
    project.upload("a", lines({"kind": "a", "v": 1}))
    project.run()
    home = project.root / "_tidemill" / "logs"
    if "floor" in pattern:
        (home / "gc").mkdir()
        (home / "gc" / "floor").write_text("0")
    if pattern.startswith("log"):  # only read where no checkpoint covers it
        for path in (home / "checkpoint").iterdir():
            path.unlink()
        (home / "hint").unlink()
    [victim] = home.glob(pattern)
    good = victim.read_bytes()
    bad = damage(good)
    assert bad != good or "floor" in pattern
    victim.write_bytes(bad)
    project.upload("b", lines({"kind": "b", "v": 1}))
    before = sorted(str(p) for p in home.rglob("*"))
    done = project.call("run", code=2)
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(str(p) for p in home.rglob("*")) == before
    victim.write_bytes(good if "floor" not in pattern else b"0")
    assert project.run()["committed"] == 1
    project.audit()
    assert capsys is not None


def test_a_damaged_receipt_counts_as_none(project: Project) -> None:
    """It can only be one of an attempt that nobody settled: its task runs again."""
    project.upload("a", lines({"kind": "a", "v": 1}))
    project.run()
    receipts = project.root / "_tidemill" / "logs" / "receipts"
    [receipt] = receipts.iterdir()
    receipt.write_bytes(b"{}")
    project.upload("b", lines({"kind": "b", "v": 1}))
    assert project.run()["committed"] == 1
    project.audit()


def test_a_moved_output_prefix_is_refused(project: Project) -> None:
    project.upload("a", lines({"kind": "a", "v": 1}))
    project.run()
    project.write(LOGS.replace('source="up/"', 'source="up/", output="elsewhere/"'))
    assert "change it back, or give the pipeline another name" in project.call("run", code=2).stderr


HOSTILE = [
    "a b",
    "quo'te\"s",
    "new\nline",
    "é",
    "e\u0301",
    "a=b",
    "100%",
    "%2F",
    "x" * 250,
    "-rf",
    "$HOME",
    "Case",
    "case",
    "[x]*",
]


def test_hostile_names_go_all_the_way(project: Project) -> None:
    for i, name in enumerate(HOSTILE):
        project.upload(name, lines({"kind": name, "v": i}))
    (project.root / "up" / "link").symlink_to("/etc/passwd")
    with open(bytes(project.root / "up") + b"/not-utf8-\xff", "wb"):
        pass
    report = project.run(code=1)
    assert (report["committed"], report["quarantined"]) == (len(HOSTILE), 1)
    rows = project.sql("SELECT kind, _source_key FROM logs ORDER BY v")
    assert rows == [{"kind": name, "_source_key": f"up/{name}"} for name in HOSTILE]
    listed = json.loads(project.call("quarantine list", "--json", code=1).stdout)
    assert [(q["key"], q["kind"]) for q in listed] == [("up/not-utf8-\\xff", "key")]
    assert project.run()["commits"] == 0
    assert json.loads(project.call("lineage", "up/new\nline", "--json").stdout)[0]["rows"] == 1
    project.audit()
