"""What a local directory needs from the operating system to be a store that survives a power cut.

A file's bytes are durable after fsync of the file, its name after fsync of the folder it is in
(fsync(2)), the folder's own name after fsync of the folder above. `Disk` is each request by itself,
so that tests can let any of them fail, and can build what a disk may hold after a power cut between
any two; `Names` knows which folders need no further one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import StoreUnavailable
from pipeline.stores.local.content import ABSENT, explained

LOCK_WAIT_S = 30.0
DEBRIS_AGE_S = 10.0
_TICK_NS = 50_000_000
"""Longer than the steps of any file system's clock: a folder that changed this long ago shows every
later change.
"""
_COPY_BYTES = 1 << 20
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS)


class Disk:
    """Requests to the operating system. Every one may raise OSError."""

    def create(self, path: str) -> int:
        """A descriptor of a new file. FileExistsError where there is one."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def open(self, path: str) -> int:
        """A descriptor of a file that is there, to make it durable."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def write(self, descriptor: int, part: memoryview) -> int:
        """Append some bytes; how many."""
        return os.write(descriptor, part)

    def sync(self, descriptor: int) -> None:
        """Make a file's bytes durable."""
        _fsync(descriptor)

    def link(self, path: str, target: str) -> None:
        """Give the file a second name. FileExistsError where there is one."""
        os.link(path, target)

    def replace(self, path: str, target: str) -> None:
        """Rename the file; what was there goes."""
        os.replace(path, target)  # noqa: PTH105 - by text, as all of these

    def unlink(self, path: str) -> None:
        """Remove a name."""
        os.unlink(path)  # noqa: PTH108

    def mkdir(self, path: str) -> None:
        """Make a folder. FileExistsError where something is."""
        os.mkdir(path)  # noqa: PTH102

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        os.rmdir(path)  # noqa: PTH106

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable.

        Some file systems cannot; there a name is as durable as they make it.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNC:
                raise
        finally:
            os.close(descriptor)


def _fsync(descriptor: int) -> None:
    # macOS: fsync alone does not empty the drive's own cache (its fsync(2))
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with suppress(OSError):
            fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)


def write_all(disk: Disk, descriptor: int, body: bytes) -> None:
    """Write all bytes."""
    view = memoryview(body)
    while view:
        view = view[disk.write(descriptor, view) :]


def copy_all(disk: Disk, source: str, descriptor: int) -> None:
    """Write all bytes of a file, in bounded memory."""
    with open(source, "rb", buffering=0) as file:  # noqa: PTH123
        while part := file.read(_COPY_BYTES):
            write_all(disk, descriptor, part)


class Presence:
    """Whether a directory is still the one that it was when it was first asked for.

    Called, it raises StoreUnavailable where the directory is gone or another one is in its place:
    it was moved, or unmounted. Then nothing in it may be taken for deleted, and nothing may be
    written there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._identity: tuple[int, int] | None = None

    def __call__(self) -> None:
        with explained(str(self._root)):
            try:
                stat = os.stat(self._root)  # noqa: PTH116
            except OSError as error:
                if error.errno in ABSENT:
                    text = (
                        f"the bucket's directory {self._root} is not there (any more): bring it"
                        " back, then run again"
                    )
                    raise StoreUnavailable(text) from None
                raise
        here = (stat.st_dev, stat.st_ino)
        if self._identity is None:
            self._identity = here
        elif self._identity != here:
            raise StoreUnavailable(
                f"another directory is at {self._root} than before (moved, or unmounted?): bring"
                " that one back, or run again"
            )


@contextmanager
def roomless(key: str) -> Iterator[None]:
    """A full disk in words that say what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreUnavailable(
                f"{key!r}: {error.strerror}: make room for the bucket's directory, then run again"
            ) from error
        raise


class Names:
    """Makes folders, and keeps count of those whose names are durable.

    A folder's time of change tells whether a name in it came or went since its names were made
    durable. Within one step of the file system's clock it does not, so a folder that changed just
    now is not remembered.
    """

    def __init__(self, disk: Disk, root: str) -> None:
        self._disk = disk
        self._root = root
        self._durable: dict[str, int] = {}

    def settle(self, folder: str) -> None:
        """Make all names in the folder durable, whoever made them."""
        changed_ns = os.stat(folder).st_mtime_ns  # noqa: PTH116
        if self._durable.get(folder) == changed_ns:
            return
        self._disk.sync_folder(folder)
        if time.time_ns() - changed_ns > _TICK_NS:
            self._durable[folder] = changed_ns

    def anchor(self, folder: str, check: Callable[[str], None]) -> None:
        """Make the folder, and make its name durable and those of all above it; `check` may refuse
        one that is there.

        Raises FileNotFoundError where another process removes folders at the same time.
        """
        if folder == self._root:
            return
        above = os.path.dirname(folder)  # noqa: PTH120
        self.anchor(above, check)
        if os.path.isdir(folder):  # noqa: PTH112
            check(folder)
        else:
            try:
                self._disk.mkdir(folder)
            except FileExistsError:
                if not os.path.isdir(folder):  # noqa: PTH112
                    raise NotADirectoryError(
                        errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder
                    ) from None
        self.settle(above)


@contextmanager
def locked(path: str, *, exclusive: bool, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the lock file.

    Raises StoreUnavailable where somebody holds it for longer than `wait_s`: a stopped process,
    say.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        until_s = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(
                    descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB
                )
                break
            except BlockingIOError:
                if time.monotonic() > until_s:
                    raise StoreUnavailable(
                        f"{path} is locked by another process (is one stopped?); try again later"
                    ) from None
                time.sleep(0.002)
        yield
    finally:
        os.close(descriptor)


def hold(descriptor: int) -> None:
    """Show that somebody is still writing this temporary file."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def sweep(folder: str) -> None:
    """Remove temporary files that nobody writes any more.

    One that is taken away by mistake costs its writer another try.
    """
    for entry in os.scandir(folder):
        with suppress(OSError):
            if time.time() - entry.stat(follow_symlinks=False).st_mtime < DEBRIS_AGE_S:
                continue
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)  # noqa: PTH108
            finally:
                os.close(descriptor)
