"""What goes first where not all can go, what is left, and who finds room beside a backfill: whole
passes over a store in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.discover import listing
from pipeline.discover.request import Limits, Request
from pipeline.model.listing import Head, Page
from pipeline.model.pass_report import PassReport
from pipeline.model.policy import Policy
from pipeline.model.settings import CostLimits, Priority, TransformSettings
from pipeline.model.task import Assignment
from pipeline.passes import admission
from pipeline.passes.context import PassContext
from pipeline.passes.runner import Pass
from pipeline.passes.upkeep import keep_tidy
from pipeline.plan.cost import Budget, Prices
from pipeline.ports import Finished
from pipeline.state.state import State
from pipeline.testing.memory_store import MemoryStore
from tests.support.builders import pipeline_settings, receipt_of

NEWEST, OLDEST = Priority(order="newest"), Priority(order="oldest")
ONE_EACH = Policy(task_files_max=1)


class Bucket(MemoryStore):
    """Objects with sizes and times that a test chooses, and something to do once a page of the
    source was listed.
    """

    def __init__(self, page_keys: int = 1000) -> None:
        super().__init__(page_keys=page_keys)
        self.after_page: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.pages = 0
        self.asked: list[str] = []

    async def head_many(self, keys: Sequence[str]) -> Sequence[Head | None]:
        self.asked += keys
        return await super().head_many(keys)

    async def upload(self, name: str, modified_us: int = 0, size: int = 1) -> None:
        key = f"up/{name}"
        await self.put(key, b"")
        self._objects[key] = msgspec.structs.replace(
            self._objects[key], modified_us=modified_us, size_bytes=size
        )

    async def list(
        self, prefix: str, *, start_after: str = "", **options: Any
    ) -> AsyncIterator[Page]:
        async for page in super().list(prefix, start_after=start_after, **options):
            yield page
            self.pages += prefix.startswith("up/")
            if prefix.startswith("up/") and self.after_page is not None:
                doing, self.after_page = self.after_page, None
                await doing()


@dataclass
class Workers:
    """Notes what is handed over.

    At hand: gives a receipt for one attempt after the other; otherwise for none.
    """

    at_hand: bool = False
    owner: str = "modal:app"
    detached: bool = True
    parallelism: int = 1
    handed: list[Assignment] = field(default_factory=list)
    waiting: list[Assignment] = field(default_factory=list)

    @property
    def outstanding(self) -> int:
        return len(self.waiting)

    @property
    def names(self) -> list[str]:
        return [key.removeprefix("up/") for a in self.handed for key in a.task.inputs.keys]

    async def dispatch(self, assignments: Sequence[Assignment]) -> None:
        self.handed += assignments
        self.waiting += assignments if self.at_hand else []

    async def finished(self) -> list[Finished]:
        done = self.waiting.pop(0)
        receipt = receipt_of(done.task, nonce=done.nonce)
        return [Finished(task=done.task.id, nonce=done.nonce, receipt=receipt)]

    def is_gone(self, owner: str) -> bool:
        return False

    async def close(self) -> None:
        return None


class Clock:
    """Does not move."""

    def now_ms(self) -> int:
        return 1_000

    def monotonic_s(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        return None


class Ids:
    """Numbers, never one twice."""

    given = 0

    def nonce(self) -> str:
        Ids.given += 1
        return f"n{Ids.given}"


async def passed(
    store: Bucket, workers: Workers, policy: Policy = ONE_EACH, **asked: Any
) -> tuple[PassReport, State]:
    """One pass."""
    budget, tidy = asked.pop("budget", None), asked.pop("tidy", False)
    transforms = (
        TransformSettings(name="f", version="v", match=("*.t", "**/*.t")),
        TransformSettings(name="g", version="v", match=("**",)),
    )
    parts = PassContext(
        settings=pipeline_settings(*transforms),
        policy=policy,
        store=store,
        executor=workers,
        clock=Clock(),
        ids=Ids(),
        writer="test",
        unify=lambda before, new: new,
        budget=budget,
    )
    running = Pass(parts)
    report = await running.run(Request(**asked))
    if tidy:
        await keep_tidy(running)
    return report, running.state


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def filled(*names: str, page_keys: int = 1000) -> Bucket:
    store = Bucket(page_keys)
    for name in names:
        await store.upload(name)
    return store


def everything(*_: object) -> bool:
    return True


# -- limits ----------------------------------------------------------------------------------------


def test_files_that_are_under_way_do_not_use_up_a_limit() -> None:
    async def work() -> None:
        store, workers = await filled("a", "b", "c", "d", "e"), Workers()
        for planned, left in ((2, 3), (2, 1), (1, 0), (0, 0)):
            report, _ = await passed(store, workers, limits=Limits(files=2))
            assert (report.planned, report.left, report.complete) == (planned, left, True)
        assert workers.names == ["a", "b", "c", "d", "e"]

    run(work())


@pytest.mark.parametrize(
    ("sizes", "limit", "planned"),
    [([40, 40, 40], 100, 2), ([40, 40, 40], 80, 2), ([500, 1], 100, 1), ([99, 2, 1], 100, 1)],
)
def test_a_limit_of_bytes_is_kept_but_for_a_first_file_that_is_larger(
    sizes: list[int], limit: int, planned: int
) -> None:
    async def work() -> None:
        store = Bucket(page_keys=1)
        for i, size in enumerate(sizes):
            await store.upload(str(i), size=size)
        report, _ = await passed(store, Workers(), limits=Limits(size_bytes=limit))
        assert (report.planned, report.limited) == (planned, True)
        await passed(store, rest := Workers(), limits=Limits(size_bytes=limit))
        assert rest.names[0] == str(planned), "the next pass goes on there"

    run(work())


def test_a_limit_ends_the_listing_where_keys_go_in_order() -> None:
    async def work() -> None:
        store = await filled(*"abcdefghij", page_keys=1)
        report, state = await passed(store, Workers(), limits=Limits(files=2))
        assert (report.planned, report.complete, report.limited, report.left) == (2, False, True, 0)
        assert store.pages < 5
        assert state.backlog is not None
        assert not state.backlog.complete

    run(work())


# -- what goes first -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 30)), max_size=30),
    st.integers(1, 7),
    st.integers(1, 12),
    st.sampled_from([NEWEST, OLDEST]),
    st.booleans(),
)
def test_the_best_of_all_pages_go_and_the_rest_is_left(
    uploads: list[tuple[int, int]], page_keys: int, limit: int, priority: Priority, by_bytes: bool
) -> None:
    async def work() -> None:
        store, workers = Bucket(page_keys), Workers()
        for i, (modified_us, size) in enumerate(uploads):
            await store.upload(f"{i:02}", modified_us, size)
        sign = -1 if priority is NEWEST else 1
        ranked = sorted(range(len(uploads)), key=lambda i: (sign * uploads[i][0], i))
        expected, used = [], 0
        for i in ranked:
            fits = (
                used + uploads[i][1] <= limit or not expected if by_bytes else len(expected) < limit
            )
            if not fits or (by_bytes and used >= limit):
                break
            expected.append(f"{i:02}")
            used += uploads[i][1]
        limits = Limits(size_bytes=limit) if by_bytes else Limits(files=limit)
        report, _ = await passed(store, workers, priority=priority, limits=limits)
        assert workers.names == expected
        rest = [uploads[i] for i in ranked[len(expected) :]]
        assert (report.left, report.left_bytes) == (len(rest), sum(size for _, size in rest))
        assert report.left_oldest_us == min((modified_us for modified_us, _ in rest), default=None)

    run(work())


def test_no_more_is_held_than_may_be_and_the_next_pass_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "HELD_MAX", 3)

    async def work() -> None:
        store, workers = Bucket(page_keys=2), Workers()
        for i in range(8):
            await store.upload(str(i), modified_us=i)
        for left in (5, 2, 0):
            report, _ = await passed(store, workers, priority=NEWEST, limits=Limits(files=100))
            assert report.left == left
        assert workers.names == list("76543210")

    run(work())


def test_tasks_of_several_transforms_go_in_the_order_of_their_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "SLICE", 2)

    async def work() -> None:
        store, workers = Bucket(), Workers()
        for i in range(4):
            await store.upload(f"{i}.t", modified_us=10 + i)
            await store.upload(f"{i}.u", modified_us=10 - i)
        await passed(store, workers, Policy(task_files_max=1, open_tasks_max=6), priority=OLDEST)
        assert workers.names == ["3.u", "2.u", "1.u", "0.t", "0.u", "1.t"]

    run(work())


def test_without_a_limit_the_order_holds_among_what_is_gathered_at_one_time() -> None:
    async def work() -> None:
        store, workers = Bucket(page_keys=2), Workers(at_hand=True)
        for i in range(8):
            await store.upload(str(i), modified_us=i)
        report, _ = await passed(
            store, workers, Policy(task_files_max=1, outstanding_sources_max=4), priority=NEWEST
        )
        assert workers.names == list("32107654")
        assert (report.committed, report.left) == (8, 0)

    run(work())


@pytest.mark.parametrize("limits", [Limits(), Limits(files=3)])
def test_prefixes_go_first_in_their_order(limits: Limits) -> None:
    async def work() -> None:
        store, workers = (
            await filled("a", "b", "vip/1", "vip/2", "x/1", "x/y/1", "z", page_keys=1),
            Workers(at_hand=True),
        )
        report, state = await passed(
            store, workers, priority=Priority(prefixes=("x/y/", "vip/", "none/")), limits=limits
        )
        assert workers.names == ["x/y/1", "vip/1", "vip/2", "a", "b", "x/1", "z"][: limits.files]
        if not limits:
            assert (report.listed, report.committed, report.deleted, state.totals.sources) == (
                7,
                7,
                0,
                7,
            )
            report, _ = await passed(store, workers, priority=Priority(prefixes=("x/",)))
            assert (report.commits, report.listed) == (0, 7)

    run(work())


def test_what_is_gone_is_noticed_beside_prefixes_and_a_backfill_does_each_file_once() -> None:
    async def work() -> None:
        store = await filled("a", "vip/1", "vip/x/1", "z", page_keys=1)
        await passed(store, Workers(at_hand=True))
        await store.delete(["up/a", "up/vip/1"])
        again = Workers(at_hand=True)
        at_once = Policy(task_files_max=1, outstanding_sources_max=0)
        report, _ = await passed(
            store, again, at_once, priority=Priority(prefixes=("vip/x/", "vip/")), again=everything
        )
        assert (report.deleted, again.names) == (2, ["vip/x/1", "z"])
        assert store.asked == ["up/a", "up/vip/1"], "once, by the listing of the whole source"

    run(work())


def test_what_somebody_else_did_with_held_files_is_not_done_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Held files were listed before another run took them; the state forgets who decided about keys
    that the listing has passed.
    """
    monkeypatch.setattr(listing, "TOUCHED_MAX", 0)

    async def work() -> None:
        store = await filled("gone", page_keys=2)
        await passed(store, Workers(at_hand=True))
        await store.delete(["up/gone"])
        for name in ("a", "b", "c", "h", "i", "j", "k", "l"):
            await store.upload(name)

        async def other() -> None:
            await passed(store, Workers(at_hand=True, owner="other"))

        store.after_page = other
        workers = Workers()
        report, state = await passed(store, workers, priority=NEWEST, limits=Limits(files=100))
        assert (workers.names, report.left, state.tasks) == ([], 0, {})

    run(work())


