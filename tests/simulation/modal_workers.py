"""Containers on Modal in the simulated world: orders run late, twice, or again after a death,
through mounts without versions.
"""

from __future__ import annotations

from typing import Any

from pipeline.errors import ObjectNotFound, SourceChanged
from pipeline.model.task import Inputs
from pipeline.ports import Content
from pipeline.work.contents import BytesContent

from .kernel import Request
from .store import SimStore, patient


class StoreBox:
    """Orders and notes by the store's own requests."""

    def __init__(self, store: SimStore) -> None:
        self.store = store

    async def fetch(self, key: str) -> bytes | None:
        try:
            return (await self.store.get(key)).body
        except ObjectNotFound:
            return None

    async def put(self, key: str, body: bytes) -> None:
        await Request("put", key, body, False, None)

    async def put_file(self, key: str, path: Any) -> None:
        raise AssertionError("the simulation's outputs are small")


class MountBox(StoreBox):
    """The same through a mount: what a killed writer had written so far is published."""

    async def put(self, key: str, body: bytes) -> None:
        await Request("put", key, body, False, None, mounted=True)


class Unverified(BytesContent):
    """Bytes of some version: which one, the mount does not say."""

    __slots__ = ()
    unverified = True


class MountedContents:
    """Looks at an object, and then reads what is there by then."""

    mounted = True

    def __init__(self, store: SimStore) -> None:
        self.store = store

    def expect(self, inputs: Inputs) -> None:
        return None

    async def open(self, key: str, etag: str, size_bytes: int, modified_us: int) -> Content:
        try:
            head = await patient("head", key)
            if (head.size_bytes, head.modified_us) != (size_bytes, modified_us):
                return BytesContent(b"", SourceChanged(key))
            for _ in range(self.store.kernel.rng.choice([0, 0, 30])):
                await Request("pause")  # attributes may be old by the time the bytes are read
            return Unverified((await patient("get", key, None)).body)
        except ObjectNotFound as error:
            return BytesContent(b"", error)
