"""The version of a transform: another name for other code or settings, the same name for the same,
wherever it runs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.helpers import ROOT

FLOW = """
import re
import json
import helpers
from helpers import shout
from pipeline import Pipeline

p = Pipeline("p", source="up/"OPTIONS)
LIMIT = 3
WORDS = {"b", "a"}
UNUSED = 1
PATTERN = re.compile("x+")

@p.transform(TRANSFORM)
def rows(obj):
    return [{"n": clean(obj.name), "w": len(WORDS), "s": shout("x"), "h": helpers.quiet("y"),
        "j": json.dumps(1)}]

def clean(text):
    return PATTERN.sub("", text)[:LIMIT]

def unused():
    return 1

print(p.settings().versions["rows"])
"""
HELPERS = (
    "def shout(x):\n    return other(x)\n\ndef other(x):\n    return x.upper()\n\ndef quiet(x):\n  "
    "  return x.lower()\n"
)


def version(
    folder: Path, flow: str = FLOW, helpers: str = HELPERS, options: str = "", transform: str = ""
) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "helpers.py").write_text(helpers)
    (folder / "flow.py").write_text(
        flow.replace("OPTIONS", options).replace("TRANSFORM", transform)
    )
    code = (
        "from pipeline.declare.load_file import load_pipelines;"
        f" load_pipelines({str(folder / 'flow.py')!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stderr.strip()


def test_the_same_code_has_the_same_name_wherever_it_lies(tmp_path: Path) -> None:
    assert version(tmp_path / "here") == version(tmp_path / "there")
    unrelated = FLOW.replace("UNUSED = 1", "UNUSED = 2").replace("return 1\n", "return 2\n")
    assert version(tmp_path / "here", unrelated) == version(tmp_path / "there"), (
        "what it does not use does not count"
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ('WORDS = {"b", "a"}', 'WORDS = {"b", "c"}'),
        ('re.compile("x+")', 're.compile("y+")'),
        ('sub("", text)', 'sub("-", text)'),
        ('"w": len(WORDS)', '"v": len(WORDS)'),
    ],
)
def test_what_it_uses_counts(tmp_path: Path, before: str, after: str) -> None:
    assert before in FLOW
    assert version(tmp_path, FLOW.replace(before, after)) != version(tmp_path)


def test_helpers_beside_it_and_settings_count(tmp_path: Path) -> None:
    names = [
        version(tmp_path),
        version(tmp_path, helpers=HELPERS.replace("upper()", "title()")),
        version(tmp_path, helpers=HELPERS.replace("lower()", "strip()")),
        version(tmp_path, options=', pip=["pillow==10"]'),
        version(tmp_path, transform='pip=["pillow==11"]'),
        version(tmp_path, transform="batch_size=2"),
    ]
    assert len(set(names)) == len(names)
    assert version(tmp_path, transform='version="mine"') == "mine"
