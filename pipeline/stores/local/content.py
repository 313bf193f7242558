"""Source files for synchronous user code, at one version; and what errors of the operating system
mean for a store.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import (
    KeyUnsupported,
    ObjectNotFound,
    SourceChanged,
    StoreDenied,
    StoreUnavailable,
)

ONE_READ_BYTES = 2**30
"""Linux gives at most 2 GiB in one read."""
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class LocalContent:
    """One version of one file.

    What user code got is checked against the version again in `problem`.
    """

    __slots__ = ("_etag", "_files", "_key", "_path", "_problem", "_touched", "bytes_read")
    unverified = False

    def __init__(self, key: str, path: str, etag: str) -> None:
        self._key = key
        self._path = path
        self._etag = etag
        self._problem: Exception | None = None
        self._files: list[BinaryIO] = []
        self._touched = False
        self.bytes_read: int = 0

    def read(self) -> bytes:
        descriptor, size = self._opened()
        try:
            # Never more than one byte beyond the version's size: a file may grow faster than it is
            # read.
            body = os.read(descriptor, size + 1) if size < ONE_READ_BYTES else b""
            # large, or cut off meanwhile, or a file system that gives less than was asked for
            if len(body) < size:
                rest = _read_on(descriptor, size + 1 - len(body))
                body = body + rest if body else rest
        finally:
            os.close(descriptor)
        if len(body) != size and self._problem is None:
            self._problem = self._changed()
        self.bytes_read += len(body)
        return body

    def open(self) -> BinaryIO:
        descriptor, size = self._opened()
        file = io.BufferedReader(io.FileIO(descriptor))
        self._files.append(file)
        self.bytes_read += size
        return file

    def path(self) -> Path:
        descriptor, size = self._opened()
        os.close(descriptor)
        self.bytes_read += size
        return Path(self._path)

    def _opened(self) -> tuple[int, int]:
        """A descriptor of the file and its size, if it is at the version.

        Whether it still is after reading, `problem` says.
        """
        if self._problem is not None:
            raise self._problem
        self._touched = True
        try:
            # O_NONBLOCK: where a pipe took the file's place, opening it must not wait for somebody
            # to write.
            descriptor = os.open(
                self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            )
        except OSError as error:
            self._problem = self._not_opened(error)
            raise self._problem from None
        stat = os.fstat(descriptor)
        if self._etag and version(stat) != self._etag:
            os.close(descriptor)
            self._problem = self._changed()
            raise self._problem
        return descriptor, stat.st_size

    def problem(self) -> Exception | None:
        if self._problem is None and self._touched:
            try:
                if version(os.lstat(self._path)) != self._etag and self._etag:
                    self._problem = self._changed()
            except OSError as error:
                self._problem = (
                    self._absent() if error.errno in ABSENT else translated(error, self._key)
                )
        return self._problem

    def _not_opened(self, error: OSError) -> Exception:
        if error.errno == errno.ENXIO:  # a socket took its place, say
            return self._changed()
        return self._absent() if error.errno in ABSENT else translated(error, self._key)

    def _absent(self) -> Exception:
        return ObjectNotFound(f"{self._key!r} was deleted after it was planned")

    def _changed(self) -> Exception:
        return SourceChanged(f"{self._key!r} was overwritten after it was planned")

    def close(self) -> None:
        for file in self._files:
            file.close()


def version(stat: os.stat_result) -> str:
    """The etag of a file."""
    return f"{stat.st_mtime_ns:x}-{stat.st_size:x}-{stat.st_ino:x}"


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Errors of the operating system as errors of a store."""
    try:
        yield
    except OSError as error:
        raise translated(error, what) from error


def translated(error: OSError, what: str) -> Exception:
    text = f"{what!r}: {error.strerror or error}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreDenied(f"{text} (check the permissions of the bucket's directory)")
    if error.errno == errno.ENAMETOOLONG:
        return KeyUnsupported(
            f"{what[:200]!r} cannot be a file: the name is too long for this file system"
        )
    return StoreUnavailable(text)


def _read_on(descriptor: int, bytes_max: int) -> bytes:
    with io.BufferedReader(io.FileIO(descriptor, closefd=False)) as file:
        return file.read(bytes_max)
