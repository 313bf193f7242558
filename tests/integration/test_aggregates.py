"""Aggregates kept up to date group by group equal the same SQL over everything, whatever happens to the sources."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.aggregation import WarehouseAggregator
from pipeline.assembly import Runtime, loaded_on_use
from pipeline.contents import LazyContents
from pipeline.executors.inline import InlineExecutor
from pipeline.settings import Policy
from pipeline.stores.local import LocalStore
from pipeline.worker import Worker
from sinks.aggregates import AggregateRun
from sinks.files import files_of
from sinks.parquet import AttemptWriter
from tests.helpers import lines


def flow(**options: Any) -> Pipeline:
    import json

    p = Pipeline("logs", source="up/", **options)

    @p.transform
    def parse(obj: Any) -> Any:
        return [json.loads(line) for line in obj.lines()]

    p.aggregate("by_kind", by=["kind"], sql="SELECT kind, count(*) AS n, sum(v) AS v, min(day) AS first FROM logs GROUP BY kind")
    p.aggregate(
        "by_month",
        by={"month": "substr(day, 1, 7)", "kind": "kind"},
        sql="SELECT substr(day, 1, 7) AS month, kind, max(v) AS v FROM logs GROUP BY ALL",
    )
    return p


def runtime(p: Pipeline, folder: Path, **policy: Any) -> Runtime:
    """The pipeline with its code run in this process."""
    from pipeline import keys
    from pipeline.assembly import WallClock, table_spec

    store = LocalStore(folder)
    spec = table_spec(p)
    worker = Worker(
        store=store,
        contents=LazyContents(store),
        home=keys.home(p.name),
        code=loaded_on_use(p),
        make_writer=lambda a: AttemptWriter(spec, schema=a.schema, task=a.task.id, nonce=a.nonce, scratch=folder),
        clock=WallClock(),
        budget_s=30.0,
    )
    return Runtime(p, p.settings(), store, Policy(**policy), InlineExecutor(worker))


@pytest.mark.parametrize("seed", range(6))
def test_equal_to_computing_everything(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    p = flow()
    opened = runtime(p, tmp_path, task_files_max=rng.choice([1, 3, 50]))
    (tmp_path / "up").mkdir()

    def upload(name: str) -> None:
        rows = [
            {"kind": rng.choice(["a", "b", "c", None]), "v": rng.randrange(100), "day": f"2026-{rng.randrange(1, 4):02}-01"}
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

    from pipeline.snapshot import Changes

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
    opened = runtime(p, tmp_path)
    (tmp_path / "up").mkdir()
    for kind in "abc":
        (tmp_path / "up" / kind).write_text(lines({"kind": kind, "v": 1, "day": "2026-01-01"}))
    seen: list[Any] = []
    real = AggregateRun._incremental

    def incremental(self: Any, warehouse: Any, aggregate: Any, old: Any) -> Any:
        result = real(self, warehouse, aggregate, old)
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


def test_bad_sql_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    from pipeline.errors import SettingsError

    p = flow()
    p.aggregate("broken", by=["kind"], sql="SELECT kind, sum(nothing) FROM logs GROUP BY 1")
    opened = runtime(p, tmp_path)
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "a").write_text(lines({"kind": "a", "v": 1, "day": "2026-01-01"}))

    async def work() -> None:
        await opened.open()
        with pytest.raises(SettingsError, match=r"aggregate broken of logs: .*nothing"):
            await opened.run()
        assert (await opened.log().load()).outputs, "the file is committed all the same"

    asyncio.run(work())
