"""A watching run over keys that grow: it lists on from the last one, and everything only now and
then.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.runtime.watch import Passes, Watching
from pipeline.state.key_growth import Frontier, Growth
from pipeline.state.state import State
from tests.support.builders import pipeline_settings
from tests.support.helpers import Project, lines

FLOW = """
import json
from pipeline import Object, Pipeline

logs = Pipeline("logs", source="up/", listing="growing")

@logs.transform
def rows(obj: Object):
    return [json.loads(line) for line in obj.lines()]
"""
DAY_S = 86_400


def upload(project: Project, name: str, *, days_ago: float) -> None:
    """A file that becomes visible at once with its time of change."""
    project.upload(f"../.{name}", lines({"name": name}))
    hidden = project.root / "up" / ".." / f".{name}"
    when = time.time() - days_ago * DAY_S
    os.utime(hidden, (when, when))
    hidden.rename(project.root / "up" / name)


@pytest.mark.parametrize(("sweep_s", "finds_late"), [("3600", False), ("1", True)])
def test_a_late_key_waits_for_a_whole_listing(
    tmp_path: Path, sweep_s: str, finds_late: bool
) -> None:
    project = Project(tmp_path, FLOW)
    for i in range(3):
        upload(project, f"b{i}", days_ago=9 - i)
    command = project.command(
        "run", str(project.file), "--watch", "--interval", "0.1", "--json", "--sweep", sweep_s
    )
    watcher = subprocess.Popen(
        command, env=project.env(), cwd=project.folder, stdout=subprocess.PIPE, text=True
    )
    try:
        assert watcher.stdout is not None
        assert json.loads(watcher.stdout.readline())["committed"] == 3
        upload(project, "a-late", days_ago=0)
        committed = 0
        if finds_late:
            committed += json.loads(watcher.stdout.readline())["committed"]
        upload(project, "c", days_ago=0)
        committed += json.loads(watcher.stdout.readline())["committed"]
        assert committed == 1 + finds_late
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(60) == 0
    finally:
        watcher.kill()
    assert {row["name"] for row in project.sql("SELECT name FROM logs")} == {
        "b0",
        "b1",
        "b2",
        "c",
        *(["a-late"] if finds_late else []),
    }
    project.run()
    project.audit()


def test_a_listing_that_is_none_is_refused(tmp_path: Path) -> None:
    done = Project(tmp_path, FLOW.replace('"growing"', '"sometimes"')).call("run", code=2)
    assert "listing='sometimes' is not one of" in done.stderr


@pytest.mark.parametrize("reported", [False, True])
def test_with_a_queue_every_listing_is_whole(reported: bool) -> None:
    """It is what makes lost notices good, wherever their keys lie."""
    queue: Any = object() if reported else None
    nothing: Any = None
    passes = Passes([], nothing, nothing, watching=Watching(notices=queue))
    settings = pipeline_settings(listing="growing")
    frontier = Frontier(prefix="up/", start_after="", last="up/z", seen=1, late=0)
    passes.states["p"] = State(settings.name)
    passes.states["p"].growth = Growth(listed=1, whole=frontier)
    passes.whole_due_s["p"] = math.inf
    runtime = SimpleNamespace(settings=settings, label="p", pipeline=SimpleNamespace(upstream=None))
    request = passes._request(runtime)  # type: ignore[arg-type]
    assert (request is not None and request.growing) is not reported
