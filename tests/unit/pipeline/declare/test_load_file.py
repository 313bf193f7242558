"""FILE on the command line: which code runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.declare.load_file import load_pipelines, nearest
from pipeline.errors import SettingsError
from tests.support.helpers import ROOT

FLOW = (
    'from pipeline import Pipeline\np = Pipeline("p", source="{source}/")\n@p.transform\ndef'
    " f(obj):\n    return None\n"
)


def write(path: Path, source: str) -> None:
    """Always with the same length and time, as by two quick edits."""
    path.write_text(FLOW.format(source=source))
    os.utime(path, (1_700_000_000, 1_700_000_000))


def test_an_edit_counts_at_once_though_size_and_time_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "edited_flow.py"
    for source in ("one", "two", "six"):
        write(file, source)
        [found] = load_pipelines(str(file))
        assert found.source == f"{source}/"
        del sys.modules["edited_flow"]


def test_two_files_of_one_name_are_two(tmp_path: Path) -> None:
    for folder in ("a1", "b2"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "same_name.py", folder)
    assert [
        load_pipelines(str(tmp_path / f / "same_name.py"))[0].source for f in ("a1", "b2", "a1")
    ] == ["a1/", "b2/", "a1/"]


@pytest.mark.parametrize("name", ["json", "pipeline", "click"])
def test_a_file_may_have_the_name_of_a_module(tmp_path: Path, name: str) -> None:
    write(tmp_path / f"{name}.py", "xyz")
    before = sys.modules.get(name)
    assert load_pipelines(str(tmp_path / f"{name}.py"))[0].source == "xyz/"
    assert sys.modules.get(name) is before


def test_one_pipeline_by_name_or_variable(tmp_path: Path) -> None:
    file = tmp_path / "several.py"
    other = (
        FLOW.format(source="b")
        .replace("p = ", "q = ")
        .replace('"p"', '"other"')
        .replace("@p", "@q")
    )
    file.write_text(FLOW.format(source="a") + other)
    assert [p.name for p in load_pipelines(str(file))] == ["p", "other"]
    assert [p.name for p in load_pipelines(f"{file}:other")] == ["other"]
    assert [p.name for p in load_pipelines(f"{file}:q")] == ["other"]
    with pytest.raises(SettingsError, match="did you mean 'other'"):
        load_pipelines(f"{file}:othr")


def test_the_nearest_name() -> None:
    assert nearest("statu", ["status", "run"]) == "; did you mean 'status'?"
    assert nearest("zzz", ["b", "a"]) == "; there is 'a', 'b'"
    assert nearest("zzz", []) == ""


# -- packages, and names of ours -------------------------------------------------------------------

HEAD = "from pipeline import Object, Pipeline\n"
REST = """
p = Pipeline("p", source="up/")


@p.transform
def f(obj: Object):
    return {"said": SAID}
