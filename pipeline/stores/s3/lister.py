"""Listing a bucket: whole, in byte order, ahead of its reader, from several keys on at once, and
past requests that fail.

Requests are signed by boto3 and sent by urllib3 in threads of this module's own. What is ahead of
the reader is bounded: a range has at most BUFFER_PAGES pages, and WINDOW ranges are listed at a
time.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from operator import lt
from typing import Any

from pipeline.errors import SettingsError, StoreUnavailable
from pipeline.model.backoff import backoff
from pipeline.model.listing import Page
from pipeline.stores.s3.errors import UNREACHED
from pipeline.stores.s3.list_answer import token_within
from pipeline.stores.s3.list_requests import WINDOW, PageRequests

PAGE_KEYS = 1000
GROUP_KEYS = 10 * PAGE_KEYS
"""Keys that are handed on as one page."""
BUFFER_PAGES = 20
"""Pages of one range that wait for their turn."""
RESUMES = 4
"""How often in a row a listing goes on after a page that did not come."""
PAUSE_S = 1.0
"""Before the first of these times; then twice as long, and so on."""


def _waits_s() -> Iterator[float]:
    """How long to wait before each of these times."""
    return islice(backoff(PAUSE_S), RESUMES)


_Pages = list[Page]  # inside the class, `list` is the method


class _OutOfOrder(Exception):
    """The service lists in another order than that of the keys' bytes."""


@dataclass(frozen=True, kw_only=True)
class _Range:
    """What one walk lists: keys that begin with `prefix`, above `after`, up to `end` where there is
    one.
    """

    prefix: str
    after: str
    end: str | None = None
    size: int = PAGE_KEYS
    raw: bool = False
    """As the service gives them: in whatever order, and without going on where a request fails."""
    first: bool = False
    """It begins where the whole listing does.

    Where not even its first page comes, nothing was interrupted.
    """


class _Walk:
    """The pages of one range, one after the other.

    Where a request fails it goes on behind the last key that came.
    """

    def __init__(self, asker: PageRequests, what: _Range) -> None:
        self._asker = asker
        self._what = what
        self._last = what.after
        self._token: str | None = None
        self._waits_s: Iterator[float] = iter(()) if what.first or what.raw else _waits_s()
        self._ahead: asyncio.Future[bytes] | None = None
        """The request for the page after the one that is being read."""

    async def pages(self) -> AsyncGenerator[Page, None]:
        """Raises _OutOfOrder, and what stores raise."""
        more = True
        try:
            while more:
                body = await self._answer()
                early = self._ask_ahead(body)
                page, token = self._asker.read(body)
                if early != token:
                    self._drop()
                self._go_on(token)
                more = token is not None
                if not self._what.raw:
                    page, within = self._in_range(page)
                    more = more and within
                if page.keys:
                    yield page
        finally:
            self._drop()

    async def _answer(self) -> bytes:
        while True:
            try:
                return await (self._ahead or self._ask(self._token))
            except StoreUnavailable:
                wait_s = next(self._waits_s, None)
                if wait_s is None:
                    raise
                await asyncio.sleep(wait_s)
                self._token = self._ahead = None

    def _ask_ahead(self, body: bytes) -> str | None:
        """Ask for the page that an answer seems to name before that is read: the token of it."""
        early = token_within(body) if self._what.end is None else None
        self._ahead = self._ask(early) if early else None
        return early

    def _go_on(self, token: str | None) -> None:
        if token is not None and token == self._token:
            raise StoreUnavailable(
                f"{self._asker.url}: the listing does not go on: the service names the same"
                " next page twice"
            )
        self._token = token

    def _ask(self, token: str | None) -> asyncio.Future[bytes]:
        return self._asker.ask(self._what.prefix, self._last, self._what.size, token)

    def _in_range(self, page: Page) -> tuple[Page, bool]:
        """What of the page belongs to the range, and whether more of it can follow.

        Raises _OutOfOrder.
        """
        keys, end = page.keys, self._what.end
        if not keys:
            return page, True
        if keys[0] <= self._last or not all(map(lt, keys, islice(keys, 1, None))):
            raise _OutOfOrder
        self._last, self._waits_s = keys[-1], _waits_s()
        if end is None or keys[-1] < end:
            return page, True
        return page.slice(0, bisect_right(keys, end)), False

    def _drop(self) -> None:
        """Nobody waits for the request that is ahead any more: its error, if it has one, is
        nobody's.
        """
        if self._ahead is not None:
            self._ahead.cancel()
        self._ahead = None


class _Ahead:
    """A walk that goes on by itself until its buffer is full."""

    def __init__(self, walk: _Walk) -> None:
        self._pages: asyncio.Queue[Page | Exception | None] = asyncio.Queue(BUFFER_PAGES)
        self.task = asyncio.create_task(self._fill(walk))

    async def _fill(self, walk: _Walk) -> None:
        end: Exception | None = None
        try:
            async with aclosing(walk.pages()) as pages:
                async for page in pages:
                    await self._pages.put(page)
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader gets it behind the pages that came before
            end = error
        await self._pages.put(end)

    async def next(self) -> Page | None:
        """The next page, None behind the last. Raises what stopped the walk."""
        found = await self._pages.get()
        if isinstance(found, Exception):
            raise found
        return found


