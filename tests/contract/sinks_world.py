"""For the contract of all sinks: a table with a history, and each kind of target with a reader that
knows nothing of Tidemill.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from pipeline import Pipeline
from pipeline.model.snapshot import Output, Snapshot
from pipeline.runtime.publish import Publisher
from pipeline.runtime.runtime import Runtime
from pipeline.testing import inline_runtime
from sinks import Catalogue, Delta, DuckDBFile, Postgres
from sinks.aggregates.compute import definitions
from sinks.query.object_files import files_of
from sinks.query.warehouse import Warehouse
from sinks.targets import Target
from tests.support.helpers import lines
from tests.support.postgres_server import postgres_dsn

KINDS = ("delta", "postgres", "duckdb", "catalogue")
DSN = "TIDEMILL_TEST_DSN"
Row = dict[str, Any]


def flow() -> Pipeline:
    p = Pipeline("sales", source="up/", widen="string")

    @p.transform
    def parse(obj: Any) -> Any:
        rows = [json.loads(line) for line in obj.lines()]
        return [
            {**row, "at": datetime.fromisoformat(row["at"])} if "at" in row else row for row in rows
        ]

    p.aggregate("by_kind", by=["kind"], sql="SELECT kind, count(*) AS n FROM sales GROUP BY kind")
    return p


def runtime(p: Pipeline, folder: Path, **policy: Any) -> Runtime:
    """Tasks of two files, so that a file's rows lie beside another's."""
    return inline_runtime(p, folder, task_files_max=2, **policy)


STAGES: dict[str, dict[str, list[Row] | None]] = {
    "first": {
        n: [{"kind": "x", "n": i, "v": 1}, {"kind": "y", "n": i, "v": 2}]
        for i, n in enumerate("abcd")
    },
    "more": {"e": [{"kind": "z", "n": 9, "v": 3}]},
    "replaced": {"a": [{"kind": "new", "n": 0, "v": 7}]},
    "deleted": {"b": None, "c": None},
    "columns": {
        "f": [
            {
                "kind": 'a "quoted"\n\\.\nline, \\N, %s, ?\0',
                "n": 1,
                "v": 1,
                "at": "2026-05-01T10:00:00",
                "deep": {"x": [1, 2]},
            },
            {"kind": "", "n": 2, "v": 1, "ok": True, "deep": {"x": None}},
            {"kind": None, "n": 3, "v": 1, "deep": None},
        ]
    },
    "wider": {"g": [{"kind": "x", "n": 1, "v": 2.5}]},
    "text": {"h": [{"kind": "x", "n": 1, "v": "many"}], "d": [{"kind": "w", "n": 1, "v": 4}]},
}
"""What is uploaded, or deleted, before each pass."""


class World:
    """One bucket with every stage committed: a sink can be brought from any of them to any later
    one.
    """

    def __init__(
        self,
        folder: Path,
        make: Callable[[], Pipeline] = flow,
        stages: dict[str, dict[str, list[Row] | None]] = STAGES,
    ) -> None:
        self.folder = folder
        self.bucket = folder / "bucket"
        (self.bucket / "up").mkdir(parents=True)
        self.make = make
        self.runtime = runtime(make(), self.bucket)
        self.snapshots: dict[str, Snapshot] = {}
        self.said: dict[tuple[int, str], list[str]] = {}
        for stage, files in stages.items():
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
        pipeline = self.make()
        pipeline.sinks = {"it": target}
        found = Publisher(runtime(pipeline, self.bucket))

        async def newest() -> Snapshot:
            return snapshot

        found._newest = newest  # type: ignore[method-assign]
        return found

    def expected(self, snapshot: Snapshot, table: str = "sales") -> list[str]:
        """What `tidemill sql` says."""
        if (snapshot.sequence, table) not in self.said:
            self.said[snapshot.sequence, table] = self._asked(snapshot, table)
        return self.said[snapshot.sequence, table]

    def _asked(self, snapshot: Snapshot, table: str) -> list[str]:
        aggregates = self.runtime.settings.aggregates
        with Warehouse(files_of(self.runtime.store)) as warehouse:
            warehouse.add_snapshot(snapshot)
            warehouse.add_aggregates(snapshot, aggregates, definitions(aggregates, {}))
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
    """Rows in one order and one notation.

    A column without a value is left out: targets need not have it yet.
    """
    return sorted(json.dumps(_plain(row), sort_keys=True, ensure_ascii=True) for row in rows)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list) and value and all(isinstance(item, tuple) for item in value):
        return _plain(dict(value))  # a map
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
    return value.isoformat() if isinstance(value, date | time) else value


def execute(kind: str, world: World, tag: str, *statements: str) -> list[Any]:
    """What the last statement says, asked as somebody else would."""
    if kind == "postgres":
        import psycopg

        with psycopg.connect(os.environ[DSN], autocommit=True) as connection:
            cursor = [connection.execute(s) for s in statements][-1]  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []
    with duckdb.connect(world.folder / f"{tag}.duckdb") as connection:
        return [connection.execute(s).fetchall() for s in statements][-1]


def spoil(kind: str, world: World, tag: str) -> None:
    """Lose rows behind the sink's back."""
    if kind == "delta":
        from deltalake import DeltaTable

        DeltaTable(world.bucket / "lake" / tag / "sales").delete("n = 1")
    elif kind == "catalogue":
        with duckdb.connect(world.bucket / f"{tag}.duckdb") as connection:
            connection.execute("CREATE OR REPLACE VIEW sales AS SELECT 1 AS n")
    else:
        execute(
            kind,
            world,
            tag,
            f"DELETE FROM {f's_{tag}.sales' if kind == 'postgres' else 'sales'} WHERE n = 1",
        )


