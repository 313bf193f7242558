"""Source objects in S3 for synchronous user code, read by range at one version."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import SourceChanged, StoreError, StoreUnavailable

RANGE_BYTES = 8 * 2**20


class S3Content:
    """One version of one object, read with If-Match."""

    unverified = False

    def __init__(
        self, read: Callable[[str, str, int, int], bytes], key: str, etag: str, size_bytes: int
    ) -> None:
        self._read = read
        self._key = key
        self._etag = etag
        self._size = size_bytes
        self._problem: Exception | None = None
        self._file: Path | None = None
        self.bytes_read: int = 0

    def read(self) -> bytes:
        return self.read_range(0, self._size)

    def read_range(self, start: int, end: int) -> bytes:
        """Bytes [start, end), clipped to the object."""
        end = min(end, self._size)
        if start >= end:
            return b""
        try:
            body = self._read(self._key, self._etag, start, end)
            if len(body) != end - start:
                raise StoreUnavailable(
                    f"{self._key!r}: the store sent {len(body)} bytes of {end - start}"
                )
        except (StoreError, SourceChanged) as error:
            self._problem = self._problem or error
            raise
        self.bytes_read += len(body)
        return body

    def open(self) -> BinaryIO:
        return io.BufferedReader(RangeFile(self, self._size), RANGE_BYTES)

    def path(self) -> Path:
        if self._file is None:
            suffix = Path(self._key).suffix[:20]
            with tempfile.NamedTemporaryFile(
                prefix="tidemill-", suffix=suffix if suffix.isascii() else "", delete=False
            ) as file:
                self._file = Path(file.name)
                for start in range(0, self._size, RANGE_BYTES):
                    file.write(self.read_range(start, start + RANGE_BYTES))
        return self._file

    def problem(self) -> Exception | None:
        return self._problem

    def close(self) -> None:
        if self._file is not None:
            self._file.unlink(missing_ok=True)
            self._file = None


class RangeFile(io.RawIOBase):
    """A read-only file over ranges of an object, with a position of its own."""

    def __init__(self, content: S3Content, size: int) -> None:
        self._content = content
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(
            0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        )
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        body = self._content.read_range(self._at, self._at + len(buffer))
        buffer[: len(body)] = body
        self._at += len(body)
        return len(body)
