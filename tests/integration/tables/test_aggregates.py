"""Aggregates kept up to date group by group equal the same SQL over everything, whatever happens to
the sources.
"""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.passes.aggregation import aggregate
from pipeline.passes.compaction import Compactor, Wanted
from pipeline.passes.runner import Pass
from pipeline.runtime.aggregator import WarehouseAggregator
from pipeline.runtime.runtime import Runtime
from pipeline.testing import inline_runtime
from sinks.aggregates.compute import AggregateRun
from sinks.query.object_files import files_of
from tests.support.helpers import Project, lines

SUMS = (
    "SELECT kind, count(*) AS n, count(v) AS nv, sum(v) AS v, avg(v) AS mean FROM logs WHERE v < 90"
    " GROUP BY kind"
)


def flow(**options: Any) -> Pipeline:
    import json

    p = Pipeline("logs", source="up/", **options)

    @p.transform
    def parse(obj: Any) -> Any:
        return [json.loads(line) for line in obj.lines()]

    p.aggregate(
        "by_kind",
        by=["kind"],
        sql="SELECT kind, count(*) AS n, sum(v) AS v, min(day) AS first FROM logs GROUP BY kind",
    )
    p.aggregate(
        "by_month",
        by={"month": "substr(day, 1, 7)", "kind": "kind"},
        sql="SELECT substr(day, 1, 7) AS month, kind, max(v) AS v FROM logs GROUP BY ALL",
    )
    p.aggregate("sums", by=["kind"], sql=SUMS)
    p.aggregate(
        "above", by=["n"], sql="SELECT n, count(*) AS kinds, sum(v) AS v FROM sums GROUP BY n"
    )
    return p


