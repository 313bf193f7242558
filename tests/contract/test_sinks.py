"""The contract of every sink: after any publish, killed or not, the target holds exactly the rows of one snapshot, once."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from pipeline.publishing import Published
from sinks.port import Mark
from sinks.targets import Target
from tests.contract.sinks_world import KINDS, STAGES, World

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
