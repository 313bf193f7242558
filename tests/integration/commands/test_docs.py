"""What the documents show works: every Python file in them, and the session of the README."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import COMMANDS
from tests.support.helpers import ROOT, Project

SUBCOMMANDS = [f"quarantine {c}" for c in ("list", "show", "retry", "replay")] + [
    "schema show",
    "schema history",
]
BLOCK = re.compile(r"```python\n# (\w+\.py)\n(.*?)```", re.DOTALL)


def blocks(document: str) -> dict[str, str]:
    found = dict(BLOCK.findall((ROOT / document).read_text()))
    assert found
    return found


@pytest.mark.parametrize(
    ("name", "source"),
    blocks("docs/GUIDE.md").items(),
    ids=lambda v: v if v.endswith(".py") else "",
)
def test_the_guides_files_run(name: str, source: str, tmp_path: Path) -> None:
    project = Project(tmp_path, source)
    uploads = project.root / "uploads"
    uploads.mkdir()
    (uploads / "a.txt").write_text('{"n": 1}\n')
    (uploads / "b.bin").write_bytes(b'{"n": 2}\n')
    (project.root / "reference").mkdir()
    (project.root / "reference" / "regions.csv").write_text("name,region\na.txt,north\n")
    assert project.run()["committed"] == 2
    table = project.call("sql").stdout.splitlines()[0]
    assert project.sql(f"SELECT count(*) AS n FROM {table}")[0]["n"] == 2
    project.audit()


SESSION = re.compile(
    r"```(?:python\n# (?P<name>\w+\.py)\n(?P<source>.*?)|console\n(?P<session>.*?))```", re.DOTALL
)


def play(document: str, folder: Path) -> list[str]:
    """Follow a document: write its files, run its commands, compare what they print where it is
    shown (`…`: anything).
    """
    (folder / "bin").mkdir()
    command = folder / "bin" / "tidemill"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pipeline.cli "$@"\n')
    command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    printed = []
    for part in SESSION.finditer((ROOT / document).read_text()):
        if part["name"]:
            (folder / part["name"]).write_text(part["source"])
        for step in re.split(r"^\$ ", part["session"] or "", flags=re.MULTILINE)[1:]:
            line, _, shown = step.partition("\n")
            done = subprocess.run(  # noqa: S602
                line, shell=True, cwd=folder, env=environment, capture_output=True, text=True
            )
            assert "bug" not in done.stderr
            assert "Traceback" not in done.stderr
            wanted = "".join(".*" if c == "…" else re.escape(c) for c in shown.rstrip())
            got = "\n".join(text.rstrip() for text in done.stdout.splitlines())
            assert not shown or re.fullmatch(wanted, got), f"{line}\n{got}\n{done.stderr}"
            printed.append(done.stdout + done.stderr)
    assert printed
    return printed


def test_the_readmes_session(tmp_path: Path) -> None:
    printed = play("README.md", tmp_path)
    assert any("could not convert string to float: 'a lot'" in text for text in printed)
    assert "could not convert string to float: 'a lot'" in (ROOT / "README.md").read_text()


def test_code_is_changed_without_fear(tmp_path: Path) -> None:
    printed = play("docs/guides/changing-code.md", tmp_path)
    refused = "generation 1 is a sample of 2 files"
    assert any(refused in text for text in printed)
    assert refused in (ROOT / "docs/guides/changing-code.md").read_text()


@pytest.mark.parametrize("command", [*COMMANDS, *SUBCOMMANDS])
def test_every_command_has_help_with_an_example(command: str) -> None:
    from click.testing import CliRunner

    from pipeline.cli import cli

    shown = CliRunner().invoke(cli, [*command.split(), "--help"], prog_name="tidemill")
    assert shown.exit_code == 0
    assert f"tidemill {command}" in shown.output.partition("Example:")[2]


def test_init_makes_a_project_that_runs_and_whose_test_passes(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def call(*arguments: str, folder: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    made = call("pipeline.cli", "init", "mine")
    steps = [line.strip() for line in made.stdout.splitlines()[1:]]
    assert steps[0] == "cd mine"
    ran = call("pipeline.cli", *steps[1].split()[1:], "--json", folder=tmp_path / "mine")
    assert json.loads(ran.stdout)["committed"] == 2
    passed = call("pytest", "-q", "-p", "no:cacheprovider", folder=tmp_path / "mine")
    assert passed.returncode == 0, passed.stdout + passed.stderr


def test_no_document_names_a_host_of_a_registry_or_a_path_of_a_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in (".md", ".py", ".toml", ".lock", "") and path.is_file():
            text = path.read_text(errors="ignore")
            for words in ("pypi" + ".org", "files.python" + "hosted"):
                assert words not in text, f"{name}: {words}"
            for folder in ("home", "root", "work"):
                assert not re.search(rf"(?<!\w)/{folder}/", text), f"{name}: {folder}"
