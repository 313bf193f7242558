"""What the commands say of limits, priorities and what waits."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.cli.options import priority_of
from pipeline.cli.parameter_types import Size
from pipeline.declare.pipeline import Pipeline
from pipeline.deploy.control import deployed_runtime
from pipeline.errors import SettingsError
from pipeline.executors.none import NoExecutor
from pipeline.model.settings import Priority, TransformSettings
from pipeline.state.state import State
from pipeline.testing.memory_store import MemoryStore
from tests.support.helpers import Project, lines

HOUR_S = 3600


def test_the_newest_go_first_and_status_says_what_waits(tmp_path: Path) -> None:
    project = Project(tmp_path)
    body = lines({"kind": "a", "v": 1})
    for i in range(5):
        path = project.upload(f"{i}.jsonl", body)
        moment_s = path.stat().st_mtime - HOUR_S * (6 - i)
        os.utime(path, (moment_s, moment_s))
    done = project.call("run", "--limit-bytes", f"{2 * len(body)}B", "--priority", "newest")
    assert "2 files committed" in done.stdout
    assert "  3 files left for a later run (" in done.stdout
    assert "the oldest uploaded 6 h 0 min ago" in done.stdout
    status = project.call("status").stdout
    assert "  backlog: 3 files, " in status
    assert "the oldest uploaded 6 h 0 min ago (as of the last listing, " in status
    found = json.loads(project.call("status", "--json").stdout)[0]["backlog"]
    assert (found["files"], found["bytes"], found["complete"], found["tried_again_by_itself"]) == (
        3,
        3 * len(body),
        True,
        0,
    )
    assert found["oldest_unprocessed_at"] == found["oldest_uploaded_at"]

    assert project.run()["committed"] == 3


def reported(folder: Path, *arguments: str) -> str:
    file = folder / "flow.py"
    file.write_text(
        'from pipeline import Pipeline\np = Pipeline("p", source="up/")\n@p.transform\ndef f(obj):'
        " return None\n"
    )
    (folder / "bucket").mkdir(exist_ok=True)
    done = CliRunner().invoke(
        cli,
        [arguments[0], str(file), "--bucket", str(folder / "bucket"), *arguments[1:]],
        prog_name="tidemill",
    )
    assert done.exit_code == 2
    return done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "--limit-bytes", "much"],
            "'much' is no size: write 500MB, 2GiB or a number of bytes",
        ),
        (["run", "--limit-bytes", "0"], "'0' is no size"),
        (["backfill", "--limit-bytes", "-5MB"], "is no size"),
        (
            ["run", "--limit-cost", "5"],
            "--limit-cost is for --engine modal: what work costs on this machine is not known",
        ),
        (["backfill", "--limit-cost", "5"], "--limit-cost is for --engine modal"),
        (["run", "--limit-cost", "-1"], "Invalid value for '--limit-cost'"),
        (
            ["run", "--priority", "newst"],
            "--priority 'newst' is no order (key, newest, oldest: one) and no prefix",
        ),
        (["run", "--priority", "newest", "--priority", "vip/"], "--priority 'newest' is no order"),
        (["run", "--job", "job-x", "--limit-bytes", "5MB"], "--job goes with neither"),
    ],
    ids=" ".join,
)
def test_a_limit_or_an_order_that_makes_no_sense_is_refused(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert message in reported(tmp_path, *arguments)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500MB", 500_000_000),
        ("2GiB", 2 * 2**30),
        ("1.5 gb", 1_500_000_000),
        ("7", 7),
        ("3k", 3_000),
        ("1TiB", 2**40),
        ("12B", 12),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "MB", "5 XB", "5MBB", "five", "1e6", "0.1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size"):
        Size().convert(text, None, None)


def test_priorities_are_declared_or_given() -> None:
    def declared(value: Any) -> Priority:
        p = Pipeline("p", source="up/", priority=value)
        p.transform(nothing)
        return p.settings().priority

    assert (declared("newest"), declared(["vip/", "b"])) == (
        Priority(order="newest"),
        Priority(prefixes=("vip/", "b")),
    )
    assert (priority_of(("oldest",)), priority_of(("vip/", "2026/"))) == (
        Priority(order="oldest"),
        Priority(prefixes=("vip/", "2026/")),
    )
    for wrong in ("newst", "vip/", ["/vip"], [""], 5):
        with pytest.raises(SettingsError, match="priority="):
            declared(wrong)


def test_a_limit_of_costs_holds_beside_the_declared_one() -> None:
    p = Pipeline("p", source="up/", max_cost_usd=2)
    p.transform(nothing)
    transform = TransformSettings(name="nothing", version="v", match=("**",))

    def affordable(usd: float | None) -> int | None:
        budget = deployed_runtime(p, MemoryStore(), NoExecutor(), usd=usd).budget
        assert budget is not None
        return budget.files_affordable(State("p"), transform, 10, 0)

    declared, tighter = affordable(None), affordable(1)
    assert declared is not None
    assert tighter is not None
    assert tighter in (declared // 2, declared // 2 + 1)
    assert (affordable(5), affordable(0)) == (declared, 0)


def nothing(obj: object) -> None:
    """A transform that does nothing."""
