"""A pipeline that knows millions of objects, made at once: its state is written as commits would
have left it, its source is listed without being stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipeline.commit_log.format_marker import Marker, open_home
from pipeline.executors.none import NoExecutor
from pipeline.model import keys
from pipeline.model.commit import FORMAT_VERSION
from pipeline.model.listing import Head, Page, Stored
from pipeline.model.policy import Policy
from pipeline.model.receipt import OutputFile
from pipeline.model.settings import PipelineSettings, TransformSettings
from pipeline.model.snapshot import Changes, Output
from pipeline.model.task import Assignment
from pipeline.passes.context import PassContext
from pipeline.ports import Store
from pipeline.runtime.system import RandomIds, WallClock
from pipeline.state import codec, ledger, outputs
from pipeline.state.checkpoint import Checkpoint, Totals
from pipeline.state.key_growth import Growth, Survey
from pipeline.state.sorted_runs import Run, described, encode

SOURCE = "in/"
PAGE_KEYS = 10_000
LIST_KEYS = 1000
"""Keys that one request lists, on S3."""
TASK_FILES = 2000
START_US = 1_700_000_000_000_000


def settings(listing: Any = "auto") -> PipelineSettings:
    """The pipeline."""
    return PipelineSettings(
        name="p",
        source=SOURCE,
        include=("**",),
        exclude=(),
        output="out/",
        partition_by=(),
        widen="none",
        transforms=(TransformSettings(name="t", version="v", match=("**",)),),
        aggregates=(),
        listing=listing,
    )


def name(i: int) -> str:
    return f"{SOURCE}2026/{i:010d}.json"


def etag(i: int) -> str:
    return f"{0x9E3779B97F4A7C15F39CC0605CEDC835 * (i + 1) & (2**128 - 1):032x}"


def modified_us(i: int) -> int:
    """One upload every second."""
    return START_US + 1_000_000 * i


class Virtual:
    """A store whose source holds `n` objects that nobody stored; all else is `inner`'s.

    Counts requests as S3 would be asked.
    """

    def __init__(self, inner: Store, n: int, *, changed: Sequence[int] = ()) -> None:
        self.inner = inner
        self.url, self.traits = inner.url, inner.traits
        self.n = n
        self.changed = frozenset(changed)
        self.requests: Counter[str] = Counter()

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.inner, attribute)

    def _etag(self, i: int) -> str:
        return "changed" if i in self.changed else etag(i)

    async def list(
        self, prefix: str, *, start_after: str = "", **options: Any
    ) -> AsyncIterator[Page]:
        if not prefix.startswith(SOURCE):
            self.requests["list"] += 1
            async for page in self.inner.list(prefix, start_after=start_after, **options):
                yield page
            return
        first = (
            0
            if start_after < name(0)
            else int(start_after[len(name(0)) - 15 : len(name(0)) - 5]) + 1
        )
        for start in range(first, self.n, PAGE_KEYS):
            numbers = range(start, min(start + PAGE_KEYS, self.n))
            self.requests["list"] += -(-len(numbers) // LIST_KEYS)
            yield Page(
                keys=[name(i) for i in numbers],
                etags=[self._etag(i) for i in numbers],
                sizes=[1000] * len(numbers),
                modified_us=[modified_us(i) for i in numbers],
            )
        if first >= self.n:
            self.requests["list"] += 1

    async def head_many(self, names: Sequence[str]) -> Sequence[Head | None]:
        self.requests["head"] += len(names)
        found: list[Head | None] = []
        for key in names:
            i = int(key[-15:-5])
            there = Head(key=key, etag=self._etag(i), size_bytes=1000, modified_us=modified_us(i))
            found.append(there if i < self.n else None)
        return found

    async def get(self, key: str, **options: Any) -> Stored:
        self.requests["get"] += 1
        return await self.inner.get(key, **options)

    async def get_many(self, names: Sequence[str]) -> Sequence[Stored | None]:
        self.requests["get"] += len(names)
        return await self.inner.get_many(names)

    async def put(self, key: str, body: bytes, **options: Any) -> None:
        self.requests["put"] += 1
        await self.inner.put(key, body, **options)


async def write_known(store: Store, n: int, policy: Policy | None = None) -> None:
    """The state after `n` objects were committed, 2,000 a task: as much in each level as it may
    hold, the rest in the deepest.
    """
    policy, ids = policy or Policy(), RandomIds()
    home = keys.home("p")
    await open_home(
        store, Marker(format=FORMAT_VERSION, pipeline="p", source=SOURCE, output="out/"), ids
    )
    runs = [await _stored(store, home, table, level) for level, table in _ledger(n, policy)]
    output_runs = [
        await _stored(store, home, table, 3) for table in _outputs(n, policy.run_rows_max)
    ]
    state = Checkpoint(
        format=FORMAT_VERSION,
        pipeline="p",
        sequence=1,
        id="first",
        schema=None,
        tasks={},
        outputs={},
        removed={},
        quarantine={},
        aggregates={},
        changes=Changes(everything=True),
        runs=runs,
        output_runs=output_runs,
        totals=Totals(sources=n, rows=n, files=n // TASK_FILES, size_bytes=n),
        growth=_growth(n),
    )
    key = keys.checkpoint(home, 1, "made")
    await store.put(key, codec.encode(state))
    await store.put(keys.hint(home), key.encode())


async def _stored(store: Store, home: str, table: pa.Table, level: int) -> Run:
    body = encode(table)
    run = described(table, body, keys.ledger_run(home, 1, RandomIds().nonce()), level)
    await store.put(run.key, body)
    return run


def _ledger(n: int, policy: Policy) -> Iterator[tuple[int, pa.Table]]:
    """Every `fanout`-th run of keys once more in the level above: as changes leave it."""
    for count, start in enumerate(range(0, n, policy.run_rows_max)):
        numbers = range(start, min(start + policy.run_rows_max, n))
        yield 3, _rows(numbers)
        if count % policy.run_fanout == 0:
            yield 2, _rows(numbers[:: policy.run_fanout])


def _rows(numbers: Sequence[int]) -> pa.Table:
    n = len(numbers)
    columns = [
        pa.array([name(i) for i in numbers]),
        pa.array([etag(i) for i in numbers]),
        pa.array([1000] * n, pa.int64()),
        pa.array([modified_us(i) for i in numbers], pa.int64()),
        pa.array([1] * n, pa.int64()),
        pa.array([0] * n, pa.int64()),
        pa.array(["t"] * n),
        pa.array(["v"] * n),
        pa.array([0] * n, pa.int32()),
        pa.array([_output(i) for i in numbers]),
        pa.array([1] * n, pa.int64()),
    ]
    return pa.Table.from_arrays(columns, schema=ledger.schema())


def _output(i: int) -> str:
    return keys.output_id(keys.task_id(1, i // TASK_FILES % 1_000_000), "n")


def _outputs(n: int, rows: int) -> Iterator[pa.Table]:
    names = sorted({_output(i) for i in range(0, n, TASK_FILES)})
    for some in (names[start : start + rows] for start in range(0, len(names), rows)):
        yield outputs.table_of(
            {name: Output(files=[_file(name)], live=TASK_FILES) for name in some}
        )


def _file(output: str) -> OutputFile:
    return OutputFile(
        table="rows",
        key=f"out/rows/{output}.0.parquet",
        size_bytes=1,
        rows=TASK_FILES,
        partition={},
        schema_id="",
        sha256="",
    )


def _growth(n: int) -> Growth:
    """What a whole listing would have shown: its end is enough."""
    survey = Survey(SOURCE)
    numbers = range(max(0, n - 2 * PAGE_KEYS), n)
    survey.note(
        Page(
            keys=[name(i) for i in numbers],
            etags=[],
            sizes=[],
            modified_us=[modified_us(i) for i in numbers],
        )
    )
    found = survey.growth()
    return Growth(listed=n, whole=found.whole, folders=found.folders)


class HandsOver(NoExecutor):
    """Takes every task, and never answers: what a pass itself costs."""

    owner = "modal:bench"
    detached = True

    async def dispatch(self, assignments: Sequence[Assignment]) -> None:
        return None


def parts(store: Store, listing: Any = "growing", policy: Policy | None = None) -> PassContext:
    """A pass over a store that hands its tasks over to nobody."""
    return PassContext(
        settings=settings(listing),
        policy=policy or Policy(),
        store=store,
        executor=HandsOver(),
        clock=WallClock(),
        ids=RandomIds(),
        writer="bench",
        unify=lambda before, new: new,
    )
