"""Source files for synchronous user code, at one version; and what errors of the operating system mean for a store."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import KeyUnsupported, ObjectNotFound, SourceChanged, StoreDenied, StoreUnavailable


class LocalContent:
    """One version of one file. What user code got is checked against the version again in `problem`."""

    __slots__ = ("_etag", "_files", "_key", "_path", "_problem", "bytes_read")

    def __init__(self, key: str, path: str, etag: str) -> None:
        self._key = key
        self._path = path
        self._etag = etag
        self._problem: Exception | None = None
        self._files: list[BinaryIO] = []
        self.bytes_read = 0

    def read(self) -> bytes:
        with self._opened() as file:
            body = file.read()
        self.bytes_read += len(body)
        return body

    def open(self) -> BinaryIO:
        self._opened().close()
        file = open(self._path, "rb")  # noqa: SIM115, PTH123
        self._files.append(file)
        self.bytes_read += os.fstat(file.fileno()).st_size
        return file

    def path(self) -> Path:
        with self._opened() as file:
            self.bytes_read += os.fstat(file.fileno()).st_size
        return Path(self._path)

    def _opened(self) -> BinaryIO:
        problem = self.problem()
        if problem is not None:
            raise problem
        try:
            return open(self._path, "rb", buffering=0)  # noqa: PTH123
        except FileNotFoundError:
            self._problem = ObjectNotFound(f"{self._key!r} was deleted after it was planned")
            raise self._problem from None
        except OSError as error:
            self._problem = _translated(error, self._key)
            raise self._problem from None

    def problem(self) -> Exception | None:
        if self._problem is None:
            try:
                stat = os.lstat(self._path)
            except (FileNotFoundError, NotADirectoryError):
                self._problem = ObjectNotFound(f"{self._key!r} was deleted after it was planned")
            except OSError as error:
                self._problem = _translated(error, self._key)
            else:
                if version(stat) != self._etag:
                    self._problem = SourceChanged(f"{self._key!r} was overwritten after it was planned")
        return self._problem

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
        raise _translated(error, what) from error


def _translated(error: OSError, what: str) -> Exception:
    text = f"{what!r}: {error.strerror or error}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreDenied(f"{text} (check the permissions of the bucket's directory)")
    if error.errno == errno.ENAMETOOLONG:
        return KeyUnsupported(f"{what[:200]!r} cannot be a file: the name is too long for this file system")
    return StoreUnavailable(text)
