"""A table of arbitrary values in a bucket, asked by every path there is after every pass: each must
say what the model says.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import Pipeline
from pipeline.executors.local.process_owner import this_process
from pipeline.executors.none import NoExecutor
from pipeline.passes.audit import Audit
from pipeline.passes.compaction import Compactor, Wanted
from pipeline.passes.runner import Pass
from pipeline.runtime.publish import Publisher
from pipeline.state.state import State
from pipeline.tables.table import Table as Opened
from pipeline.tables.views import live_rows_by_source, open_warehouse, state_at
from pipeline.testing import inline_runtime
from sinks import Delta, DuckDBFile
from sinks.query.object_files import files_of
from sinks.query.table_diff import Differ
from sinks.targets import Target
from tests.values.model import OWN, Kind, Row, Table, same
from tests.values.writing import pylist

Rows = dict[str, list[Row]]
Say = Callable[[str, str], None]


class World:
    """One bucket, its pipeline, a stage that reads its table, and the model beside them."""

    def __init__(
        self, folder: Path, files: list[list[Row]], widen: Any = None, **options: Any
    ) -> None:
        self.folder, self.bucket = folder, folder / "bucket"
        self.files = {f"{i:03}": rows for i, rows in enumerate(files)}
        (self.bucket / "up").mkdir(parents=True)
        self.pipeline = Pipeline("t", source="up/", widen=widen, **options)
        self.pipeline.transform(self.rows_of)
        self.pipeline.aggregate(
            "by_file", by=["k"], sql="SELECT _source_key AS k, count(*) AS n FROM t GROUP BY ALL"
        )
        self.pipeline.aggregate(
            "lists",
            by=["k"],
            sql="SELECT _source_key AS k, list(t) AS rows FROM t GROUP BY _source_key",
        )
        self.stage = Pipeline("again", source=self.pipeline, widen=widen)
        self.stage.transform(table_of)
        self.runtime = inline_runtime(self.pipeline, self.bucket, task_files_max=2)
        self.model = Table(self.pipeline.widen)
        self.earlier: list[tuple[int, Rows]] = []

    def rows_of(self, obj: Any) -> Any:
        return self.files[obj.name]

    def upload(self, numbers: list[int]) -> None:
        """These files, and one pass over them."""
        for i in numbers:
            name = f"{i:03}"
            (self.bucket / "up" / name).write_text(name)
            self.model.offer(f"up/{name}", self.files[name])
        _, state = asyncio.run(self.runtime.run())
        assert set(state.quarantine) == {
            f"up/{name}" for name in self.files if self._is_refused(name)
        }
        self.earlier.append((state.sequence, self.expected()))

    def _is_refused(self, name: str) -> bool:
        return (self.bucket / "up" / name).exists() and f"up/{name}" not in self.model.rows

    def expected(self) -> Rows:
        """Rows by source."""
        found: Rows = {}
        for key, row in self.model.shown():
            found.setdefault(key, []).append(row)
        return found

    def state(self) -> State:
        return asyncio.run(state_at(self.runtime))[1]

    def compact(self) -> None:
        """All files of the table into one."""
        runtime = inline_runtime(self.pipeline, self.bucket)
        runtime.executor = NoExecutor(this_process())
        asyncio.run(
            Compactor(
                Pass(runtime.context()), Wanted(target_bytes=2**27, few=True, purge=True)
            ).run()
        )


class ArrowWorld(World):
    """Files that are Arrow tables, of which there is no model: what SQL says at once is what is
    expected of all other paths.
    """

    def upload(self, numbers: list[int]) -> None:
        for i in numbers:
            (self.bucket / "up" / f"{i:03}").write_text(f"{i}")
        _, state = asyncio.run(self.runtime.run())
        assert not state.quarantine, [one.reason for one in state.quarantine.values()]
        self.model.rows = by_source(_asked(self, "SELECT * FROM t"))
        self.model.columns = {"?": Kind()}
        self.earlier = [(state.sequence, self.expected())]

    def expected(self) -> Rows:
        return self.model.rows


def table_of(obj: Any) -> Any:
    """The stage's code: the rows as they are."""
    return obj.table().drop_columns([name for name in obj.table().column_names if name in OWN])


def by_source(table: pa.Table) -> Rows:
    """Rows as the model has them."""
    found: Rows = {}
    for row in pylist(table):
        found.setdefault(str(row["_source_key"]), []).append(
            {name: value for name, value in row.items() if name not in OWN}
        )
    return found


def compare(path: str, expected: Rows, found: Rows) -> None:
    """Every row, whatever their order."""
    assert {k: len(rows) for k, rows in expected.items()} == {
        k: len(rows) for k, rows in found.items()
    }, path
    for key, rows in expected.items():
        for wanted, one in zip(rows, found[key], strict=True):
            assert list(wanted) == list(one), (path, list(wanted), list(one))
            for name in wanted:
                assert same(wanted[name], one[name]), (path, key, name, wanted[name], one[name])