def compacted(world: World, before: Snapshot) -> Snapshot:
    """The same rows in one file, as the commit after `before`."""
    import hashlib

    import pyarrow.parquet as pq

    with Warehouse(files_of(world.runtime.store)) as warehouse:
        warehouse.add_snapshot(before)
        rows = warehouse.query("SELECT * FROM sales")
    key = f"{world.runtime.settings.output}rows/merged.m1.0.parquet"
    path = world.bucket / key
    pq.write_table(rows, path)
    like = next(iter(before.outputs.values())).files[0]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    file = msgspec.structs.replace(
        like,
        key=key,
        size_bytes=path.stat().st_size,
        rows=len(rows),
        schema_id=digest,
        sha256=digest,
    )
    one = Output(files=[file], live=sum(o.live for o in before.outputs.values()), dead=[])
    return msgspec.structs.replace(before, sequence=before.sequence + 1, outputs={"merged.m1": one})


def typed_world(folder: Path) -> tuple[World, list[Snapshot]]:
    """A file with one plain column, then one with a column of each type."""
    import pyarrow as pa

    plain_types: dict[str, tuple[pa.DataType, Any]] = {
        **{
            str(kind): (kind, 2**kind.bit_width - 1)
            for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
        },
        **{
            str(kind): (kind, -(2 ** (kind.bit_width - 1)))
            for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())
        },
        "flag": (pa.bool_(), True),
        "f4": (pa.float32(), 0.5),
        "f8": (pa.float64(), -1e300),
        "nan": (pa.float64(), float("inf")),
        "d": (pa.decimal128(38, 10), Decimal("-1234567890.0123456789")),
        "text": (pa.string(), "\u00e9\t,\"'\\ \U0001f30a"),
        "bytes": (pa.binary(), b"\x00\xff\\n"),
        "day": (pa.date32(), date(1969, 12, 31)),
        "clock": (pa.time64("ns"), 36_000_123_456_000),
        "clock_s": (pa.time32("ms"), 3_723_000),
        **{
            f"at_{u}": (pa.timestamp(u), datetime.fromisoformat("1960-01-02T03:04:05"))
            for u in ("s", "ms", "us", "ns")
        },
        **{
            f"tz_{u}": (pa.timestamp(u, "Europe/Berlin"), datetime(2026, 7, 1, tzinfo=UTC))
            for u in ("s", "us", "ns")
        },
    }
    nested = {
        "list": (pa.list_(pa.uint16()), [1, None, 65535]),
        "map": (pa.map_(pa.string(), pa.float64()), [("a b", 1.5)]),
        "struct": (
            pa.struct([("x y", pa.uint64()), ("l", pa.list_(pa.struct([("z", pa.string())])))]),
            {"x y": 2**64 - 1, "l": [{"z": "\\u0000 \0"}]},
        ),
        "floats": (
            pa.list_(pa.struct([("f", pa.float64()), ("m", pa.map_(pa.string(), pa.float32()))])),
            [{"f": 0.5, "m": [("k", 1.5)]}, None, {"f": None, "m": None}],
        ),
        "nothing": (pa.null(), None),
    }
    columns = {**plain_types, **nested}

    def make() -> Pipeline:
        p = Pipeline("sales", source="up/")

        @p.transform
        def parse(obj: Any) -> Any:
            if "plain" in obj.key:
                return pa.table({"n": pa.array([1])})
            return pa.table(
                {name: pa.array([value, None], kind) for name, (kind, value) in columns.items()}
            )

        return p

    world = World(folder, make, {"plain": {"plain": [{}]}, "all": {"all": [{}]}})
    return world, list(world.snapshots.values())