# -- a backfill and new files ----------------------------------------------------------------------

ON_MODAL = Policy(task_files_max=1, open_tasks_max=8, containers_max=10)


async def processed(*names: str) -> Bucket:
    store = await filled(*names, page_keys=3)
    await passed(store, Workers(at_hand=True))
    return store


def test_a_backfill_leaves_room_for_what_other_passes_find() -> None:
    async def work() -> None:
        store, backfill, tick = (
            await processed(*(f"{i:02}" for i in range(20))),
            Workers(),
            Workers(),
        )
        report, state = await passed(store, backfill, ON_MODAL, again=everything)
        assert (report.planned, report.left, report.held_back) == (6, 14, True)
        assert state.backlog is None, "files that have rows are no backlog"
        for i in range(5):
            await store.upload(f"new{i}")
        report, state = await passed(store, tick, ON_MODAL)
        assert (tick.names, report.left, report.held_back) == (["new0", "new1"], 2, True)
        assert state.backlog is not None
        assert (state.backlog.files, state.backlog.complete) == (2, False), (
            "there is a further page"
        )

    run(work())


@pytest.mark.parametrize(
    "priority", [Priority(), NEWEST, Priority(prefixes=("0",))], ids=["key", "newest", "prefix"]
)
def test_new_files_that_a_backfill_finds_have_room_too(priority: Priority) -> None:
    async def work() -> None:
        store, workers = await processed(*(f"{i:02}" for i in range(20))), Workers()
        await store.upload("zz")
        await passed(store, workers, ON_MODAL, again=everything, priority=priority)
        assert len(workers.names) == 7
        assert "zz" in workers.names

    run(work())


