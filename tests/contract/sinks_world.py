"""For the contract of all sinks: a table with a history, and each kind of target with a reader that knows nothing of Tidemill."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from pipeline import Pipeline, keys
from pipeline.assembly import Runtime, WallClock, loaded_on_use, table_spec
from pipeline.contents import LazyContents
from pipeline.executors.inline import InlineExecutor
from pipeline.publishing import Publisher
from pipeline.settings import Policy
from pipeline.snapshot import Snapshot
from pipeline.stores.local import LocalStore
from pipeline.worker import Worker
from sinks import Catalogue, Delta, DuckDBFile, Postgres
from sinks.aggregates import definition
from sinks.files import files_of
from sinks.parquet import AttemptWriter
from sinks.targets import Target
from sinks.warehouse import Warehouse
from tests.helpers import lines
from tests.postgres_server import postgres_dsn

KINDS = ("delta", "postgres", "duckdb", "catalogue")
DSN = "TIDEMILL_TEST_DSN"
Row = dict[str, Any]


def flow() -> Pipeline:
    p = Pipeline("sales", source="up/", widen="string")

    @p.transform
    def parse(obj: Any) -> Any:
        rows = [json.loads(line) for line in obj.lines()]
        return [{**row, "at": datetime.fromisoformat(row["at"])} if "at" in row else row for row in rows]

    p.aggregate("by_kind", by=["kind"], sql="SELECT kind, count(*) AS n FROM sales GROUP BY kind")
    return p


def runtime(p: Pipeline, folder: Path, **policy: Any) -> Runtime:
    """The pipeline with its code run in this process; tasks of two files, so that a file's rows lie beside another's."""
    store, spec = LocalStore(folder), table_spec(p)
    worker = Worker(
        store=store,
        contents=LazyContents(store),
        home=keys.home(p.name),
        code=loaded_on_use(p),
        make_writer=lambda a: AttemptWriter(spec, schema=a.schema, task=a.task.id, nonce=a.nonce, scratch=folder),
        clock=WallClock(),
        budget_s=30.0,
    )
    return Runtime(p, p.settings(), store, Policy(task_files_max=2, **policy), InlineExecutor(worker))


STAGES: dict[str, dict[str, list[Row] | None]] = {
    "first": {n: [{"kind": "x", "n": i, "v": 1}, {"kind": "y", "n": i, "v": 2}] for i, n in enumerate("abcd")},
    "more": {"e": [{"kind": "z", "n": 9, "v": 3}]},
    "replaced": {"a": [{"kind": "new", "n": 0, "v": 7}]},
    "deleted": {"b": None, "c": None},
    "columns": {
        "f": [
            {"kind": 'a "quoted"\n\\.\nline, \\N, %s, ?\0', "n": 1, "v": 1, "at": "2026-05-01T10:00:00", "deep": {"x": [1, 2]}},
            {"kind": "", "n": 2, "v": 1, "ok": True, "deep": {"x": None}},
            {"kind": None, "n": 3, "v": 1, "deep": None},
        ]
    },
    "wider": {"g": [{"kind": "x", "n": 1, "v": 2.5}]},
    "text": {"h": [{"kind": "x", "n": 1, "v": "many"}], "d": [{"kind": "w", "n": 1, "v": 4}]},
}
"""What is uploaded, or deleted, before each pass."""


class World:
    """One bucket with every stage committed: a sink can be brought from any of them to any later one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bucket = folder / "bucket"
        (self.bucket / "up").mkdir(parents=True)
        self.runtime = runtime(flow(), self.bucket)
        self.snapshots: dict[str, Snapshot] = {}
        for stage, files in STAGES.items():
            for name, rows in files.items():
                path = self.bucket / "up" / f"{name}.jsonl"
                path.unlink() if rows is None else path.write_text(lines(*rows))
            _, state = asyncio.run(self.runtime.run())
            self.snapshots[stage] = state.snapshot()  # of a state of its own: none is carried over

    def newest(self) -> Snapshot:
        return self.snapshots["text"]

    def target(self, kind: str, tag: str) -> Target:
        """A target that nobody else has."""
        if kind == "postgres":
            os.environ[DSN] = os.environ.get(DSN) or postgres_dsn()
        made: dict[str, Callable[[], Target]] = {
            "delta": lambda: Delta(f"lake/{tag}/"),
            "postgres": lambda: Postgres(DSN, schema=f"s_{tag}"),
            "duckdb": lambda: DuckDBFile(self.folder / f"{tag}.duckdb"),
            "catalogue": lambda: Catalogue(f"{tag}.duckdb"),
        }
        return made[kind]()

    def publisher(self, target: Target, snapshot: Snapshot) -> Publisher:
        """A publisher for which this snapshot is the newest."""
        pipeline = flow()
        pipeline.sinks = {"it": target}
        found = Publisher(runtime(pipeline, self.bucket))

        async def newest() -> Snapshot:
            return snapshot

        found._newest = newest  # type: ignore[method-assign]
        return found

    def expected(self, snapshot: Snapshot, table: str = "sales") -> list[str]:
        """What `tidemill sql` says."""
        aggregates = self.runtime.settings.aggregates
        with Warehouse(files_of(self.runtime.store)) as warehouse:
            warehouse.add_snapshot(snapshot)
            warehouse.add_aggregates(snapshot, aggregates, {a.name: definition(a) for a in aggregates})
            return plain(warehouse.query(f"SELECT * FROM {table}").to_pylist())

    def held(self, kind: str, tag: str, table: str = "sales") -> list[str]:
        """What the target says, by its own means."""
        return plain(rows_of(kind, self, tag, table))


def rows_of(kind: str, world: World, tag: str, table: str) -> list[Row]:
    if kind == "postgres":
        import psycopg
        from psycopg.rows import dict_row

        with psycopg.connect(os.environ[DSN], row_factory=dict_row) as connection:
            return connection.execute(f'SELECT * FROM "s_{tag}"."{table}"').fetchall()  # type: ignore[arg-type]
    if kind == "delta":
        import pyarrow as pa
        from deltalake import DeltaTable

        found = DeltaTable(world.bucket / "lake" / tag / table).to_pyarrow_dataset().to_table()
        return pa.table(found).to_pylist()  # type: ignore[no-any-return]
    place = world.folder / f"{tag}.duckdb" if kind == "duckdb" else world.bucket / f"{tag}.duckdb"
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{place}' AS other (READ_ONLY)")
        return connection.sql(f"SELECT * FROM other.{table}").to_arrow_table().to_pylist()  # type: ignore[no-any-return]


def plain(rows: list[Row]) -> list[str]:
    """Rows in one order and one notation. A column without a value is left out: targets need not have it yet."""
    return sorted(json.dumps(_plain(row), sort_keys=True, ensure_ascii=True) for row in rows)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.tzinfo else value).isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else str(value.normalize())
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")  # Postgres has no NUL
    return value.isoformat() if isinstance(value, date) else value
