"""Ways to open source objects for user code: lazily through the store, or fetched whole beforehand
where they are small.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import (
    ObjectArchived,
    ObjectNotFound,
    PreconditionFailed,
    SourceChanged,
)
from pipeline.model.task import Inputs
from pipeline.ports import Content, Store

FETCH_BYTES_MAX = 8 * 2**20


class LazyContents:
    """Nothing is read before the user's code asks.

    Right for stores where opening costs little (a local directory).
    """

    mounted = False

    def __init__(self, store: Store) -> None:
        self._store = store

    def expect(self, inputs: Inputs) -> None:
        """Nothing is done beforehand."""

    async def open(self, key: str, etag: str, size_bytes: int, modified_us: int) -> Content:
        return self._store.open_content(key, etag, size_bytes)


class FetchedContents:
    """Small objects are read whole, at the planned version, before the user's code sees them; large
    ones lazily.
    """

    mounted = False

    def __init__(self, store: Store, *, size_max: int = FETCH_BYTES_MAX) -> None:
        self._store = store
        self._size_max = size_max

    def expect(self, inputs: Inputs) -> None:
        """Nothing is done beforehand."""

    async def open(self, key: str, etag: str, size_bytes: int, modified_us: int) -> Content:
        if size_bytes > self._size_max:
            return self._store.open_content(key, etag, size_bytes)
        try:
            return BytesContent((await self._store.get(key, if_match=etag)).body)
        except ObjectNotFound as error:
            return BytesContent(b"", error)
        except ObjectArchived as error:
            return BytesContent(b"", error)
        except PreconditionFailed:
            return BytesContent(b"", SourceChanged(f"{key!r} was overwritten after it was planned"))


class BytesContent:
    """Content that is in memory already, or the reason why it is not."""

    __slots__ = ("_body", "_file", "_problem", "bytes_read")
    unverified = False

    def __init__(self, body: bytes, problem: Exception | None = None) -> None:
        self._body = body
        self._problem = problem
        self._file: Path | None = None
        self.bytes_read: int = len(body)

    def read(self) -> bytes:
        return self._body

    def open(self) -> BinaryIO:
        return io.BytesIO(self._body)

    def path(self) -> Path:
        if self._file is None:
            with tempfile.NamedTemporaryFile(prefix="tidemill-", delete=False) as file:
                file.write(self._body)
            self._file = Path(file.name)
        return self._file

    def problem(self) -> Exception | None:
        return self._problem

    def close(self) -> None:
        if self._file is not None:
            self._file.unlink(missing_ok=True)
            self._file = None