def ask_all(world: World) -> None:
    """Every path at the newest commit, and at the earlier ones; then all again, once the table is
    compacted.
    """
    for path, check in PATHS.items():
        try:
            check(world)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{path}: {type(error).__name__}: {error}") from error


def _sql(world: World) -> None:
    compare("sql", world.expected(), by_source(_asked(world, "SELECT * FROM t")))


def _asked(world: World, statement: str, at: int | datetime | None = None) -> pa.Table:
    with asyncio.run(open_warehouse([world.runtime], statement, at=at)) as warehouse:
        assert not warehouse.broken, warehouse.broken
        warehouse.lock()
        return warehouse.query(statement)


def _at(world: World) -> None:
    for sequence, expected in world.earlier:
        if expected:
            compare(
                f"at {sequence}", expected, by_source(_asked(world, "SELECT * FROM t", at=sequence))
            )


def _look_up(world: World) -> None:
    for key, rows in list(world.expected().items())[:2]:
        compare(
            "look-up",
            {key: rows},
            by_source(_asked(world, f"SELECT * FROM t WHERE _source_key = '{key}'")),
        )


def _library(world: World) -> None:
    state = world.state()
    if not world.model.rows:
        return
    with Opened(world.runtime, state) as table:
        compare("arrow", world.expected(), by_source(table.arrow()))
        assert table.polars().height == len(table.pandas()) == table.arrow().num_rows
        assert len(table.relation.fetchall()) == table.arrow().num_rows
        assert sum(table.aggregate("by_file").column("n").to_pylist()) == table.arrow().num_rows


def _aggregates(world: World) -> None:
    expected = {key: len(rows) for key, rows in world.expected().items() if rows}
    if world.model.rows and any(world.model.columns):
        found = _asked(world, "SELECT k, n FROM by_file")
        assert (
            dict(zip(found.column("k").to_pylist(), found.column("n").to_pylist(), strict=True))
            == expected
        )
        lists = pylist(_asked(world, "SELECT k, rows FROM lists"))
        assert {row["k"]: len(row["rows"]) for row in lists} == expected


def _audit(world: World) -> None:
    log = world.runtime.log()
    rows = Audit(
        world.runtime.store,
        world.runtime.settings,
        log,
        lambda state: live_rows_by_source(world.runtime, state),
    )
    report = asyncio.run(rows.run())
    assert report.clean, report.problems


def _diff(world: World) -> None:
    kept = [sequence for sequence, expected in world.earlier if expected]
    if kept:
        before = asyncio.run(state_at(world.runtime, kept[0]))[1].snapshot()
        with Differ(files_of(world.runtime.store), before, world.state().snapshot()) as differ:
            found = differ.compare()
        assert (
            (len(kept) > 1 and world.earlier[0][1] != world.expected())
            or found.is_same
            or len(kept) > 1
        )


def _stage(world: World) -> None:
    """A pipeline that reads the table has the same rows."""
    runtime = inline_runtime(world.stage, world.bucket)
    _, state = asyncio.run(runtime.run())
    assert not state.quarantine, [one.reason for one in state.quarantine.values()]
    with asyncio.run(open_warehouse([runtime], "SELECT * FROM again")) as warehouse:
        rows = by_source(warehouse.query("SELECT * FROM again"))
    assert {key.removeprefix("t:"): len(of) for key, of in rows.items()} == {
        k: len(v) for k, v in world.expected().items() if v
    }


def _sinks(world: World) -> None:
    if not world.model.rows:
        return
    for name, target in _targets(world):
        world.pipeline.sinks = {"it": target}
        published = asyncio.run(
            Publisher(inline_runtime(world.pipeline, world.bucket)).publish("it")
        )
        assert not published.problem, (name, published.problem)
    world.pipeline.sinks = {}


def _targets(world: World) -> Iterator[tuple[str, Target]]:
    yield "duckdb", DuckDBFile(world.folder / "copy.duckdb")
    yield "delta", Delta("lake/")


PATHS: dict[str, Callable[[World], None]] = {
    "sql": _sql,
    "at": _at,
    "look-up": _look_up,
    "library": _library,
    "aggregates": _aggregates,
    "audit": _audit,
    "diff": _diff,
    "stage": _stage,
    "sinks": _sinks,
}


def lived(
    folder: Path, files: list[Any], groups: list[list[int]], widen: Any, make: type[World] = World
) -> None:
    """A table's life: passes over groups of files, each followed by questions; a compaction, and
    the questions again.
    """
    shutil.rmtree(folder, ignore_errors=True)
    world = make(folder, files, widen)
    for group in groups:
        world.upload(group)
        ask_all(world)
    world.compact()
    ask_all(world)