@pytest.mark.parametrize("seed", range(6))
def test_equal_to_computing_everything(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    p = flow()
    opened = inline_runtime(p, tmp_path, task_files_max=rng.choice([1, 3, 50]))
    (tmp_path / "up").mkdir()

    def upload(name: str) -> None:
        rows = [
            {
                "kind": rng.choice(["a", "b", "c", None]),
                "v": rng.randrange(100),
                "day": f"2026-{rng.randrange(1, 4):02}-01",
            }
            for _ in range(rng.randrange(4))
        ]
        (tmp_path / "up" / name).write_text(lines(*rows))

    async def work() -> None:
        await opened.open()
        state = None
        for step in range(8):
            for _ in range(rng.randrange(1, 5)):
                upload(f"f{rng.randrange(12)}")
            present = sorted((tmp_path / "up").iterdir())
            if step % 2 and present:
                rng.choice(present).unlink()
            _, state = await opened.run(state)
            snapshot = state.snapshot()
            assert not WarehouseAggregator(opened.store, opened.settings).is_behind(state)
            if snapshot.schema is not None:
                check(opened, snapshot)

    asyncio.run(work())


def check(opened: Runtime, snapshot: Any) -> None:
    """The committed files against a computation from scratch, in another order of rows perhaps."""
    import msgspec
    import pyarrow.parquet as pq

    from pipeline.model.snapshot import Changes

    scratch = msgspec.structs.replace(snapshot, aggregates={}, changes=Changes(everything=True))
    fresh = AggregateRun(files_of(opened.store), scratch, opened.settings.aggregates).compute()
    root = Path(opened.store.url.removeprefix("file://"))
    for name, table in fresh.items():
        assert table is not None
        kept = pq.read_table(root / snapshot.aggregates[name].key)
        assert normal(kept) == normal(table), f"{name} at {snapshot.sequence}"


def normal(table: Any) -> list[str]:
    return sorted(repr(sorted(row.items())) for row in table.to_pylist())


def test_only_touched_groups_are_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    p = flow()
    opened = inline_runtime(p, tmp_path)
    (tmp_path / "up").mkdir()
    for kind in "abc":
        (tmp_path / "up" / kind).write_text(lines({"kind": kind, "v": 1, "day": "2026-01-01"}))
    seen: list[Any] = []
    real = AggregateRun._incremental

    def incremental(self: Any, warehouse: Any, *rest: Any) -> Any:
        result = real(self, warehouse, *rest)
        seen.append(warehouse.query("SELECT kind FROM logs ORDER BY 1").column(0).to_pylist())
        return result

    async def work() -> None:
        await opened.open()
        _, state = await opened.run()
        (tmp_path / "up" / "b").write_text(lines({"kind": "b", "v": 5, "day": "2026-01-01"}))
        monkeypatch.setattr(AggregateRun, "_incremental", incremental)
        await opened.run(state)

    asyncio.run(work())
    assert seen == [["b"], ["b"]], "the rows of one group were read for each aggregate"


def test_sums_are_merged_from_what_came_and_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row of a file that stayed is read again: those files are not even there."""
    p = Pipeline("logs", source="up/")
    p.transforms = flow().transforms
    p.aggregate("sums", by=["kind"], sql=SUMS)
    p.aggregate(
        "above", by=["n"], sql="SELECT n, count(*) AS kinds, sum(v) AS v FROM sums GROUP BY n"
    )
    opened = inline_runtime(p, tmp_path, task_files_max=1)
    (tmp_path / "up").mkdir()
    for i in range(3):
        (tmp_path / "up" / f"stays{i}").write_text(
            lines({"kind": "a", "v": i}, {"kind": None, "v": None})
        )
    for kind in "abc":
        (tmp_path / "up" / kind).write_text(lines({"kind": kind, "v": 10}, {"kind": kind, "v": 99}))

    async def work() -> dict[str, Any]:
        await opened.open()
        _, state = await opened.run()
        names = [f"up/stays{i}" for i in range(3)]
        await opened.log().look_up(state, names)
        await opened.log().load_outputs(state)
        stay = [state.entry(name).output for name in names]  # type: ignore[union-attr]
        hidden = {
            tmp_path / file.key: b"" for output in stay for file in state.outputs[output].files
        }
        for path in hidden:
            hidden[path] = path.read_bytes()
        (tmp_path / "up" / "a").write_text(lines({"kind": "a", "v": 7}))
        (tmp_path / "up" / "c").unlink()
        (tmp_path / "up" / "d").write_text(lines({"kind": "d", "v": 1}))
        monkeypatch.setattr(AggregateRun, "_incremental", None)
        for path, body in list(hidden.items())[1:]:  # of the first one the columns are looked at
            path.write_bytes(bytes(len(body)))
        _, state = await opened.run(state)
        for path, body in hidden.items():
            path.write_bytes(body)
        check(opened, state.snapshot())
        from pipeline.tables.views import open_warehouse

        with await open_warehouse([opened], "") as warehouse:
            rows = warehouse.query("SELECT * FROM sums ORDER BY kind NULLS LAST").to_pylist()
        return {row.pop("kind"): row for row in rows}

    found = asyncio.run(work())
    assert found == {
        "a": {"n": 4, "nv": 4, "v": 10, "mean": 2.5},
        "b": {"n": 1, "nv": 1, "v": 10, "mean": 10.0},
        "d": {"n": 1, "nv": 1, "v": 1, "mean": 1.0},
    }, "what was added beside is not shown"


@pytest.mark.parametrize("compactions", [1, 2])
def test_a_row_that_went_around_a_compaction_is_taken_out_once(
    tmp_path: Path, compactions: int
) -> None:
    """It lies in the file that was merged, and in the merged one; before and after it, other rows
    of that file went.
    """
    p = Pipeline("logs", source="up/")
    p.transforms = flow().transforms
    p.aggregate(
        "sums", by=["kind"], sql="SELECT kind, count(*) AS n, sum(v) AS v FROM logs GROUP BY kind"
    )
    opened = inline_runtime(p, tmp_path, aggregates=False, task_files_max=4)
    up = tmp_path / "up"
    up.mkdir()
    for i in range(8):
        (up / f"{i}").write_text(lines({"kind": "a", "v": 10**i}, {"kind": "b", "v": 1}))

    async def settled() -> None:
        await opened.run(await opened.open())

    async def brought() -> dict[str, Any]:
        passing = Pass(opened.context())
        passing.context = replace(
            passing.context, aggregator=WarehouseAggregator(opened.store, opened.settings)
        )
        await passing.open()
        await aggregate(passing)
        from pipeline.tables.views import open_warehouse

        with await open_warehouse([opened], "") as warehouse:
            check(opened, passing.state.snapshot())
            return {
                row["kind"]: row["v"] for row in warehouse.query("SELECT * FROM sums").to_pylist()
            }

    async def work() -> None:
        await settled()
        assert await brought() == {"a": 11_111_111, "b": 8}
        gone = iter(range(8))
        for _ in range(compactions):
            (up / f"{next(gone)}").unlink()
            await settled()
            await Compactor(Pass(opened.context()), Wanted(target_bytes=10**9, purge=True)).run()
        (up / f"{next(gone)}").unlink()
        (up / "7").write_text(lines({"kind": "a", "v": 5}))
        await settled()
        left = sum(10**i for i in range(compactions + 1, 7))
        assert await brought() == {"a": left + 5, "b": 6 - compactions}

    asyncio.run(work())


DIMENSIONS = """
import json
from pipeline import Pipeline, Object

logs = Pipeline("logs", source="up/")

@logs.transform
def parse(obj: Object):
    return [json.loads(line) for line in obj.lines()]

logs.dimension("kinds", "reference/kinds.csv")
logs.aggregate("by_name", by=["name"],
    sql="SELECT name, sum(v) AS v FROM logs JOIN kinds USING (kind) GROUP BY name")
logs.aggregate("best", by=["v"], sql="SELECT max(v) AS v, count(*) AS names FROM by_name")
"""


def test_dimensions_are_joined_and_their_changes_reach_aggregates(tmp_path: Path) -> None:
    project = Project(tmp_path, DIMENSIONS)
    project.upload("a", lines({"kind": "x", "v": 1}, {"kind": "y", "v": 5}))
    failed = project.call("run", code=2).stderr
    assert "dimension kinds: there is nothing at 'reference/kinds.csv' in the bucket" in failed
    reference = project.root / "reference"
    reference.mkdir()
    (reference / "kinds.csv").write_text("kind,name\nx,Ex\ny,Why\n")
    project.run()
    assert project.sql("SELECT * FROM by_name ORDER BY name") == [
        {"name": "Ex", "v": 1},
        {"name": "Why", "v": 5},
    ]
    assert project.sql("SELECT * FROM best") == [{"v": 5, "names": 2}]
    assert project.sql("SELECT count(*) AS n FROM kinds") == [{"n": 2}]
    (reference / "kinds.csv").write_text("kind,name\nx,Same\ny,Same\n")
    assert project.sql("SELECT * FROM best") == [{"v": 6, "names": 1}], "also before a run"
    assert project.run()["aggregates"] == 2
    assert project.sql("SELECT * FROM by_name") == [{"name": "Same", "v": 6}]
    assert project.run()["aggregates"] == 0
    project.call("aggregate", "--check")


def test_a_missing_dimension_stops_its_aggregates_alone(tmp_path: Path) -> None:
    """Rows are committed, a stage and a sink follow, and the run says what is missing."""
    project = Project(tmp_path, DIMENSIONS + STAGE)
    project.upload("a", lines({"kind": "x", "v": 1}))
    done = project.call("run", code=2)
    assert "logs: 1 file committed, 1 row" in done.stdout
    assert "second: 1 file committed, 1 row" in done.stdout
    assert "dimension kinds: there is nothing at 'reference/kinds.csv' in the bucket" in done.stderr
    (project.root / "reference").mkdir()
    (project.root / "reference/kinds.csv").write_text("kind,name\nx,Ex\n")
    project.call("run")
    assert project.call_on(f"{project.file}:logs", "aggregate", "--check").returncode == 0


def test_diff_joins_dimensions_and_shows_what_one_side_cannot_compute(tmp_path: Path) -> None:
    project = Project(tmp_path, DIMENSIONS)
    (project.root / "reference").mkdir(parents=True)
    (project.root / "reference/kinds.csv").write_text("kind,name\nx,Ex\ny,Why\n")
    project.upload("a", lines({"kind": "x", "v": 1}, {"kind": "y", "v": 5}))
    project.run()
    tax = (
        'logs.aggregate("taxes", by=["kind"], sql="SELECT kind, sum(tax) AS tax FROM logs GROUP BY'
        ' kind")\n'
    )
    parse = "[json.loads(line) for line in obj.lines()]"
    project.write(
        DIMENSIONS.replace(
            parse, "[{**row, 'v': 2 * row['v'], 'tax': 1} for row in map(json.loads, obj.lines())]"
        )
        + tax
    )
    project.call("backfill", "--new-generation")
    said = project.call("diff", code=1).stdout
    assert "column tax BIGINT: added" in said
    assert "2 changed" in said
    assert "aggregate by_name: 2 of 2 groups differ" in said
    assert "aggregate best: 2 of 2 groups differ" in said, "it reads the one before"
    assert "aggregate taxes cannot be compared, before: Binder Error: " in said


STAGE = """
second = Pipeline("second", source=logs)

@second.transform
def again(obj: Object):
    return [{"n": row["v"]} for row in obj.rows()]
"""


def test_a_wrong_aggregate_is_found_and_computed_anew(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    project = Project(tmp_path)
    project.upload("a", lines({"kind": "x", "v": 1}, {"kind": "y", "v": 5}))
    project.run()
    assert project.call("aggregate").stdout == "logs: aggregates are up to date\n"
    assert (
        project.call("aggregate", "--check").stdout
        == "logs, by_kind: 2 groups, all as computed from scratch\n"
    )
    [file] = (project.root / "tables/logs/aggregates/by_kind").iterdir()
    table = pq.read_table(file)
    damaged = table.set_column(
        table.column_names.index("total"),
        "total",
        pa.array([1, 6], table.schema.field("total").type),
    )
    pq.write_table(damaged, file)
    assert (
        project.call("aggregate", "--check", code=1).stdout == "logs, by_kind: 2 groups, 1 differ\n"
    )
    assert project.call("aggregate", "--full").stdout == "logs: 1 aggregate computed\n"
    assert (
        project.call("aggregate", "--check").stdout
        == "logs, by_kind: 2 groups, all as computed from scratch\n"
    )


def test_bad_sql_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    p = flow()
    p.aggregate("broken", by=["kind"], sql="SELECT kind, sum(nothing) FROM logs GROUP BY 1")
    opened = inline_runtime(p, tmp_path)
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "a").write_text(lines({"kind": "a", "v": 1, "day": "2026-01-01"}))

    async def work() -> None:
        await opened.open()
        report, _ = await opened.run()
        assert re.match(r"aggregate broken of logs: .*nothing", report.aggregates_failed)
        assert (await opened.log().load()).outputs, "the file is committed all the same"

    asyncio.run(work())