def test_new_files_of_the_same_page_go_before_a_backfill() -> None:
    async def work() -> None:
        store, workers = await processed(*(f"{i:02}" for i in range(20))), Workers()
        for i in range(5):
            await store.upload(f"new{i}")
        store._page_keys = 1000
        await passed(store, workers, ON_MODAL, again=everything)
        assert workers.names == ["new0", "new1", "new2", "new3", "new4", "00", "01", "02"]

    run(work())


def test_new_files_may_take_all_the_room_and_what_is_named_waits_for_no_share() -> None:
    async def work() -> None:
        store, workers = await filled(*(f"{i:02}" for i in range(20))), Workers()
        await passed(store, workers, ON_MODAL)
        assert len(workers.names) == 8

        store = await processed(*(f"{i:02}" for i in range(20)))
        await passed(store, Workers(), ON_MODAL, again=everything)
        named = Workers()
        await passed(store, named, ON_MODAL, again=everything, names=["up/18", "up/19"])
        assert named.names == ["18", "19"]

    run(work())


def test_on_one_machine_a_backfill_begins_with_what_is_new() -> None:
    async def work() -> None:
        store, workers = await processed("a", "b", "c", "d"), Workers(at_hand=True)
        await store.upload("z")
        policy = Policy(task_files_max=1, outstanding_sources_max=1)
        report, _ = await passed(store, workers, policy, again=everything)
        assert (workers.names, report.listed) == (["z", "a", "b", "c", "d"], 5)
        limited = Workers(at_hand=True)
        await store.upload("y")
        await passed(store, limited, policy, again=everything, limits=Limits(files=2))
        assert limited.names == ["y", "a"]

    run(work())


