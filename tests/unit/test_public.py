"""What users import, and what an editor says of it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
import pipeline.testing
import sinks
import tidemill
from pipeline import Object, Pipeline, SettingsError, TidemillError, errors
from pipeline.declare.load_file import load_pipelines
from pipeline.testing import run_inline
from tests.support.helpers import ROOT

PUBLIC = {
    pipeline: [
        *("CommitConflict", "CommitUnknown", "InputRejected", "KeyUnsupported", "Object"),
        *("ObjectArchived", "ObjectNotFound", "Pipeline", "PreconditionFailed", "SettingsError"),
        *("SourceChanged", "StateInvalid", "StoreDenied", "StoreError", "StoreUnavailable"),
        *("StoreUnsafe", "Table", "TidemillError", "__version__"),
    ],
    pipeline.testing: ["InlineExecutor", "MemoryStore", "Ran", "inline_runtime", "run_inline"],
    sinks: ["Catalogue", "Delta", "DuckDBFile", "Postgres"],
    tidemill: [
        *("InputRejected", "Object", "Pipeline", "SettingsError", "SourceChanged", "Table"),
        *("TidemillError", "__version__", "sinks", "testing"),
    ],
}


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_the_public_names_change_only_on_purpose(module: object) -> None:
    assert sorted(module.__all__) == PUBLIC[module]  # type: ignore[attr-defined, index]
    assert all(getattr(module, name) is not None for name in PUBLIC[module])  # type: ignore[index]


def test_the_drawing_of_errors_is_whole() -> None:
    """At the top of errors.py: every error of ours, each below its parent."""
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"( +(?:[│├└─ ]*))([A-Z]\w+)(?= |$)", line)
        if found is None or not (found[2] == "TidemillError" or "─" in found[1]):
            continue
        depth = len(found[1])
        above = [(d, name) for d, name in above if d < depth]
        drawn[found[2]] = above[-1][1] if above else ""
        above.append((depth, found[2]))
    there: dict[str, str] = {}
    for path in sorted((ROOT / "pipeline").rglob("*.py")) + sorted((ROOT / "sinks").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.bases:
                there[node.name] = getattr(node.bases[0], "id", "")
    ours = {"TidemillError": ""}
    for _ in range(5):
        ours |= {name: base for name, base in there.items() if base in ours and name[0] != "_"}
    assert drawn == ours


FLOW = """from tidemill import Object, Pipeline, sinks

p = Pipeline("p", source="up/", schema_mode="evolve")
p.check("positive", "n > 0")
p.aggregate("total", by=["kind"], sql="SELECT kind, sum(n) AS n FROM p GROUP BY kind")


@p.transform(match="*.txt")
def rows(obj: Object) -> list[dict[str, object]]:
    return [{"kind": obj.name[0], "n": int(line)} for line in obj.text().splitlines()]


@p.transform(match="*.many", batch_size=4)
def many(objs: list[Object]) -> list[list[dict[str, int]]]:
    return [[{"n": len(obj.read())}] for obj in objs]


@p.transform(match="*.kept")
class Kept:
    def load(self) -> None:
        self.n = 1

    def __call__(self, obj: Object) -> list[dict[str, int]]:
        return [{"n": self.n}]


p.sink("lake", sinks.Delta("lake/"))
"""
WRONG = {
    "another argument": "@p.transform\ndef f(x: int, y: str) -> list[int]:\n    return []\n",
    "a list without batches": "@p.transform(match='*.x')\ndef f(o: list[Object]) -> None: ...\n",
    "one object of a batch": "@p.transform(batch_size=3)\ndef f(o: Object) -> None: ...\n",
    "an option that is none": "@p.transform(timeout=3)\ndef f(o: Object) -> None: ...\n",
}
PYRIGHT = [sys.executable, "-m", "basedpyright"]
CHECKERS = {
    "mypy": [sys.executable, "-m", "mypy", "--strict", "--no-incremental"],
    "pyright": [
        sys.executable,
        "-m",
        "basedpyright",
        "--level",
        "error",
        "--pythonpath",
        sys.executable,
    ],
}


@pytest.mark.slow
def test_a_users_project_is_typed_and_what_is_wrong_in_it_is_marked(tmp_path: Path) -> None:
    """By both checkers; the errors are those that are meant, in the lines that are wrong."""
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    (tmp_path / "flows.py").write_text(FLOW)
    head = 'from tidemill import Object, Pipeline\n\np = Pipeline("p", source="up/")\n\n'
    for i, code in enumerate(WRONG.values()):
        (tmp_path / f"wrong{i}.py").write_text(head + code)
    for name, command in CHECKERS.items():
        done = subprocess.run(
            [*command, "."], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        marked = set(re.findall(r"(\w+)\.py:\d+:(?:\d+)?.*error", done.stdout))
        assert marked == {f"wrong{i}" for i in range(len(WRONG))}, (name, done.stdout, done.stderr)


def test_a_pipeline_runs_in_a_test(tmp_path: Path) -> None:
    (tmp_path / "tested_flow.py").write_text(FLOW)
    [flow] = load_pipelines(str(tmp_path / "tested_flow.py"))
    ran = run_inline(flow, {"up/a.txt": "1\n2", "up/b.txt": "x", "up/c.txt": "-1"})
    assert ran.rows == [{"kind": "a", "n": 1}, {"kind": "a", "n": 2}]
    assert ran.aggregates == {"total": [{"kind": "a", "n": 3}]}
    assert sorted(ran.failed) == ["up/b.txt", "up/c.txt"]
    assert "invalid literal" in ran.failed["up/b.txt"]
    assert "check positive" in ran.failed["up/c.txt"]
    with pytest.raises(SettingsError, match="not below the source 'up/'"):
        run_inline(flow, {"other/a.txt": "1"})


def test_nothing_is_left_of_a_run_in_a_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    p = Pipeline("p", source="up/")

    @p.transform
    def rows(obj: Object) -> None:
        raise TidemillError("no")

    assert run_inline(p, {"up/a": b"x"}).rows == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("own", ["pipeline", "sinks"])
def test_a_package_of_the_users_with_our_name_goes_on_working(tmp_path: Path, own: str) -> None:
    (tmp_path / own).mkdir()
    (tmp_path / own / "__init__.py").write_text("HERE = 'theirs'\n")
    (tmp_path / own / "words.py").write_text("SAID = 'hello'\n")
    code = (
        "from tidemill import Pipeline, sinks\n"
        f"from {own}.words import SAID\nfrom {own} import HERE"
        "\nprint(SAID, HERE, Pipeline('p', source='up/'), sinks.Delta.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("hello theirs Pipeline('p', source='up/') Delta\n", "")
    before = f"import {own}\nimport tidemill"
    done = subprocess.run(
        [sys.executable, "-c", before], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr.strip().endswith("import tidemill first")
