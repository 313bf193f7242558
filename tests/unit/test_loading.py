"""FILE on the command line: which code runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pipeline.errors import SettingsError
from pipeline.loading import load_pipelines, nearest

FLOW = 'from pipeline import Pipeline\np = Pipeline("p", source="{source}/")\n@p.transform\ndef f(obj):\n    return None\n'


def write(path: Path, source: str) -> None:
    """Always with the same length and time, as by two quick edits."""
    path.write_text(FLOW.format(source=source))
    os.utime(path, (1_700_000_000, 1_700_000_000))


def test_an_edit_counts_at_once_though_size_and_time_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert [load_pipelines(str(tmp_path / f / "same_name.py"))[0].source for f in ("a1", "b2", "a1")] == ["a1/", "b2/", "a1/"]


@pytest.mark.parametrize("name", ["json", "pipeline", "click"])
def test_a_file_may_have_the_name_of_a_module(tmp_path: Path, name: str) -> None:
    write(tmp_path / f"{name}.py", "xyz")
    before = sys.modules.get(name)
    assert load_pipelines(str(tmp_path / f"{name}.py"))[0].source == "xyz/"
    assert sys.modules.get(name) is before


def test_one_pipeline_by_name_or_variable(tmp_path: Path) -> None:
    file = tmp_path / "several.py"
    other = FLOW.format(source="b").replace("p = ", "q = ").replace('"p"', '"other"').replace("@p", "@q")
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
