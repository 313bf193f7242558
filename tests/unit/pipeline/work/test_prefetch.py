"""Reading ahead: bounded, in order, and an error comes with the object it belongs to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipeline.errors import SourceChanged, StoreUnavailable
from pipeline.model.task import Inputs
from pipeline.testing.memory_store import MemoryStore
from pipeline.work.prefetch import AHEAD, PrefetchedContents


class Counting(MemoryStore):
    """Remembers how many reads were under way at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.reads = 0

    async def get(self, key: str, **options: Any) -> Any:
        self.now += 1
        self.reads += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            if key == "unavailable":
                raise StoreUnavailable(key)
            return await super().get(key, **options)
        finally:
            self.now -= 1


async def filled(names: list[str]) -> tuple[Counting, Inputs]:
    store = Counting()
    for name in names:
        await store.put(name, name.encode())
    heads = [await store.head(name) for name in names]
    inputs = Inputs(
        keys=names,
        etags=[h.etag for h in heads],
        sizes=[h.size_bytes for h in heads],
        modified_us=[0] * len(names),
        replaces=[None] * len(names),
    )
    return store, inputs


def test_reads_ahead_in_order_and_bounded() -> None:
    async def work() -> None:
        store, inputs = await filled([f"k{i:03}" for i in range(100)])
        contents = PrefetchedContents(store)
        contents.expect(inputs)
        for key, etag, size in zip(inputs.keys, inputs.etags, inputs.sizes, strict=True):
            assert (await contents.open(key, etag, size, 0)).read() == key.encode()
        assert 1 < store.most <= AHEAD
        assert store.reads == 100, "nothing is read twice"

    asyncio.run(work())


def test_errors_and_changes_belong_to_their_object() -> None:
    async def work() -> None:
        store, inputs = await filled(["a", "unavailable", "changed", "z"])
        await store.put("changed", b"other")
        contents = PrefetchedContents(store)
        contents.expect(inputs)
        opened = dict(zip(inputs.keys, inputs.etags, strict=True))
        assert (await contents.open("a", opened["a"], 1, 0)).read() == b"a"
        with pytest.raises(StoreUnavailable):
            await contents.open("unavailable", opened["unavailable"], 1, 0)
        assert isinstance(
            (await contents.open("changed", opened["changed"], 1, 0)).problem(), SourceChanged
        )
        assert (await contents.open("z", opened["z"], 1, 0)).read() == b"z"

    asyncio.run(work())


def test_a_new_attempt_forgets_the_old_one() -> None:
    async def work() -> None:
        store, inputs = await filled(["a", "b", "c"])
        contents = PrefetchedContents(store)
        contents.expect(inputs)
        await contents.open("a", inputs.etags[0], 1, 0)
        contents.expect(inputs.take([2]))
        assert (await contents.open("c", inputs.etags[2], 1, 0)).read() == b"c"
        await asyncio.sleep(0)
        assert store.now == 0

    asyncio.run(work())
