"""A directory as a bucket: each key is a path below it. Atomic by rename and link, durable by fsync, listed in key order.

The version of a file is its modification time in nanoseconds, its size and its inode. A program that writes into a file in
place (rather than beside it, then renames) is seen at several versions, the last of which counts. Symbolic links are not
followed and not listed. Temporary files lie in `.tidemill/` below the root, which is never listed.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from pipeline.errors import (
    KeyUnsupported,
    ObjectNotFound,
    PreconditionFailed,
    SettingsError,
    StoreUnavailable,
)
from pipeline.model import Head, Page, Stored
from pipeline.ports import Content
from pipeline.stores.local_content import ABSENT, LocalContent, explained, version

PRIVATE = ".tidemill"
PAGE_KEYS = 10_000
PART_BYTES_MAX = 255
KEY_BYTES_MAX = 1024
_READS_MAX = 5
_PLACES_MAX = 20
_Names = list[str]  # inside the class, `list` is the method
_Stats = list[os.stat_result]


class LocalStore:
    """The Store port over one directory. Any number of processes may use it at once, on a local file system."""

    def __init__(self, root: Path, *, create: bool = False) -> None:
        self.root = root.absolute()
        self.url = self.root.as_uri()
        if create:
            self.root.mkdir(parents=True, exist_ok=True)
        self._base = str(self.root) + "/"
        self._private = self.root / PRIVATE

    async def check(self, prefix: str = "") -> None:
        """Raises SettingsError where the directory does not exist, StoreDenied where it cannot be read and written."""
        if not self.root.is_dir():
            what = "is not a directory" if self.root.exists() else "does not exist"
            raise SettingsError(f"the bucket {self.root} {what}: make it with  mkdir -p {self.root}")
        with explained(str(self.root)):
            os.listdir(self.root)  # noqa: PTH208 - a permission test
            (self._private / "tmp").mkdir(parents=True, exist_ok=True)

    # -- listing -----------------------------------------------------------------------------------------------------

    async def list(self, prefix: str, *, start_after: str = "") -> AsyncIterator[Page]:
        for page in self._pages(prefix, start_after):
            yield page
            await asyncio.sleep(0)

    def _pages(self, prefix: str, after: str) -> Iterator[Page]:
        keys: _Names = []
        stats: _Stats = []
        unusable: _Names = []
        folder = prefix.rpartition("/")[0]
        if folder and unsupported(folder) is not None:
            return
        with explained(prefix):
            for more_keys, more_stats in self._walk(folder + "/" if folder else "", prefix, after, unusable):
                keys += more_keys
                stats += more_stats
                while len(keys) >= PAGE_KEYS:
                    yield _page(keys[:PAGE_KEYS], stats[:PAGE_KEYS], unusable)
                    keys, stats, unusable[:] = keys[PAGE_KEYS:], stats[PAGE_KEYS:], []
        if keys or unusable:
            yield _page(keys, stats, unusable)

    def _walk(self, folder: str, prefix: str, after: str, unusable: _Names) -> Iterator[tuple[_Names, _Stats]]:
        """Runs of regular files below `folder`, in key order: a directory sorts as its name with a slash, as keys do."""
        try:
            descriptor = os.open(self._base + folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in ABSENT:
                return
            raise
        try:
            with os.scandir(descriptor) as entries:  # relative to the descriptor: no path is resolved for each file
                named = {e.name + "/" if e.is_dir(follow_symlinks=False) else e.name: e for e in entries}
            files: _Names = []
            for name in sorted(named):
                if not name.isascii() and not _is_text(name):
                    unusable.append(os.fsencode(folder + name).decode("utf-8", "backslashreplace"))
                elif name[-1] != "/":
                    files.append(name)
                    if len(files) == PAGE_KEYS:
                        yield _regular(folder, files, named, prefix, after)
                        files = []
                elif self._may_hold(folder + name, prefix, after):
                    yield _regular(folder, files, named, prefix, after)
                    files = []
                    yield from self._walk(folder + name, prefix, after, unusable)
            yield _regular(folder, files, named, prefix, after)
        finally:
            os.close(descriptor)

    def _may_hold(self, folder: str, prefix: str, after: str) -> bool:
        if folder == PRIVATE + "/" or (folder <= after and not after.startswith(folder)):
            return False
        return folder.startswith(prefix) or prefix.startswith(folder)

    # -- reading -----------------------------------------------------------------------------------------------------

    async def get(self, key: str, *, if_match: str | None = None, byte_range: tuple[int, int] | None = None) -> Stored:
        for _ in range(_READS_MAX):
            with explained(key), self._reading(key) as file:
                before = os.fstat(file.fileno())
                if if_match is not None and version(before) != if_match:
                    raise PreconditionFailed(f"{key!r} is at version {version(before)}, not {if_match}")
                if byte_range is None:
                    body = file.read()
                else:
                    file.seek(byte_range[0])
                    body = file.read(max(0, byte_range[1] - byte_range[0]))
                if version(os.fstat(file.fileno())) == version(before):
                    size, modified = before.st_size, before.st_mtime_ns // 1000
                    return Stored(body=body, etag=version(before), size_bytes=size, modified_us=modified)
        raise StoreUnavailable(f"{key!r} is being written; try again when that is done")

    @contextmanager
    def _reading(self, key: str) -> Iterator[BinaryIO]:
        path = self._base + key
        try:
            if unsupported(key) is not None or not S_ISREG(os.lstat(path).st_mode):
                raise ObjectNotFound(f"{key!r} does not exist")
            file = open(path, "rb", buffering=0)  # noqa: SIM115, PTH123
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectNotFound(f"{key!r} does not exist") from None
        with file:
            yield file

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
            raise ObjectNotFound(f"{key!r} does not exist")
        return Head(key=key, etag=version(stat), size_bytes=stat.st_size, modified_us=stat.st_mtime_ns // 1000)

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

    # -- writing -----------------------------------------------------------------------------------------------------

    async def put(self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None) -> None:
        target = self._target(key)
        with explained(key):
            temporary = self._temporary()
            try:
                with temporary.open("xb", buffering=0) as file:
                    view = memoryview(body)
                    while view:
                        view = view[file.write(view) :]
                    os.fsync(file.fileno())
                self._place(temporary, target, key, create_only, if_match)
            finally:
                temporary.unlink(missing_ok=True)

    async def put_file(self, key: str, path: Path) -> None:
        target = self._target(key)
        with explained(key):
            temporary = self._temporary()
            try:
                try:
                    path.rename(temporary)
                except OSError:
                    shutil.copyfile(path, temporary)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                self._place(temporary, target, key, False, None)
            finally:
                temporary.unlink(missing_ok=True)

    def _target(self, key: str) -> Path:
        reason = unsupported(key)
        if reason is not None:
            raise KeyUnsupported(f"{key[:200]!r} cannot be a file: {reason}")
        return Path(self._base + key)

    def _temporary(self) -> Path:
        folder = self._private / "tmp"
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
        return folder / secrets.token_hex(12)

    def _place(self, temporary: Path, target: Path, key: str, create_only: bool, if_match: str | None) -> None:
        """Move the finished file to its key, in one step that a concurrent writer either sees or does not."""
        for _ in range(_PLACES_MAX):
            self._make_folders(target.parent, key)
            try:
                with self._lock(exclusive=if_match is not None):
                    if if_match is not None:
                        self._require(target, key, if_match)
                    if create_only:
                        os.link(temporary, target)
                    else:
                        temporary.replace(target)
            except FileNotFoundError:
                continue  # a concurrent delete removed the empty folder
            except FileExistsError:
                if not target.is_dir():
                    raise PreconditionFailed(f"{key!r} exists") from None
                raise KeyUnsupported(f"{key!r} cannot be a file: a directory is there") from None
            except (IsADirectoryError, NotADirectoryError):
                raise KeyUnsupported(f"{key!r} cannot be a file: a directory with files is there") from None
            _sync(target.parent)
            return
        raise StoreUnavailable(f"{key!r}: its folder kept being removed")

    def _require(self, target: Path, key: str, if_match: str) -> None:
        try:
            current = version(os.lstat(target))
        except FileNotFoundError:
            raise PreconditionFailed(f"{key!r} does not exist") from None
        if current != if_match:
            raise PreconditionFailed(f"{key!r} is at version {current}, not {if_match}")

    def _make_folders(self, folder: Path, key: str) -> None:
        if folder.is_dir():
            if folder.is_symlink():
                raise KeyUnsupported(f"{key!r} cannot be a file: {folder} is a symbolic link")
            return
        self._make_folders(folder.parent, key)
        try:
            folder.mkdir(exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise KeyUnsupported(f"{key!r} cannot be a file: {folder} is a file") from None
        except FileNotFoundError:
            return  # removed meanwhile: the caller tries again
        _sync(folder.parent)

    async def delete(self, keys: Sequence[str]) -> None:
        folders = set()
        for key in keys:
            if unsupported(key) is not None:
                continue
            path = Path(self._base + key)
            with explained(key), self._lock(exclusive=False), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                path.unlink()
                folders.add(path.parent)
        for folder in folders:
            self._prune(folder)

    def _prune(self, folder: Path) -> None:
        """Remove folders that became empty: a store of objects has none."""
        while folder != self.root:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    @contextmanager
    def _lock(self, *, exclusive: bool) -> Iterator[None]:
        """Compare-and-swap excludes all other writers; these do not exclude each other."""
        path = self._private / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            self._private.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    async def close(self) -> None:
        return None


def unsupported(key: str) -> str | None:
    """Why a key cannot be a file's path below the root, None if it can."""
    if not key or "\0" in key:
        return "it is empty or holds a NUL character"
    if not key.isascii() and not _is_text(key):
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


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _regular(
    folder: str, names: list[str], entries: dict[str, os.DirEntry[str]], prefix: str, after: str
) -> tuple[list[str], list[os.stat_result]]:
    """The keys and stats of those files of a folder that are regular, below `prefix` and above `after`."""
    keys, stats = [], []
    whole = folder.startswith(prefix) and folder > after
    for name in names:
        key = folder + name
        if whole or (key > after and key.startswith(prefix)):
            try:
                stat = entries[name].stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if S_ISREG(stat.st_mode):
                keys.append(key)
                stats.append(stat)
    return keys, stats


def _page(keys: list[str], stats: list[os.stat_result], unusable: list[str]) -> Page:
    return Page(
        keys=keys,
        etags=[version(stat) for stat in stats],
        sizes=[stat.st_size for stat in stats],
        modified_us=[stat.st_mtime_ns // 1000 for stat in stats],
        unusable=list(unusable),
    )


def _sync(folder: Path) -> None:
    """Make a name durable. Some file systems cannot; then the rename is as durable as they make it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
