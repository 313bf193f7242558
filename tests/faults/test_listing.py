"""Long listings over HTTP: in ranges at once, with bounded memory, past requests that fail, and
ended at any moment.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from bisect import bisect_right
from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import boto3
import pytest

from bench.s3_lister import Bucket, key_of
from pipeline.errors import StoreDenied, StoreUnavailable
from pipeline.stores import open_store
from pipeline.stores.s3 import list_requests, lister
from tests.contract.test_store import HOSTILE
from tests.faults.proxy import Answer, Fault, Proxy, Request, Rule, error
from tests.hostile.listings import Dialect
from tests.support.servers import KEYS

N = 9_500
ALL = [key_of(i) for i in range(N)]
SPLITS = [key_of(i) for i in range(1_999, N, 2_000)]
PAGE = 500
SESSION = cache(boto3.Session)


class Service(Proxy):
    """A bucket of N keys, in pages of 500. `asked` says where the pages begin that
    were asked for.
    """

    bucket = Bucket(N)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.asked: list[int] = []

    def serve(self, request: Request) -> Answer:
        query = dict(parse_qsl(request.target.partition("?")[2]))
        if query["max-keys"] == "1":  # a check
            return self.page(query)
        after = query.get("start-after")
        first = int(query.get("continuation-token", 0)) or bisect_right(ALL, after or "")
        with self._lock:
            self.asked.append(first)
        return self.instead(first, query) or self.page({**query, "max-keys": str(PAGE)})

    def instead(self, first: int, query: dict[str, str]) -> Answer | None:
        """For tests: what else is answered."""
        return None

    def page(self, query: dict[str, str]) -> Answer:
        return Answer(200, (("Content-Type", "application/xml"),), self.bucket.page(query))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are sent once, without pauses, pages are handed on as they come, and boto3 reads its
    own files once.
    """
    monkeypatch.setattr(boto3, "Session", SESSION)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(list_requests, "RETRIES", 0)
    for constant, small in {"PAUSE_S": 0.0, "GROUP_KEYS": 1}.items():
        monkeypatch.setattr(lister, constant, small)


@pytest.fixture(params=[(), SPLITS], ids=["one by one", "in ranges"])
def splits(request: pytest.FixtureRequest) -> Sequence[str]:
    found: Sequence[str] = request.param
    return found


def store_at(service: Proxy, prefix: str = "") -> Any:
    return open_store(f"s3://bucket/{prefix}", endpoint_url=service.url, region="us-east-1")


async def read(store: Any, seen: list[str], **options: Any) -> None:
    async for page in store.list("in/", **options):
        seen += page.keys


def listed(store: Any, **options: Any) -> list[str]:
    seen: list[str] = []
    asyncio.run(read(store, seen, **options))
    return seen


# -- ranges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "at",
    [
        SPLITS,
        SPLITS[::-1] * 2,
        [*SPLITS, "in/2026/08/0000003000", "in/2026/09", "in/\x01", "a", "z"],
    ],
)
def test_splits_change_nothing_about_what_is_listed(at: list[str]) -> None:
    """Ends that are keys, ends between two, ends that are nowhere, twice, in no order."""
    with Service("") as service:
        store = store_at(service)
        assert listed(store, split_at=at) == ALL
        assert listed(store, split_at=at, start_after=key_of(2_500)) == ALL[2_501:]
        assert listed(store, split_at=at, start_after=ALL[-1]) == []