class S3Lister:
    """The listings of one bucket, of keys below one prefix of it. `client` is
    boto3's, and signs.
    """

    def __init__(self, client: Any, bucket: str, prefix: str, endpoint_url: str | None) -> None:
        self._asker = PageRequests(client, bucket, prefix, endpoint_url)
        self._endpoint_url = endpoint_url
        self._sorts: bool | None = None

    @property
    def sorts(self) -> bool:
        """Whether the service is known to list in another order than that of the keys' bytes: then
        listings are sorted here.
        """
        return bool(self._sorts)

    async def check(self, prefix: str) -> None:
        """One small listing below the prefix: raises what any listing would, and SettingsError
        where an endpoint was given and nothing answers there: it is probably misspelt.
        """
        try:
            body = await self._asker.ask(prefix, "", 1, None)
        except StoreUnavailable as error:
            if self._endpoint_url is not None and UNREACHED in str(error):
                raise SettingsError(str(error)) from None
            raise
        if (
            self._endpoint_url is not None
            and body
            and not body.lstrip().startswith((b"<?xml", b"<ListBucketResult"))
        ):
            raise SettingsError(
                f"{self._endpoint_url} does not answer as an S3 service does: check --endpoint-url"
            )
        self._asker.read(body)
        self._sorts = self._sorts or self._asker.is_seaweed

    def close(self) -> None:
        """Release connections and threads."""
        self._asker.close()

    # -- listings ----------------------------------------------------------------------------------

    async def list(
        self, prefix: str, start_after: str, split_at: Sequence[str]
    ) -> AsyncGenerator[Page, None]:
        """See `ports.Store.list`."""
        if self._sorts is None:
            await self.check(prefix)
        handed_on = False
        if not self._sorts:
            try:
                async with aclosing(self._in_order(prefix, start_after, split_at)) as pages:
                    async for page in pages:
                        handed_on = True
                        yield page
            except _OutOfOrder:
                self._sorts = True
            else:
                return
            if handed_on:
                raise StoreUnavailable(
                    f"{self._asker.url} lists keys out of byte order; listed sorted from now on:"
                    " try again"
                )
        for page in await self._sorted(prefix, start_after):
            yield page

    def pages(self, prefix: str, start_after: str, size: int) -> AsyncGenerator[Page, None]:
        """Pages of up to `size` keys as the service gives them, in whatever order."""
        return _Walk(
            self._asker, _Range(prefix=prefix, after=start_after, size=size, raw=True)
        ).pages()

    async def _sorted(self, prefix: str, start_after: str) -> Iterator[Page]:
        """The whole listing in memory, in byte order, without repeats."""
        rows: dict[str, tuple[str, int, int]] = {}
        async with aclosing(self.pages(prefix, "", PAGE_KEYS)) as pages:
            async for page in pages:
                rows.update(_by_key(page))
        names = sorted((key for key in rows if key > start_after), key=str.encode)
        return (
            Page.of([(key, *rows[key]) for key in names[start : start + GROUP_KEYS]])
            for start in range(0, len(names), GROUP_KEYS)
        )

    async def _in_order(
        self, prefix: str, start_after: str, split_at: Sequence[str]
    ) -> AsyncGenerator[Page, None]:
        """The pages of all ranges, put together to larger ones. Raises _OutOfOrder."""
        held: _Pages = []
        async with aclosing(self._ranges(prefix, start_after, split_at)) as pages:
            async for page in pages:
                held.append(page)
                if sum(len(one) for one in held) >= GROUP_KEYS:
                    yield Page.joined(held)
                    held = []
        if held:
            yield Page.joined(held)

    async def _ranges(
        self, prefix: str, start_after: str, split_at: Sequence[str]
    ) -> AsyncGenerator[Page, None]:
        """The pages of one range after the other, while those that follow are listed too."""
        waiting = deque(_split(prefix, start_after, split_at))
        running = deque[_Ahead]()
        try:
            while waiting or running:
                while waiting and len(running) < WINDOW:
                    running.append(_Ahead(_Walk(self._asker, waiting.popleft())))
                while (page := await running[0].next()) is not None:
                    yield page
                await running.popleft().task
        finally:
            for ahead in running:
                ahead.task.cancel()
            await asyncio.gather(*(ahead.task for ahead in running), return_exceptions=True)


def _split(prefix: str, start_after: str, split_at: Sequence[str]) -> Iterator[_Range]:
    splits = sorted(
        {
            key
            for key in split_at
            if key.startswith(prefix) and key > start_after and key.isprintable()
        }
    )
    ends = zip([start_after, *splits], [*splits, None], strict=True)
    for i, (after, end) in enumerate(ends):
        yield _Range(prefix=prefix, after=after, end=end, first=i == 0)


def _by_key(page: Page) -> Iterator[tuple[str, tuple[str, int, int]]]:
    values = zip(page.etags, page.sizes, page.modified_us, strict=True)
    return zip(page.keys, values, strict=True)
