"""The contract of every sink: after any publish, killed or not, the target holds exactly the rows
of one snapshot, once.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.commit_log.log import Log
from pipeline.model.snapshot import Snapshot
from pipeline.ports import Store
from pipeline.runtime.publish import Published
from pipeline.stores.local.store import LocalStore
from sinks import Postgres
from sinks.copies.change import Change, Mark
from sinks.copies.change_rows import Rows
from sinks.copies.port import Sink
from sinks.targets import Target
from tests.contract.sinks_world import KINDS, STAGES, World, compacted, execute, spoil, typed_world
from tests.support.helpers import ROOT

_tags = (f"t{n}" for n in itertools.count())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("sinks"))


@pytest.fixture(scope="module")
def every_type(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, list[Snapshot]]:
    return typed_world(tmp_path_factory.mktemp("types"))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tag() -> str:
    return next(_tags)


def publish(world: World, target: Target, stage: str, *, rebuild: bool = False) -> Published:
    done = asyncio.run(
        world.publisher(target, world.snapshots[stage]).publish("it", rebuild=rebuild)
    )
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


def test_publishers_that_are_killed_anywhere_or_run_together(world: World, tag: str) -> None:
    """SIGKILL at each step, then publish again; and two publishers at once.

    All kinds, since loading everything takes a while.
    """
    world.target("postgres", "started")
    stages, tables = ("first", "columns"), ("sales", "by_kind")
    (world.folder / "snapshots.json").write_bytes(
        msgspec.json.encode({s: world.snapshots[s] for s in stages})
    )
    expected = {s: {t: world.expected(world.snapshots[s], t) for t in tables} for s in stages}
    (world.folder / "expected.json").write_text(json.dumps(expected))
    command = [sys.executable, "-m", "tests.contract.sinks_crashes", str(world.folder), tag, *KINDS]
    env = {**os.environ, "TMPDIR": str(world.folder)}  # the killed leave temporary files
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    said: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        said.setdefault(line, []) if line in KINDS else said[[*said][-1]].append(line)
    died = {kind: int(lines.pop().removeprefix("died ")) for kind, lines in said.items()}
    assert {kind: lines for kind, lines in said.items() if lines} == {}
    least = {"catalogue": 4, "delta": 10, "postgres": 10, "duckdb": 9}
    assert {kind: n for kind, n in died.items() if n < least[kind]} == {}, died


class _Overtaken(Target):
    """A target on which somebody else publishes just before each publish."""

    def __init__(self, target: Target, other: Callable[[], object]) -> None:
        self.target = target
        self.other = other

    def open(self, store: Store) -> Sink:
        sink = self.target.open(store)
        publish = sink.publish

        async def late(change: Change, rows: Rows) -> bool:
            await asyncio.to_thread(self.other)
            return await publish(change, rows)

        sink.publish = late  # type: ignore[method-assign]
        return sink


def test_a_publisher_that_comes_late_does_not_go_back(world: World, kind: str, tag: str) -> None:
    target = world.target(kind, tag)
    publish(world, target, "first")
    late = _Overtaken(target, lambda: publish(world, target, "deleted"))
    done = asyncio.run(world.publisher(late, world.snapshots["replaced"]).publish("it"))
    assert "it holds commit" in done.problem
    assert_holds(world, kind, tag, "deleted")


def test_a_rebuild_replaces_what_the_target_holds_whatever_that_is(
    world: World, kind: str, tag: str
) -> None:
    target = world.target(kind, tag)
    publish(world, target, "text")
    spoil(kind, world, tag)
    assert world.held(kind, tag) != world.expected(world.snapshots["text"])
    assert not publish(world, target, "text").done
    assert publish(world, target, "text", rebuild=True).rebuilt
    assert_holds(world, kind, tag, "text")
    publish(world, target, "first", rebuild=True)  # as after the bucket was started over
    assert_holds(world, kind, tag, "first")


def test_compaction_moves_rows_and_changes_none(world: World, kind: str, tag: str) -> None:
    """Outputs whose rows were merged into one file, each with its task of before."""
    target, before = world.target(kind, tag), world.snapshots["columns"]
    publish(world, target, "columns")
    after = compacted(world, before)
    done = asyncio.run(world.publisher(target, after).publish("it"))
    assert (done.problem, done.mark) == ("", Mark(0, before.sequence + 1))
    assert world.held(kind, tag) == world.expected(before)
    if kind == "postgres":  # the transaction that wrote each row
        written = "SELECT count(DISTINCT xmin::text) FROM s_%s.sales"
        assert execute(kind, world, tag, written % tag) == [(1,)]


def test_every_type_that_tables_hold(
    every_type: tuple[World, list[Snapshot]], kind: str, tag: str
) -> None:
    """In a first publish, and as columns that come later."""
    world, snapshots = every_type
    for snapshots_of, name in ((snapshots, tag), (snapshots[1:], f"{tag}_whole")):
        target = world.target(kind, name)
        for snapshot in snapshots_of:
            done = asyncio.run(world.publisher(target, snapshot).publish("it"))
            assert done.problem == ""
        held, expected = (
            [json.loads(row) for row in rows]
            for rows in (world.held(kind, name), world.expected(snapshots[-1]))
        )
        assert held == expected


def test_a_delta_table_of_somebody_elses_is_not_touched(world: World, tag: str) -> None:
    import pyarrow as pa
    from deltalake import DeltaTable, write_deltalake

    target, place = world.target("delta", tag), world.bucket / "lake" / tag / "by_kind"
    write_deltalake(place, pa.table({"mine": [1]}))
    done = asyncio.run(world.publisher(target, world.newest()).publish("it"))
    assert "is not one that Tidemill made" in done.problem
    assert mark(world, target) is None
    assert DeltaTable(place).version() == 0


def test_nobody_finds_a_duckdb_file_that_is_no_database_yet(
    world: World, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB makes a file in steps; whoever opens it between them is told that it is none."""
    import duckdb

    target = world.target("duckdb", tag)
    connect, opened = duckdb.connect, []

    def looking(database: str, **options: Any) -> Any:
        if Path(database).name == f"{tag}.duckdb":
            opened.append((Path(database).parent == world.folder, Path(database).exists()))
        return connect(database, **options)

    monkeypatch.setattr(duckdb, "connect", looking)
    assert publish(world, target, "first").done
    assert opened[0] == (False, False), "made elsewhere"
    assert {there for beside, there in opened if beside} == {True}
    assert not [*world.folder.glob(f".{tag}*")]