"""


def project(folder: Path, **files: str) -> Path:
    """A folder with these files; `__` in a name stands for a slash, and each folder with `init` is
    a package.
    """
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/').replace('init', '__init__')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


SAYS = 'SAID = "yours"\n'
PROJECTS: dict[str, tuple[dict[str, str], str]] = {
    "relative": (
        {
            "acme__init": "",
            "acme__words": SAYS,
            "acme__flows": f"{HEAD}from .words import SAID\n{REST}",
        },
        "acme/flows.py",
    ),
    "absolute": (
        {
            "acme__init": "",
            "acme__words": SAYS,
            "acme__flows": f"{HEAD}from acme.words import SAID\n{REST}",
        },
        "acme/flows.py",
    ),
    "no init": (
        {"acme__words": SAYS, "acme__flows": f"{HEAD}from acme.words import SAID\n{REST}"},
        "acme/flows.py",
    ),
    "deep": (
        {
            "acme__init": "",
            "acme__a__init": SAYS,
            "acme__a__flows": f"{HEAD}from . import SAID as B\nfrom ..a import SAID\n{REST}",
        },
        "acme/a/flows.py",
    ),
    "by name": (
        {
            "acme__init": "",
            "acme__words": SAYS,
            "acme__flows": f"{HEAD}from .words import SAID\n{REST}",
        },
        "acme.flows",
    ),
    "by name, of one pipeline": (
        {"acme__init": SAYS, "acme__flows": f"{HEAD}from acme import SAID\n{REST}"},
        "acme.flows:p",
    ),
    "a module by name": ({"flows": f"{HEAD}{SAYS}{REST}"}, "flows:p"),
    "a package named like a library": (
        {
            "json__init": "",
            "json__words": SAYS,
            "json__flows": f"{HEAD}from .words import SAID\n{REST}",
        },
        "json/flows.py",
    ),
    "a folder infra": (
        {
            "infra__init": "",
            "infra__words": SAYS,
            "flow": f"{HEAD}from infra.words import SAID\n{REST}",
        },
        "flow.py",
    ),
    "a folder infra that is no package": (
        {"infra__words": SAYS, "flow": f"{HEAD}from infra import words\nSAID = words.SAID\n{REST}"},
        "flow.py",
    ),
    "a package infra that says it itself": (
        {"infra__init": SAYS, "flow": f"{HEAD}from infra import SAID\n{REST}"},
        "flow.py",
    ),
    "its own module within infra": (
        {
            "infra__init": "from .words import SAID\n",
            "infra__words": SAYS,
            "flow": f"{HEAD}import infra\nSAID = infra.SAID\n{REST}",
        },
        "flow.py",
    ),
    "a file sinks.py": (
        {"sinks": SAYS, "flow": f"{HEAD}from sinks import SAID, Delta\n{REST}"},
        "flow.py",
    ),
    "a file pipeline.py": (
        {"pipeline": SAYS, "flow": f"{HEAD}from pipeline import SAID\n{REST}"},
        "flow.py",
    ),
    "a package pipeline": (
        {
            "pipeline__init": "",
            "pipeline__words": SAYS,
            "pipeline__flows": f"{HEAD}from .words import SAID\n{REST}",
        },
        "pipeline/flows.py",
    ),
    "a module of ours in a package of theirs": (
        {
            "pipeline__init": "",
            "pipeline__words": SAYS,
            "pipeline__errors": f"{HEAD}from .words import SAID\n{REST}",
        },
        "pipeline/errors.py",
    ),
}


IN_FRESH_WORKERS = ("relative", "a module by name", "a folder infra", "a package pipeline")
"""Also where workers are new interpreters; not all, since each takes seconds."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTS)
def test_packages_and_names_of_ours_work_here_and_in_workers(tmp_path: Path, name: str) -> None:
    """As the command that is installed, which has nothing of the folder on its path; workers are
    forked, or new interpreters.
    """
    files, file = PROJECTS[name]
    folder, bucket = project(tmp_path / "project", **files), tmp_path / "bucket"
    (bucket / "up").mkdir(parents=True)
    (bucket / "up/a").write_text("x")
    fresh = [COMMAND.replace("sys.exit", FRESH + "sys.exit")] if name in IN_FRESH_WORKERS else []
    for tidemill in (COMMAND, *fresh):
        (bucket / "up/a").write_text((bucket / "up/a").read_text() + "x")
        done = tidemill_in(folder, tidemill, "run", file, "--bucket", str(bucket))
        assert (done.returncode, done.stderr) == (0, "")
        assert "1 file committed" in done.stdout
    done = tidemill_in(
        folder,
        COMMAND,
        "sql",
        file,
        "SELECT said FROM p",
        "--bucket",
        str(bucket),
        "--format",
        "csv",
    )
    assert done.stdout.split() == ["said", "yours"]


COMMAND = "import sys; from pipeline.cli import main; sys.exit(main())"
FRESH = (
    "from pipeline.executors.local import executor as local; local.make_spawner ="
    " local.make_fresh_spawner; "
)


def tidemill_in(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", program, *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


REFUSED = {
    "a name that we have": (
        {
            "infra__init": "",
            "infra__app": SAYS,
            "flow": f"{HEAD}from infra.app import SAID\n{REST}",
        },
        "flow.py",
        "infra is a package of Tidemill's own, whose names come first: rename yours",
    ),
    "no package": (
        {"acme__words": SAYS, "acme__flows": f"{HEAD}from .words import SAID\n{REST}"},
        "acme/flows.py",
        "put an empty __init__.py beside it",
    ),
    "a module that is not there": (
        {"flows": ""},
        "acme.flows",
        "'acme.flows' is neither a file (write acme.flows.py) nor a module",
    ),
    "sys.exit at import": (
        {"flow": "import sys\nsys.exit(3)\n"},
        "flow.py",
        "flow.py, line 2: SystemExit: 3",
    ),
    "an init that fails": (
        {"acme__init": "1 / 0\n", "acme__flows": HEAD + REST},
        "acme/flows.py",
        "__init__.py, line 1: ZeroDivisionError",
    ),
}


@pytest.mark.parametrize(("files", "file", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_work_is_refused_in_one_line(
    tmp_path: Path, files: dict[str, str], file: str, reason: str
) -> None:
    done = tidemill_in(project(tmp_path, **files), COMMAND, "plan", file, "--bucket", str(tmp_path))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert reason in done.stderr