# -- what is noted --------------------------------------------------------------------------


def test_the_state_says_what_waits_until_nothing_does() -> None:
    async def work() -> None:
        store = Bucket()
        for i in range(5):
            await store.upload(str(i), modified_us=100 + i, size=10)
        _, state = await passed(store, Workers(at_hand=True), limits=Limits(files=2), tidy=True)
        assert state.backlog is not None
        left = state.backlog
        assert (left.files, left.size_bytes, left.oldest_us, left.at_ms, left.complete) == (
            3,
            30,
            102,
            1_000,
            True,
        )
        _, loaded = await passed(store, Workers(), names=["up/0"])
        assert loaded.backlog == left, "by a checkpoint, and what was named is no listing"
        _, state = await passed(store, Workers(at_hand=True))
        assert state.backlog is not None
        assert (state.backlog.files, state.backlog.oldest_us) == (0, None)
        report, _ = await passed(store, Workers(at_hand=True))
        assert report.commits == 0, "nothing new, nothing written"

    run(work())


def test_what_costs_too_much_is_left_and_the_newest_go() -> None:
    async def work() -> None:
        store, workers = Bucket(page_keys=2), Workers()
        for i in range(6):
            await store.upload(str(i), modified_us=i)
        declared = pipeline_settings(TransformSettings(name="g", version="v", match=("**",)))
        prices = Prices(declared, ON_MODAL)
        one = 0.2 * prices.usd_per_s(declared.transforms[0])
        report, state = await passed(
            store,
            workers,
            ON_MODAL,
            priority=NEWEST,
            budget=Budget(CostLimits(run_usd=2.5 * one), prices),
        )
        assert (workers.names, report.over_budget, report.left) == (["5", "4"], 4, 4)
        assert state.backlog is not None
        assert state.backlog.files == 4

    run(work())
