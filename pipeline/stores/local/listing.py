"""What lies in a directory, in the order of keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from stat import S_ISREG

from pipeline.model.listing import Page
from pipeline.stores.local.content import ABSENT, translated, version

PRIVATE = ".tidemill"
PAGE_KEYS = 10_000
Names = list[str]
Stats = list[os.stat_result]


def walk(
    base: str, folder: str, prefix: str, after: str, unusable: Names
) -> Iterator[tuple[Names, Stats]]:
    """Runs of regular files below `folder`, in key order: a directory sorts as its name with a
    slash, as keys do.
    """
    descriptor = _opened(base, folder)
    if descriptor is None:
        return
    try:
        files: Names = []
        for name in _names(descriptor):
            if not name.isascii() and not is_text(name):
                unusable.append(_readable(folder + name))
            elif name[-1] != "/":
                files.append(name)
                if len(files) == PAGE_KEYS:
                    yield _regular(folder, files, descriptor, prefix, after)
                    files = []
            elif _may_hold(folder + name, prefix, after):
                yield _regular(folder, files, descriptor, prefix, after)
                files = []
                yield from walk(base, folder + name, prefix, after, unusable)
        yield _regular(folder, files, descriptor, prefix, after)
    finally:
        os.close(descriptor)


def _opened(base: str, folder: str) -> int | None:
    """A descriptor of the folder, to which what is in it is relative: no path is resolved for each
    file. None where it is gone.
    """
    try:
        return os.open(base + folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise translated(error, folder or "/") from error


def _names(descriptor: int) -> Names:
    """What the folder holds, in key order; folders end with a slash."""
    with os.scandir(descriptor) as entries:
        return sorted(e.name + "/" if e.is_dir(follow_symlinks=False) else e.name for e in entries)


def _readable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _may_hold(folder: str, prefix: str, after: str) -> bool:
    if folder == PRIVATE + "/" or (folder <= after and not after.startswith(folder)):
        return False
    return folder.startswith(prefix) or prefix.startswith(folder)


def is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _regular(
    folder: str, names: list[str], descriptor: int, prefix: str, after: str
) -> tuple[list[str], list[os.stat_result]]:
    """The keys and stats of those files of a folder that are regular, below `prefix` and above
    `after`.
    """
    keys, stats = [], []
    whole = folder.startswith(prefix) and folder > after
    for name in names:
        key = folder + name
        if whole or (key > after and key.startswith(prefix)):
            try:
                stat = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if S_ISREG(stat.st_mode):
                keys.append(key)
                stats.append(stat)
    return keys, stats


def page_of(keys: list[str], stats: list[os.stat_result], unusable: list[str]) -> Page:
    return Page(
        keys=keys,
        etags=[version(stat) for stat in stats],
        sizes=[stat.st_size for stat in stats],
        modified_us=[stat.st_mtime_ns // 1000 for stat in stats],
        unusable=list(unusable),
    )
