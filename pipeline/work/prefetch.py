"""Reading ahead: while the user's code works on one object, the next ones are on their way."""

from __future__ import annotations

import asyncio
from collections import deque

from pipeline.model.task import Inputs
from pipeline.ports import Content, Store
from pipeline.work.contents import FETCH_BYTES_MAX, FetchedContents

AHEAD = 16
AHEAD_BYTES = 64 * 2**20


class PrefetchedContents(FetchedContents):
    """Like FetchedContents, with up to AHEAD small objects requested before their turn.

    Needs a running event loop.
    """

    def __init__(self, store: Store, *, size_max: int = FETCH_BYTES_MAX) -> None:
        super().__init__(store, size_max=size_max)
        self._size_max = size_max
        self._coming: deque[tuple[str, str, int, int]] = deque()
        self._fetching: dict[str, asyncio.Task[Content]] = {}
        self._bytes: dict[str, int] = {}

    def expect(self, inputs: Inputs) -> None:
        """The objects that will be opened, in this order. Forgets those of an attempt before."""
        for task in self._fetching.values():
            task.cancel()
        self._fetching, self._bytes = {}, {}
        self._coming = deque(
            zip(inputs.keys, inputs.etags, inputs.sizes, inputs.modified_us, strict=True)
        )

    async def open(self, key: str, etag: str, size_bytes: int, modified_us: int) -> Content:
        """The object, which is there already if the network was fast enough."""
        self._read_ahead()
        task = self._fetching.pop(key, None)
        self._bytes.pop(key, None)
        return await (super().open(key, etag, size_bytes, modified_us) if task is None else task)

    def _read_ahead(self) -> None:
        while (
            self._coming and len(self._fetching) < AHEAD and sum(self._bytes.values()) < AHEAD_BYTES
        ):
            key, etag, size, modified_us = self._coming.popleft()
            if size > self._size_max:
                continue  # read in ranges when its turn comes
            task = asyncio.ensure_future(super().open(key, etag, size, modified_us))
            task.add_done_callback(_retrieved)
            self._fetching[key], self._bytes[key] = task, size


def _retrieved(task: asyncio.Task[Content]) -> None:
    """An error is for whoever opens the object; if nobody does any more, it is of no interest."""
    if not task.cancelled():
        task.exception()
