"""A directory as a bucket: each key is a path below it.

Atomic by rename and link, durable by fsync, listed in key order.

The version of a file is its modification time in nanoseconds, its size and its inode. A program
that writes into a file in place (rather than beside it, then renames) is seen at several versions,
the last of which counts. Symbolic links are not followed and not listed. Temporary files lie in
`.tidemill/` below the root, which is never listed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from pipeline.errors import KeyUnsupported, ObjectNotFound, PreconditionFailed, StoreUnavailable
from pipeline.model.listing import Head, Page, Stored
from pipeline.ports import Content, StoreTraits
from pipeline.stores.local.address import require_directory
from pipeline.stores.local.content import LocalContent, explained, version
from pipeline.stores.local.disk import (
    Disk,
    Names,
    Presence,
    copy_all,
    hold,
    locked,
    roomless,
    sweep,
    write_all,
)
from pipeline.stores.local.listing import PAGE_KEYS, PRIVATE, is_text, page_of, walk

PART_BYTES_MAX = 255
KEY_BYTES_MAX = 1024
_READS_MAX = 5
_PLACES_MAX = 20


class LocalStore:
    """The Store port over one directory.

    Any number of processes may use it at once, on a local file system.
    """

    def __init__(self, root: Path, *, create: bool = False, disk: Disk | None = None) -> None:
        self.root: Path = root.absolute()
        self.url: str = self.root.as_uri()
        self.traits: StoreTraits = StoreTraits(local_root=self.root, opens_cheaply=True)
        if create:
            self.root.mkdir(parents=True, exist_ok=True)
        self._base = str(self.root) + "/"
        self._private = self.root / PRIVATE
        self._disk = disk or Disk()
        self._names = Names(self._disk, str(self.root))
        self._present = Presence(self.root)

    async def check(self, prefix: str = "") -> None:
        """Raises SettingsError where the directory does not exist, StoreDenied where it cannot be
        read and written.
        """
        require_directory(self.root)
        self._present()
        with explained(str(self.root)), roomless(str(self.root)):
            os.listdir(self.root)  # noqa: PTH208 - a permission test
            self._private_folder()
            sweep(str(self._private / "tmp"))

    # -- listing -----------------------------------------------------------------------------------

    async def list(
        self, prefix: str, *, start_after: str = "", split_at: Sequence[str] = ()
    ) -> AsyncIterator[Page]:
        for page in self._pages(prefix, start_after):
            yield page
            await asyncio.sleep(0)

    def _pages(self, prefix: str, after: str) -> Iterator[Page]:
        keys: list[str] = []
        stats: list[os.stat_result] = []
        unusable: list[str] = []
        folder = prefix.rpartition("/")[0]
        if folder and unsupported(folder) is not None:
            return
        self._present()
        with explained(prefix):
            for more_keys, more_stats in walk(
                self._base, folder + "/" if folder else "", prefix, after, unusable
            ):
                keys += more_keys
                stats += more_stats
                while len(keys) >= PAGE_KEYS:
                    yield page_of(keys[:PAGE_KEYS], stats[:PAGE_KEYS], unusable)
                    keys, stats, unusable[:] = keys[PAGE_KEYS:], stats[PAGE_KEYS:], []
        self._present()
        if keys or unusable:
            yield page_of(keys, stats, unusable)

    # -- reading -----------------------------------------------------------------------------------

    async def get(
        self, key: str, *, if_match: str | None = None, byte_range: tuple[int, int] | None = None
    ) -> Stored:
        for _ in range(_READS_MAX):
            with explained(key), self._reading(key) as file:
                before = os.fstat(file.fileno())
                etag = version(before)
                if if_match not in (None, etag):
                    raise PreconditionFailed(f"{key!r} is at version {etag}, not {if_match}")
                body = file.read() if byte_range is None else _read_part(file, byte_range)
                if version(os.fstat(file.fileno())) == etag:
                    return _stored(body, etag, before)
        raise StoreUnavailable(f"{key!r} is being written; try again when that is done")

    @contextmanager
    def _reading(self, key: str) -> Iterator[BinaryIO]:
        path = self._base + key
        try:
            if unsupported(key) is not None or not S_ISREG(os.lstat(path).st_mode):
                raise self._missing(key)
            file = open(path, "rb", buffering=0)  # noqa: SIM115, PTH123
        except (FileNotFoundError, NotADirectoryError):
            raise self._missing(key) from None
        with file:
            yield file

    def _missing(self, key: str) -> ObjectNotFound:
        self._present()
        return ObjectNotFound(f"{key!r} does not exist")

    async def get_many(self, keys: Sequence[str]) -> Sequence[Stored | None]:
        found: list[Stored | None] = []
        for key in keys:
            try:
                found.append(await self.get(key))
            except ObjectNotFound:
                found.append(None)
        return found

    async def head(self, key: str) -> Head:
        with explained(key):
            try:
                stat = os.lstat(self._base + key) if unsupported(key) is None else None
            except (FileNotFoundError, NotADirectoryError):
                stat = None
        if stat is None or not S_ISREG(stat.st_mode):
            raise self._missing(key)
        return Head(
            key=key,
            etag=version(stat),
            size_bytes=stat.st_size,
            modified_us=stat.st_mtime_ns // 1000,
        )

    async def head_many(self, keys: Sequence[str]) -> Sequence[Head | None]:
        found: list[Head | None] = []
        for key in keys:
            try:
                found.append(await self.head(key))
            except ObjectNotFound:
                found.append(None)
        return found

    def open_content(self, key: str, etag: str, size_bytes: int) -> Content:
        return LocalContent(key, self._base + key, etag)

    # -- writing -----------------------------------------------------------------------------------

    async def put(
        self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None
    ) -> None:
        target = self._target(key)
        with self._temporary(key) as temporary:
            descriptor = self._disk.create(temporary)
            try:
                hold(descriptor)
                write_all(self._disk, descriptor, body)
                self._disk.sync(descriptor)
                self._place(temporary, target, key, create_only, if_match)
            finally:
                os.close(descriptor)

    async def put_file(self, key: str, path: Path) -> None:
        target = self._target(key)
        with self._temporary(key) as temporary:
            try:
                self._disk.replace(str(path), temporary)
                descriptor = self._disk.open(temporary)
            except OSError:  # another file system, say
                descriptor = self._disk.create(temporary)
                copy_all(self._disk, str(path), descriptor)
            try:
                hold(descriptor)
                self._disk.sync(descriptor)
                self._place(temporary, target, key, False, None)
            finally:
                os.close(descriptor)

    def _target(self, key: str) -> str:
        reason = unsupported(key)
        if reason is not None:
            raise _no_file(key[:200], reason)
        return self._base + key

    @contextmanager
    def _temporary(self, key: str) -> Iterator[str]:
        """The name of a new temporary file, which is gone afterwards."""
        self._present()
        folder = str(self._private / "tmp")
        temporary = f"{folder}/{secrets.token_hex(12)}"
        with explained(key), roomless(key):
            self._private_folder()
            try:
                yield temporary
            finally:
                with suppress(OSError):  # what stays is removed by a later `check`
                    self._disk.unlink(temporary)

    def _private_folder(self) -> None:
        """Never with what is above them: where the bucket's directory is gone, none must be made in
        its place.
        """
        for folder in (self._private, self._private / "tmp"):
            if not folder.is_dir():
                with suppress(FileExistsError):
                    self._disk.mkdir(str(folder))

    def _place(
        self, temporary: str, target: str, key: str, create_only: bool, if_match: str | None
    ) -> None:
        """Move the finished file to its key, in one step that a concurrent writer either sees or
        does not; then make its name durable. What exists already is durable, too, before anything
        is created beside it or PreconditionFailed is said: a commit must not outlive the one it
        follows, nor be believed before it is on the disk.
        """
        folder = os.path.dirname(target)  # noqa: PTH120
        for _ in range(_PLACES_MAX):
            try:
                self._names.anchor(folder, partial(_no_link, key))
                if create_only:
                    self._names.settle(folder)
                self._move(temporary, target, key, create_only, if_match)
            except FileNotFoundError:
                self._present()
                continue  # a concurrent delete removed the empty folder
            except FileExistsError:
                raise self._taken(key, target, folder) from None
            except IsADirectoryError:
                raise _no_file(key, "a directory with files is there") from None
            except NotADirectoryError:
                raise _no_file(key, "one of its folders is a file") from None
            self._sync_folder(folder)
            return
        raise StoreUnavailable(f"{key!r}: its folder kept being removed")

    def _sync_folder(self, folder: str) -> None:
        try:
            self._disk.sync_folder(folder)
        except FileNotFoundError:  # deleted again, and its folder with it
            self._present()

    def _taken(self, key: str, target: str, folder: str) -> Exception:
        if os.path.isdir(target):  # noqa: PTH112
            return _no_file(key, "a directory is there")
        self._names.settle(folder)
        return PreconditionFailed(f"{key!r} exists")

    def _move(
        self, temporary: str, target: str, key: str, create_only: bool, if_match: str | None
    ) -> None:
        with self._locked(exclusive=if_match is not None):
            if if_match is not None:
                self._require(target, key, if_match)
            if create_only:
                self._disk.link(temporary, target)
            else:
                self._disk.replace(temporary, target)

    def _locked(self, *, exclusive: bool) -> AbstractContextManager[None]:
        return locked(str(self._private / "lock"), exclusive=exclusive)

    def _require(self, target: str, key: str, if_match: str) -> None:
        try:
            current = version(os.lstat(target))
        except FileNotFoundError:
            raise PreconditionFailed(f"{key!r} does not exist") from None
        if current != if_match:
            raise PreconditionFailed(f"{key!r} is at version {current}, not {if_match}")

    async def delete(self, keys: Sequence[str]) -> None:
        folders = set()
        self._present()
        with explained(str(self.root)):
            self._private_folder()
        for key in keys:
            if unsupported(key) is not None:
                continue
            path, lock = self._base + key, self._locked(exclusive=False)
            with (
                explained(key),
                lock,
                suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError),
            ):
                self._disk.unlink(path)
                folders.add(os.path.dirname(path))  # noqa: PTH120
        self._present()
        for folder in folders:
            self._prune(folder)

    def _prune(self, folder: str) -> None:
        """Remove folders that became empty: a store of objects has none."""
        while folder != str(self.root):
            try:
                self._disk.rmdir(folder)
            except OSError:
                return
            folder = os.path.dirname(folder)  # noqa: PTH120

    async def close(self) -> None:
        return None


def unsupported(key: str) -> str | None:
    """Why a key cannot be a file's path below the root, None if it can."""
    if not key or "\0" in key:
        return "it is empty or holds a NUL character"
    if not key.isascii() and not is_text(key):
        return "it is not valid Unicode"
    if len(key.encode()) > KEY_BYTES_MAX:
        return f"it has more than {KEY_BYTES_MAX} bytes"
    if key.startswith(PRIVATE + "/"):
        return f"{PRIVATE}/ is Tidemill's own"
    for part in key.split("/"):
        if part in ("", ".", ".."):
            return "it has an empty, '.' or '..' part"
        if len(part.encode()) > PART_BYTES_MAX:
            return f"a part of it has more than {PART_BYTES_MAX} bytes"
    return None


def _no_link(key: str, folder: str) -> None:
    if os.path.islink(folder):  # noqa: PTH114
        raise KeyUnsupported(f"{key!r} cannot be a file: {folder} is a symbolic link")


def _read_part(file: BinaryIO, byte_range: tuple[int, int]) -> bytes:
    start, end = byte_range
    file.seek(start)
    return file.read(max(0, end - start))


def _no_file(key: str, reason: str) -> KeyUnsupported:
    return KeyUnsupported(f"{key!r} cannot be a file: {reason}")


def _stored(body: bytes, etag: str, stat: os.stat_result) -> Stored:
    return Stored(
        body=body, etag=etag, size_bytes=stat.st_size, modified_us=stat.st_mtime_ns // 1000
    )