@pytest.mark.parametrize("kind", ["postgres", "duckdb"])
def test_a_table_of_somebody_elses_is_not_touched(world: World, kind: str, tag: str) -> None:
    target = world.target(kind, tag)
    statements = [f"CREATE SCHEMA s_{tag}", f"CREATE TABLE s_{tag}.by_kind (mine int)"]
    execute(
        kind,
        world,
        tag,
        *(statements if kind == "postgres" else ["CREATE TABLE by_kind (mine int)"]),
    )
    done = asyncio.run(world.publisher(target, world.newest()).publish("it"))
    assert "table by_kind that Tidemill did not make" in done.problem
    assert mark(world, target) is None


@pytest.mark.parametrize("before", ["first", None])
@pytest.mark.parametrize("kind", ["delta", "catalogue"])
def test_whoever_commits_between_the_look_and_the_commit_wins(
    world: World, kind: str, tag: str, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is locked there: the commit itself has to notice."""
    from deltalake import DeltaTable

    target = world.target(kind, tag)
    if before is not None:
        publish(world, target, before)
    moment = "create_write_transaction" if before is not None else "create"
    owner, name = (DeltaTable, moment) if kind == "delta" else (LocalStore, "put")
    original = getattr(owner, name)

    def overtaken(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(owner, name, original)
        with ThreadPoolExecutor(1) as elsewhere:
            elsewhere.submit(publish, world, target, "deleted").result()
        return (
            getattr(owner, name)(*arguments, **options)
            if name == "create"
            else original(*arguments, **options)
        )

    monkeypatch.setattr(owner, name, overtaken)
    done = asyncio.run(world.publisher(target, world.snapshots["replaced"]).publish("it"))
    assert "it holds commit" in done.problem
    assert_holds(world, kind, tag, "deleted")


@pytest.mark.parametrize(
    ("dsn", "says"),
    [
        ("postgresql://me:hunter2@[h", "no connection string"),
        ("hunter2", "no connection string"),
        ("host=/nowhere password=hunter2", "Postgres: connection"),
        ("", "set TIDEMILL_TEST_OTHER_DSN"),
    ],
)
def test_a_database_out_of_reach_is_one_line_without_the_password(
    world: World, dsn: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_TEST_OTHER_DSN", dsn)
    done = asyncio.run(
        world.publisher(Postgres("TIDEMILL_TEST_OTHER_DSN"), world.newest()).publish("it")
    )
    assert says in done.problem
    assert "hunter2" not in done.problem
    assert "\n" not in done.problem


@pytest.mark.parametrize("lost", ["the log", "files of rows that went"])
def test_what_cannot_be_followed_any_more_is_built_anew(
    world: World, tag: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = world.target("postgres", tag)
    publish(world, target, "first")
    publisher = world.publisher(target, world.snapshots["deleted"])
    if lost == "the log":
        monkeypatch.setattr(Log, "floor", _collected)
    else:
        monkeypatch.setattr(LocalStore, "head_many", _absent)
    done = asyncio.run(publisher.publish("it"))
    assert (done.problem, done.rebuilt) == ("", True)
    assert_holds(world, "postgres", tag, "deleted")


async def _collected(log: Log) -> int:
    return 10**9


async def _absent(store: LocalStore, keys: list[str]) -> list[None]:
    return [None for _ in keys]


@pytest.mark.parametrize("before", ["first", None])
def test_aggregates_of_a_publisher_that_stopped_halfway_hold_up_nothing(
    world: World, tag: str, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Delta Lake they are ahead of the rows then; the next publish may be of a later commit."""
    from deltalake import DeltaTable

    target = world.target("delta", tag)
    if before is not None:
        publish(world, target, before)
    original, calls = DeltaTable.create_write_transaction, []

    def stopping(*arguments: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError("the disk is full")
        original(*arguments, **options)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", stopping)
    done = asyncio.run(world.publisher(target, world.snapshots["more"]).publish("it"))
    assert done.problem == f"Delta table lake/{tag}/sales: the disk is full"
    publish(world, target, "replaced")
    assert_holds(world, "delta", tag, "replaced")
