"""The contract of every sink: after any publish, killed or not, the target holds exactly the rows of one snapshot, once."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pipeline.publishing import Published
from sinks.port import Mark
from sinks.targets import Target
from tests.contract.sinks_world import KINDS, STAGES, World
from tests.helpers import ROOT

_tags = (f"t{n}" for n in itertools.count())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("sinks"))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tag() -> str:
    return next(_tags)


def publish(world: World, target: Target, stage: str, *, rebuild: bool = False) -> Published:
    done = asyncio.run(world.publisher(target, world.snapshots[stage]).publish("it", rebuild=rebuild))
    assert done.problem == ""
    return done


def assert_holds(world: World, kind: str, tag: str, stage: str) -> None:
    snapshot = world.snapshots[stage]
    assert world.held(kind, tag) == world.expected(snapshot), stage
    assert world.held(kind, tag, "by_kind") == world.expected(snapshot, "by_kind"), stage


def mark(world: World, target: Target) -> Mark | None:
    return asyncio.run(target.open(world.runtime.store).mark("sales"))


def test_a_sink_follows_every_commit(world: World, kind: str, tag: str) -> None:
    target = world.target(kind, tag)
    assert mark(world, target) is None
    for stage in STAGES:
        assert publish(world, target, stage).done
        assert_holds(world, kind, tag, stage)
        assert mark(world, target) == Mark(0, world.snapshots[stage].sequence)
        assert not publish(world, target, stage).done


def test_publishers_that_are_killed_anywhere_or_run_together(world: World, kind: str, tag: str) -> None:
    """See `tests/contract/sinks_crashes.py`: SIGKILL at each step, then publish again; and three publishers at once."""
    world.target(kind, tag)  # the server runs
    stages = ("first", "columns")
    tables = ("sales", "by_kind")
    (world.folder / "snapshots.json").write_bytes(msgspec.json.encode({s: world.snapshots[s] for s in stages}))
    expected = {s: {t: world.expected(world.snapshots[s], t) for t in tables} for s in stages}
    (world.folder / "expected.json").write_text(json.dumps(expected))
    command = [sys.executable, "-m", "tests.contract.sinks_crashes", str(world.folder), kind, tag]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    *wrong, last = done.stdout.splitlines()
    assert wrong == []
    assert int(last.removeprefix("died ")) >= {"catalogue": 4, "delta": 8, "postgres": 14, "duckdb": 12}[kind]
