"""python -m tests.simulation.longevity [--commits N] [--days D]: a pipeline runs for a year; what
lies under its home then?

One pass for each tick of the simulated clock, over an in-memory store and without faults. Sources
are uploaded, overwritten and deleted in one tick of twenty; in the others a name that can be no key
comes or goes, which costs a commit and no Parquet: so a year takes minutes. Every pass that commits
ends as it does in the product, with a checkpoint or a vacuum. Watched are the number of objects
under the home prefix and the requests that a fresh process needs to load the state: both must stay
below bounds that do not depend on how long the pipeline has run.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import time
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import msgspec

from pipeline.commit_log.log import Log
from pipeline.discover.request import Request as Wish
from pipeline.model import keys
from pipeline.model.commit import Quarantined
from pipeline.model.listing import Head, Page, Stored
from pipeline.model.policy import Policy
from pipeline.model.settings import DAY_S, PipelineSettings
from pipeline.passes.context import PassContext
from pipeline.passes.runner import Pass
from pipeline.passes.upkeep import keep_tidy
from pipeline.plan.evidence import Evidence
from pipeline.state.state import State
from pipeline.testing.inline_executor import InlineExecutor
from pipeline.testing.memory_store import MemoryStore
from pipeline.work.contents import LazyContents
from pipeline.work.worker import Code, Worker

from . import scene
from .doubles import Ids, SimWriter, user_code

HEAVY_EVERY = 20
NO_KEY = "src/\\xff"
LOAD_REQUESTS_MAX = 16
"""Of a fresh process: a listing, the hint, a checkpoint and its runs, and the log entries since."""


class Clock:
    """The pipeline's and the store's: it moves from tick to tick."""

    def __init__(self) -> None:
        self.s = 1_000_000_000.0

    def now_ms(self) -> int:
        return int(1000 * self.s)

    def monotonic_s(self) -> float:
        return self.s

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing fails here, so nothing waits")


class Bucket(MemoryStore):
    """A store with the simulated time, that counts requests, and lists without looking at every
    key.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.requests: Counter[str] = Counter()
        self._names: list[str] = []

    async def list(
        self, prefix: str, *, start_after: str = "", split_at: Sequence[str] = ()
    ) -> AsyncIterator[Page]:
        at = bisect_left(self._names, max(prefix, start_after))
        while True:
            page = [
                name
                for name in self._names[at : at + 1000]
                if name.startswith(prefix) and name > start_after
            ]
            self.requests["list"] += 1
            found = [self._objects[name] for name in page]
            yield Page(
                keys=page,
                etags=[o.etag for o in found],
                sizes=[o.size_bytes for o in found],
                modified_us=[o.modified_us for o in found],
            )
            if len(page) < 1000:
                return
            at = bisect_right(self._names, page[-1])

    async def put(self, key: str, body: bytes, **options: Any) -> None:
        if key not in self._objects:
            insort(self._names, key)
        await super().put(key, body, **options)
        self._objects[key] = msgspec.structs.replace(
            self._objects[key], modified_us=int(1_000_000 * self.clock.s)
        )

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            if key in self._objects:
                del self._names[bisect_left(self._names, key)]
        await super().delete(keys)

    async def get(self, key: str, **options: Any) -> Stored:
        self.requests["get"] += 1
        return await super().get(key, **options)

    async def get_many(self, keys: Sequence[str]) -> Sequence[Stored | None]:
        self.requests["get"] += len(keys)
        return await super().get_many(keys)

    async def head(self, key: str) -> Head:
        self.requests["head"] += 1
        return await super().head(key)


