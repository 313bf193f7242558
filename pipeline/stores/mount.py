"""A bucket as a file system, as Modal's CloudBucketMount shows it (AWS Mountpoint): for workers
that hold no credentials.

What such a mount cannot do shapes this file. It knows no etags, so what is read is tied to the
planned version by its digest where the etag is one, and otherwise left to whoever settles. It takes
sequential writes of new files only, and publishes what a killed writer had written so far: a
receipt, written last, records what is whole. Keys with empty or dot parts cannot be reached.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import (
    InputRejected,
    ObjectArchived,
    ObjectNotFound,
    SourceChanged,
    StoreUnavailable,
)
from pipeline.model.task import Inputs
from pipeline.ports import Content
from pipeline.stores.local.content import ABSENT, explained

_UNREACHABLE = re.compile(r"(^|/)(\.{0,2})(/|\Z)|\x00")
BUFFER_BYTES = 1024 * 1024


class Mounts:
    """Which directory shows which key prefix. The longest prefix counts."""

    def __init__(self, directories: Mapping[str, str]) -> None:
        self._directories = sorted(directories.items(), key=lambda item: -len(item[0]))

    def path(self, key: str) -> Path:
        """Where the object is. Raises InputRejected for a key that no mount can show."""
        for prefix, directory in self._directories:
            if key.startswith(prefix):
                rest = key[len(prefix) :]
                if _UNREACHABLE.search(rest):
                    break
                return Path(directory, rest)
        raise _unreachable(key)


def _unreachable(key: str) -> InputRejected:
    return InputRejected(
        f"{key!r} cannot be reached through a mounted bucket: rename the object, or set"
        " access='api'"
    )


def _archived(key: str) -> ObjectArchived:
    way = "have it restored (aws s3api restore-object), then  tidemill quarantine retry"
    return ObjectArchived(f"{key!r} is archived (S3 Glacier) and cannot be read: {way}")


class MountOutbox:
    """The Outbox port over a mount."""

    def __init__(self, mounts: Mounts) -> None:
        self._mounts = mounts

    async def put(self, key: str, body: bytes) -> None:
        path = self._mounts.path(key)
        with explained(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            # returns once the upload is complete: Mountpoint completes it at close
            path.write_bytes(body)

    async def put_file(self, key: str, path: Path) -> None:
        target = self._mounts.path(key)
        with explained(key):
            target.parent.mkdir(parents=True, exist_ok=True)
            # copy() would fail, after the object is there: a mount knows no permissions
            shutil.copyfile(path, target)

    async def fetch(self, key: str) -> bytes | None:
        """A small object's bytes, None where there is none."""
        with explained(key):
            try:
                return self._mounts.path(key).read_bytes()
            except FileNotFoundError:
                return None


class MountContents:
    """See `seams.Contents`."""

    mounted = True

    def __init__(self, mounts: Mounts) -> None:
        self._mounts = mounts

    def expect(self, inputs: Inputs) -> None:
        """Nothing is done beforehand."""

    async def open(self, key: str, etag: str, size_bytes: int, modified_us: int) -> Content:
        try:
            path, problem = self._mounts.path(key), None
        except InputRejected as error:
            path, problem = Path(), error
        return MountContent(key, path, etag, size_bytes, modified_us, problem)


class MountContent:
    """One object, expected at one version."""

    def __init__(  # noqa: PLR0917
        self,
        key: str,
        path: Path,
        etag: str,
        size: int,
        modified_us: int,
        problem: Exception | None,
    ) -> None:
        self._key = key
        self._path = path
        self._etag = etag
        self._size = size
        self._modified_s = modified_us // 1_000_000
        self._problem = problem
        self._files: list[_Digested] = []
        self._touched = self._untied = False
        self.bytes_read: int = 0

    def read(self) -> bytes:
        with self._opened() as file:
            body = file.readall()
        if len(body) != self._size:
            raise self._changed()
        return body

    def open(self) -> BinaryIO:
        return io.BufferedReader(self._opened(), BUFFER_BYTES)

    def path(self) -> Path:
        self._opened().close()
        self._untied = True
        self.bytes_read += self._size
        return self._path

    def _opened(self) -> _Digested:
        if self._problem is not None:
            raise self._problem
        self._touched = True
        try:
            file = _Digested(self._path, self)
        except OSError as error:
            raise self.failed(error) from None
        self._files.append(file)
        if not self._is_as_planned(os.fstat(file.fileno())):
            file.close()
            raise self._changed()
        return file

    def _is_as_planned(self, stat: os.stat_result) -> bool:
        return stat.st_size == self._size and stat.st_mtime_ns // 1_000_000_000 == self._modified_s

    def failed(self, error: OSError) -> Exception:
        """An error of the file system: the object is gone, or hidden by a folder, or another by
        now, or the mount is unwell.
        """
        if error.errno in (errno.EISDIR, errno.ENAMETOOLONG):
            self._problem = _unreachable(self._key)
        elif error.errno in (errno.EACCES, errno.EPERM) and self._is_closed_to_all():
            self._problem = _archived(self._key)
        elif error.errno in ABSENT:
            self._problem = ObjectNotFound(f"{self._key!r} was deleted after it was planned")
        elif self._is_still_there():
            self._problem = StoreUnavailable(f"{self._key!r}: {error.strerror or error}")
        else:
            self._changed()
        return self._problem or error

    def _is_closed_to_all(self) -> bool:
        """Mountpoint shows objects that must be restored first without any permission."""
        try:
            return self._path.stat().st_mode & 0o777 == 0
        except OSError:
            return False

    def _is_still_there(self) -> bool:
        try:
            return self._is_as_planned(self._path.stat())
        except OSError:
            return False

    def _changed(self) -> Exception:
        self._problem = SourceChanged(f"{self._key!r} was overwritten after it was planned")
        return self._problem

    def problem(self) -> Exception | None:
        if self._problem is None and self._touched and not self._is_still_there():
            self._changed()
        return self._problem

    @property
    def unverified(self) -> bool:
        """Read, and not proven to be the planned version by a digest of all its bytes."""
        if not self._touched or self._problem is not None:
            return False
        return self._untied or any(file.digest() != self._etag for file in self._files)

    def digested(self, n: int) -> None:
        """Count delivered bytes."""
        self.bytes_read += n

    def close(self) -> None:
        for file in self._files:
            file.close()


class _Digested(io.FileIO):
    """A file whose digest is known once it was read from start to end, without gaps."""

    def __init__(self, path: Path, content: MountContent) -> None:
        super().__init__(path)
        self._content = content
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._upto = 0

    def readinto(self, buffer: Any) -> int:
        at = self.tell()
        try:
            n = super().readinto(buffer) or 0
        except OSError as error:
            raise self._content.failed(error) from None
        self._add(at, memoryview(buffer)[:n])
        self._content.digested(n)
        return n

    def readall(self) -> bytes:
        at = self.tell()
        try:
            body = super().readall() or b""
        except OSError as error:
            raise self._content.failed(error) from None
        self._add(at, body)
        self._content.digested(len(body))
        return body

    def _add(self, at: int, part: bytes | memoryview) -> None:
        """Bytes that follow what was digested so far; a part read again changes nothing."""
        fresh = part[self._upto - at :] if at <= self._upto else b""
        self._md5.update(fresh)
        self._upto += len(fresh)

    def digest(self) -> str:
        """The MD5 of what was read without gaps from the start: the object's, if that was all."""
        return self._md5.hexdigest()
