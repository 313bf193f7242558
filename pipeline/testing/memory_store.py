"""Objects in this process's memory: for tests, and as the plainest statement of what
a store does.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from pipeline.errors import KeyUnsupported, ObjectNotFound, PreconditionFailed, SourceChanged
from pipeline.model.listing import Head, Page, Stored
from pipeline.ports import PLAIN, Content
from pipeline.work.contents import BytesContent

KEY_BYTES_MAX = 1024


class MemoryStore:
    """The Store port over a dict."""

    def __init__(self, *, page_keys: int = 1000) -> None:
        self.url = "memory:"
        self.traits = PLAIN
        self._objects: dict[str, Stored] = {}
        self._page_keys = page_keys
        self._serial = 0

    async def list(
        self, prefix: str, *, start_after: str = "", split_at: Sequence[str] = ()
    ) -> AsyncIterator[Page]:
        names = sorted(
            (k for k in self._objects if k.startswith(prefix) and k > start_after), key=str.encode
        )
        for start in range(0, len(names), self._page_keys):
            page = [
                (k, self._objects[k])
                for k in names[start : start + self._page_keys]
                if k in self._objects
            ]
            yield Page(
                keys=[k for k, _ in page],
                etags=[o.etag for _, o in page],
                sizes=[o.size_bytes for _, o in page],
                modified_us=[o.modified_us for _, o in page],
            )

    async def get(
        self, key: str, *, if_match: str | None = None, byte_range: tuple[int, int] | None = None
    ) -> Stored:
        found = self._current(key, if_match)
        if byte_range is None:
            return found
        part = found.body[slice(*byte_range)]
        return Stored(
            body=part, etag=found.etag, size_bytes=found.size_bytes, modified_us=found.modified_us
        )

    async def get_many(self, keys: Sequence[str]) -> Sequence[Stored | None]:
        return [self._objects.get(key) for key in keys]

    async def put(
        self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None
    ) -> None:
        size = len(key.encode("utf-8", "surrogatepass"))
        if not 0 < size <= KEY_BYTES_MAX:
            raise KeyUnsupported(f"{key[:80]!r} has {size} bytes; keys have 1 to {KEY_BYTES_MAX}")
        if any("\ud800" <= c <= "\udfff" for c in key):
            raise KeyUnsupported(f"{key[:80]!r} is not valid Unicode")
        if create_only and key in self._objects:
            raise PreconditionFailed(f"{key!r} exists")
        if if_match is not None:
            if key not in self._objects:
                raise PreconditionFailed(f"{key!r} does not exist")
            self._current(key, if_match)
        self._serial += 1
        self._objects[key] = Stored(
            body=body,
            etag=f"m{self._serial}",
            size_bytes=len(body),
            modified_us=time.time_ns() // 1000,
        )

    async def put_file(self, key: str, path: Path) -> None:
        await self.put(key, path.read_bytes())

    async def head(self, key: str) -> Head:
        found = self._current(key, None)
        return Head(
            key=key, etag=found.etag, size_bytes=found.size_bytes, modified_us=found.modified_us
        )

    async def head_many(self, keys: Sequence[str]) -> Sequence[Head | None]:
        return [await self.head(key) if key in self._objects else None for key in keys]

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._objects.pop(key, None)

    def open_content(self, key: str, etag: str, size_bytes: int) -> Content:
        try:
            return BytesContent(self._current(key, etag or None).body)
        except ObjectNotFound as error:
            return BytesContent(b"", error)
        except PreconditionFailed:
            return BytesContent(b"", SourceChanged(f"{key!r} was overwritten after it was planned"))

    async def check(self, prefix: str = "") -> None:
        return None

    async def close(self) -> None:
        return None

    def _current(self, key: str, if_match: str | None) -> Stored:
        found = self._objects.get(key)
        if found is None:
            raise ObjectNotFound(f"{key!r} does not exist")
        if if_match is not None and found.etag != if_match:
            raise PreconditionFailed(f"{key!r} is at version {found.etag}, not {if_match}")
        return found