class Year:
    """One pipeline, tick after tick."""

    def __init__(self, policy: Policy, *, retention_s: float) -> None:
        self.clock, self.ids = Clock(), Ids("x")
        self.store = Bucket(self.clock)
        self.policy = policy
        self.settings = dataclasses.replace(
            scene.settings("v1"), aggregates=(), retention_s=retention_s
        )
        self.state: State | None = None
        self.most: Counter[str] = Counter()
        self.load_requests = 0

    def context(self) -> PassContext:
        worker = Worker(
            store=self.store,
            contents=LazyContents(self.store),
            home=keys.home("p"),
            code={"t": Code(call=user_code("v1"), batch_size=None)}.get,
            make_writer=SimWriter,
            clock=self.clock,
            budget_s=60,
        )
        return PassContext(
            settings=self.settings,
            policy=self.policy,
            store=self.store,
            executor=InlineExecutor(worker),
            clock=self.clock,
            ids=self.ids,
            writer="longevity",
            unify=lambda before, new: new,
        )

    async def tick(self, number: int, sources: int) -> None:
        """One upload (now and then a deletion), and the pass that it brings about."""
        if number % HEAVY_EVERY:
            await self._light(number)
            return
        number //= HEAVY_EVERY
        key = f"src/{number % sources:04d}"
        if number % 10 == 9:
            await self.store.delete([key])
        else:
            await self.store.put(key, f"v{number}".encode())
        running = Pass(self.context(), self.state)
        await running.run(Wish(names=[key]))
        await keep_tidy(running)
        self.state = running.state

    async def _light(self, number: int) -> None:
        running = Pass(self.context(), self.state)
        await running.open()
        entry = Quarantined(key=NO_KEY, etag=f"e{number}", kind="key", reason="not valid UTF-8")
        evidence = Evidence(base=running.state.sequence, unusable=[entry])
        if number % 2:
            evidence = Evidence(base=running.state.sequence, requeue=[NO_KEY])
        await running.commit(evidence)
        await keep_tidy(running)
        self.state = running.state

    def look(self) -> None:
        """Count what lies under the home prefix."""
        home = keys.home("p")
        found = Counter(
            key.removeprefix(home).split("/")[0]
            for key in self.store._objects
            if key.startswith(home)
        )
        found["all"] = sum(found.values())
        for name, count in found.items():
            self.most[name] = max(self.most[name], count)

    async def load(self) -> None:
        """What a process needs that knows nothing."""
        before = self.store.requests.total()
        await Log(self.store, "p", clock=self.clock, policy=self.policy).load()
        self.load_requests = max(self.load_requests, self.store.requests.total() - before)


async def live(
    year: Year, *, commits: int, days: float, sources: int = 200, looks: int = 200
) -> None:
    """Ticks evenly over so many days until there are so many commits."""
    number = 0
    while year.state is None or year.state.sequence < commits:
        year.clock.s += days * DAY_S / commits
        await year.tick(number, sources)
        number += 1
        if number % max(1, commits // (2 * looks)) == 0:
            year.look()
            await year.load()


def bound(policy: Policy, settings: PipelineSettings, *, commits_a_day: float) -> int:
    """The most objects under the home prefix that there may be: log entries within retention or the
    bound on their number, what gathers between two vacuums, and a constant.
    """
    kept = min(policy.log_entries_max, int(commits_a_day * settings.retention_s / DAY_S))
    return kept + 3 * policy.vacuum_every + 50


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=1_000_000)
    parser.add_argument("--days", type=float, default=365.0)
    args = parser.parse_args()
    year, started = Year(Policy(), retention_s=7 * DAY_S), time.perf_counter()
    run(live(year, commits=args.commits, days=args.days))
    most = bound(year.policy, year.settings, commits_a_day=args.commits / args.days)
    counts = ", ".join(
        f"{count:,} {name}" for name, count in year.most.most_common() if name != "all"
    )
    print(
        f"{args.commits:,} commits in {args.days:g} days: at most {year.most['all']:,} objects"
        f" under the home prefix (bound {most:,}; {counts}), at most {year.load_requests} requests"
        f" to load, {time.perf_counter() - started:.0f} s"
    )
    return (
        0
        if year.most["all"] <= most
        and year.load_requests <= LOAD_REQUESTS_MAX + year.policy.checkpoint_every
        else 1
    )


if __name__ == "__main__":
    raise SystemExit(main())