class Gate(Service):
    """Answers the first eight ranges once all are asked for, and notes how many ranges ahead of the
    reader is asked.
    """

    read = 0
    ahead = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gate = threading.Barrier(8)

    def instead(self, first: int, query: dict[str, str]) -> None:
        self.ahead = max(self.ahead, first // 1_000 - self.read // 1_000)
        if first % 1_000 == 0 and first < 8_000:
            self.gate.wait(20)


def test_eight_ranges_are_listed_at_once_and_no_more() -> None:
    async def work() -> None:
        async for page in store_at(service).list(
            "in/", split_at=[key_of(i) for i in range(999, N, 1_000)]
        ):
            assert page.keys[0] == ALL[service.read]
            service.read += len(page.keys)

    with Gate("") as service:
        asyncio.run(work())
        assert service.read == N
        assert service.ahead == 7


def test_what_is_ahead_of_the_reader_is_bounded(
    splits: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a range two pages wait and one is about to; where it has no end, one more is asked for
    early.
    """
    monkeypatch.setattr(lister, "BUFFER_PAGES", 2)
    monkeypatch.setattr(lister, "WINDOW", 2)

    async def work() -> None:
        store, count = store_at(service), 0
        async for _ in store.list("in/", split_at=splits):
            count += 1
            if count in (1, 5):
                for _ in range(15):  # requests of its own: the listing has time for as many
                    await store.check()
                assert len(service.asked) <= count + (2 * 3 if splits else 3 + 1)

    with Service("") as service:
        asyncio.run(work())
        assert sorted(service.asked) == list(range(0, N, PAGE)), "each page is asked for once"


# -- ends ------------------------------------------------------------------------------------------


class Stalling(Service):
    """Answers from the fourth page on when it is told to, and then resets these connections."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rules = (Rule(Fault.RESET, path="start-after|continuation-token=1500&"),)
        self.stalled, self.go = threading.Event(), threading.Event()

    def instead(self, first: int, query: dict[str, str]) -> None:
        if first >= 1_500:
            self.stalled.set()
            self.go.wait(20)


async def closed(service: Stalling, store: Any, pages: Any) -> None:
    """While requests are on their way."""
    await asyncio.to_thread(service.stalled.wait)
    await pages.aclose()


async def cancelled(service: Stalling, store: Any, pages: Any) -> None:
    """While the reader waits for one of them."""

    async def rest() -> None:
        async for _ in pages:
            pass

    task = asyncio.create_task(rest())
    await asyncio.to_thread(service.stalled.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def failed(service: Stalling, store: Any, pages: Any) -> None:
    """When a request that is ahead of the reader has failed."""
    service.go.set()
    while not service.counts[Fault.RESET]:
        await store.check()
    for _ in range(3):
        await store.check()
    await pages.aclose()


@pytest.mark.parametrize("end", [closed, cancelled, failed])
def test_a_listing_that_is_not_read_to_its_end_leaves_nothing(
    end: Callable[[Stalling, Any, Any], Coroutine[Any, Any, None]],
    splits: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No task, no thread, and no error that nobody sees: whatever its requests are about to say."""
    monkeypatch.setattr(lister, "BUFFER_PAGES", 1)
    unseen: list[dict[str, Any]] = []
    others = set(threading.enumerate())

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, what: unseen.append(what))
        store = store_at(service)
        pages = store.list("in/", split_at=splits)
        assert (await anext(pages)).keys == ALL[:PAGE]
        await end(service, store, pages)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        service.go.set()
        await store.close()
        for thread in set(threading.enumerate()) - others:
            if thread.name.startswith("tidemill-list"):
                await asyncio.to_thread(thread.join)

    with Stalling("") as service:
        asyncio.run(work())
    gc.collect()
    assert unseen == []


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [Fault.SLOW_DOWN, Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.RESET, Fault.CUT]
)
def test_a_listing_goes_on_where_a_request_failed(fault: Fault, splits: Sequence[str]) -> None:
    """Every page but the first fails once, and then the first three requests that go on."""
    tokens = tuple(
        Rule(fault, path=f"continuation-token={at}&", times=1) for at in range(PAGE, N, PAGE)
    )
    with Service("", (*tokens, Rule(fault, path="start-after", times=3))) as service:
        assert listed(store_at(service), split_at=splits) == ALL
        assert service.counts[fault] == 3 + len(tokens) - len(splits)


class Refusing(Service):
    """Refuses no page but those that begin with `at` or behind it."""

    at = 3_000
    answer = error(400, "InvalidArgument")

    def instead(self, first: int, query: dict[str, str]) -> Answer | None:
        return self.answer if first >= self.at else None


def test_a_listing_does_not_go_on_for_ever(splits: Sequence[str]) -> None:
    seen: list[str] = []
    with Refusing("") as service:
        with pytest.raises(StoreUnavailable):
            asyncio.run(read(store_at(service), seen, split_at=splits))
        assert service.asked.count(3_000) == 1 + lister.RESUMES
    assert seen == ALL[:3_000], "what came before is handed on"


def test_what_was_never_answered_or_is_forbidden_is_asked_for_once(splits: Sequence[str]) -> None:
    with Refusing("") as service:
        service.at = 0
        with pytest.raises(StoreUnavailable):
            listed(store_at(service))
        assert service.asked == [0]
        service.at, service.answer = 3_000, error(403, "AccessDenied")
        with pytest.raises(StoreDenied):
            listed(store_at(service), split_at=splits)
        assert service.asked.count(3_000) == 1


class Forgetful(Service):
    """Tokens expire at once: AWS words it so."""

    def instead(self, first: int, query: dict[str, str]) -> Answer | None:
        return error(400, "InvalidArgument") if "continuation-token" in query else None


def test_a_listing_goes_on_when_its_tokens_expire(splits: Sequence[str]) -> None:
    with Forgetful("") as service:
        assert listed(store_at(service), split_at=splits) == ALL


class Anew(Forgetful):
    """Begins from the first key wherever it is to go on."""

    def page(self, query: dict[str, str]) -> Answer:
        return super().page({key: value for key, value in query.items() if key != "start-after"})


def test_a_service_that_begins_anew_doubles_nothing(splits: Sequence[str]) -> None:
    seen: list[str] = []
    with Anew("") as service, pytest.raises(StoreUnavailable, match="out of byte order"):
        asyncio.run(read(store_at(service), seen, split_at=splits))
    assert seen == ALL[:PAGE]


# -- odd keys --------------------------------------------------------------------------------------


class Named(Proxy):
    """A bucket of some keys, below `deep/`, in pages of two and an order of its own.

    Its tokens expire at once.
    """

    names: Sequence[str] = ()

    def serve(self, request: Request) -> Answer:
        query = dict(parse_qsl(request.target.partition("?")[2], keep_blank_values=True))
        if "continuation-token" in query:
            return error(400, "InvalidArgument")
        after = query.get("start-after", "").removeprefix("deep/")
        names = [
            f"deep/{name}" for name in self.names[self.names.index(after) + 1 if after else 0 :]
        ]
        return Answer(200, (), Dialect().page(names[:2], "more" if len(names) > 2 else None))


def test_odd_keys_are_listed_exactly_from_any_of_them_on() -> None:
    with Named("") as service:
        service.names = sorted(f"in/{key}" for key in HOSTILE)
        for split_at in ((), service.names[::3]):
            assert listed(store_at(service, "deep"), split_at=split_at) == service.names


def test_a_service_with_an_order_of_its_own_is_listed_whole_in_ranges_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lister, "GROUP_KEYS", 1_000)
    with Named("") as service:
        service.names = ["in/b", "in/a"]
        assert listed(store_at(service, "deep"), split_at=["in/a"]) == ["in/a", "in/b"]
