"""A bucket as a file system with the semantics of AWS Mountpoint for S3: `python -m
tests.modal_offline.mountpoint`.

It runs as a process of its own, so that a container that holds its interpreter lock cannot
dead-lock it. Settings come as one line of JSON on standard input; it says `ready` once it serves
and ends when standard input closes.

Promises: files are written from start to end, once, and appear in the bucket as they are closed, by
whatever closes them, a SIGKILL included. Overwriting takes O_TRUNC. There is no append, rename,
chmod or utime. A read returns the object that was there at open, or ESTALE. Keys with an empty, `.`
or `..` part are out of reach. New directories are local until a file is in them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import json
import os
import signal
import stat
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import botocore.exceptions
import mfusepy as fuse

from tests.modal_offline.s3 import s3_client

WINDOW_BYTES = 8 << 20
WRITE_BYTES = 128 << 10
DIRECTORY_CACHE_S = 1.0
NO_DIRECTORY_CACHE_S = 10.0
LOOKUP_S = 0.05  # the kernel looks a file up just before it opens it: one HEAD serves both
DETACH = 2
ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


def failed(number: int) -> fuse.FuseOSError:
    return fuse.FuseOSError(number)


class Opener(NamedTuple):
    """Who calls: a process, and its session, which is a container's."""

    process: int
    session: int

    @classmethod
    def now(cls) -> Opener:
        task = fuse.fuse_get_context()[2]
        try:
            status = Path(f"/proc/{task}/status").read_text()
            return cls(int(status.partition("Tgid:")[2].split()[0]), os.getsid(task))
        except (OSError, IndexError):
            return cls(task, 0)


@dataclass
class Reader:
    """An open object, pinned to the version seen at open."""

    key: str
    etag: str
    size: int
    modified: float
    window: bytes = b""
    start: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class Writer:
    """A new object on its way: it exists once it is closed.

    Until then its own container alone knows of it.
    """

    key: str
    opener: Opener
    spool: IO[bytes]
    written: int = 0
    published: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class Mountpoint(fuse.Operations):
    """One mounted bucket, or what is below a prefix of one."""

    use_ns = False

    def __init__(
        self, client: Any, bucket: str, prefix: str, read_only: bool, cache_s: float
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._read_only = read_only
        self._cache_s = cache_s
        self._handles: dict[int, Reader | Writer] = {}
        self._numbers = itertools.count(1)
        self._local_dirs: set[tuple[int, str]] = set()
        self._seen_dirs: dict[str, float] = {}
        self._no_dirs: dict[str, float] = {}
        self._heads: dict[str, tuple[float, dict[str, Any]]] = {}
        self._started = time.time()

    def init_with_config(self, conn_info: Any, config_3: Any) -> None:
        conn_info.max_write = WRITE_BYTES

    # --- looking
    def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
        handle = self._handles.get(fh.fh) if fh else None
        writer = handle if isinstance(handle, Writer) else self._writer_of(self._key(path))
        if writer is not None and not writer.published:
            return self._file(writer.written, time.time())
        if isinstance(handle, Reader):
            return self._file(handle.size, handle.modified)
        key = self._key(path)
        if (
            path == "/"
            or self._recently(self._seen_dirs, path, DIRECTORY_CACHE_S)
            or self._local(path) in self._local_dirs
        ):
            return self._dir()
        found = self._head(key, self._cache_s)
        if (
            found is None or not self._recently(self._no_dirs, path, NO_DIRECTORY_CACHE_S)
        ) and self._is_dir(path):
            return self._dir()
        if found is None:
            raise failed(errno.ENOENT)
        return self._file(found["ContentLength"], found["LastModified"].timestamp())

    def readdir(self, path: str, fh: Any) -> Iterator[Any]:
        below = self._key(path) + "/" if path != "/" else self._prefix
        names, here = {".", ".."}, path.rstrip("/")
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=below, Delimiter="/"
        )
        for page in pages:
            names |= {
                common["Prefix"][len(below) : -1] for common in page.get("CommonPrefixes", [])
            }
            files = {one["Key"][len(below) :] for one in page.get("Contents", [])}
            self._no_dirs.update({f"{here}/{name}": time.monotonic() for name in files - names})
            names |= files
        session = self._local("")[0]
        names |= {
            one[len(here) + 1 :]
            for owner, one in self._local_dirs
            if owner == session and one.rpartition("/")[0] == here
        }
        return iter(sorted(name for name in names if name and "\0" not in name))

    def _is_dir(self, path: str) -> bool:
        if path == "/" or self._local(path) in self._local_dirs:
            return True
        page = self._client.list_objects_v2(
            Bucket=self._bucket, Prefix=self._key(path) + "/", MaxKeys=1
        )
        (self._seen_dirs if page.get("KeyCount") else self._no_dirs)[path] = time.monotonic()
        return bool(page.get("KeyCount"))

    @staticmethod
    def _recently(seen: dict[str, float], path: str, within_s: float) -> bool:
        return time.monotonic() - seen.get(path, -within_s) < within_s

    def _head(self, key: str, cache_s: float) -> dict[str, Any] | None:
        since, found = self._heads.get(key, (0.0, {}))
        if found and time.monotonic() - since < cache_s:
            return found
        try:
            found = self._client.head_object(Bucket=self._bucket, Key=key)
        except botocore.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise failed(errno.EIO) from error
        self._heads[key] = (time.monotonic(), found)
        return found

    # --- reading
    def open(self, path: str, fi: Any) -> int:
        if fi.flags & ACCESS == os.O_RDONLY:
            return self._open_reader(path, fi)
        self._refuse_if_read_only()
        if not fi.flags & os.O_TRUNC:
            raise failed(errno.EINVAL if fi.flags & os.O_APPEND else errno.EPERM)
        return self._open_writer(path, fi)

    def _open_reader(self, path: str, fi: Any) -> int:
        key = self._key(path)
        if self._writer_of(key) is not None:
            raise failed(errno.EPERM)
        found = self._head(key, LOOKUP_S)
        if found is None:
            raise failed(errno.ENOENT)
        fi.fh = next(self._numbers)
        fi.direct_io = 1
        self._handles[fi.fh] = Reader(
            key, found["ETag"], found["ContentLength"], found["LastModified"].timestamp()
        )
        return 0

    def read(self, path: str | None, size: int, offset: int, fh: Any) -> bytes:
        handle = self._handles[fh.fh]
        if not isinstance(handle, Reader):
            raise failed(errno.EBADF)
        with handle.lock:
            end = min(offset + size, handle.size)
            if offset >= end:
                return b""
            if not handle.start <= offset < end <= handle.start + len(handle.window):
                last = min(max(end, offset + WINDOW_BYTES), handle.size) - 1
                handle.window, handle.start = self._fetch(handle, offset, last), offset
            return handle.window[offset - handle.start : end - handle.start]

    def _fetch(self, handle: Reader, first: int, last: int) -> bytes:
        try:
            answer = self._client.get_object(
                Bucket=self._bucket,
                Key=handle.key,
                Range=f"bytes={first}-{last}",
                IfMatch=handle.etag,
            )
            body: bytes = answer["Body"].read()
        except botocore.exceptions.ClientError as error:
            gone = error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 412)
            raise failed(errno.ESTALE if gone else errno.EIO) from error
        return body

    # --- writing
    def create(self, path: str, mode: int, fi: Any = None) -> int:
        self._refuse_if_read_only()
        return self._open_writer(path, fi)

    def _open_writer(self, path: str, fi: Any) -> int:
        if fi.flags & os.O_APPEND:
            raise failed(errno.EINVAL)
        key = self._key(path)
        if self._writer_of(key) is not None:
            raise failed(errno.EPERM)
        fi.fh = next(self._numbers)
        fi.direct_io = 1
        self._handles[fi.fh] = Writer(key, Opener.now(), tempfile.TemporaryFile())  # noqa: SIM115
        return 0

    def write(self, path: str | None, data: bytes, offset: int, fh: Any) -> int:
        handle = self._handles[fh.fh]
        if not isinstance(handle, Writer):
            raise failed(errno.EBADF)
        with handle.lock:
            if handle.published:
                raise failed(errno.EIO)
            if offset != handle.written:
                raise failed(errno.EINVAL)
            handle.spool.write(data)
            handle.written += len(data)
        return len(data)

    def truncate(self, path: str, length: int, fh: Any = None) -> int:
        self._refuse_if_read_only()
        writer = self._writer_of(self._key(path))
        if writer is None or length != writer.written:
            raise failed(errno.EPERM)
        return 0

    def flush(self, path: str | None, fh: Any) -> int:
        handle = self._handles[fh.fh]
        if isinstance(handle, Writer) and Opener.now().process == handle.opener.process:
            self._publish(handle)
        return 0

    def fsync(self, path: str | None, datasync: int, fh: Any) -> int:
        handle = self._handles[fh.fh]
        if isinstance(handle, Writer):
            self._publish(handle)
        return 0

    def release(self, path: str | None, fh: Any) -> int:
        handle = self._handles[fh.fh]
        if isinstance(handle, Writer):
            with contextlib.suppress(fuse.FuseOSError):
                self._publish(handle)
            handle.spool.close()
        del self._handles[fh.fh]
        return 0

    def _publish(self, writer: Writer) -> None:
        with writer.lock:
            if writer.published:
                return
            writer.spool.seek(0)
            try:
                self._client.put_object(Bucket=self._bucket, Key=writer.key, Body=writer.spool)
            except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
                raise failed(errno.EIO) from error
            finally:
                writer.published = True
                self._heads.pop(writer.key, None)
        above = "/" + writer.key[len(self._prefix) :]
        while above := above.rpartition("/")[0]:
            self._local_dirs -= {one for one in self._local_dirs if one[1] == above}

    # --- names
    def mkdir(self, path: str, mode: int) -> int:
        self._refuse_if_read_only()
        if self._is_dir(path) or self._head(self._key(path), 0) is not None:
            raise failed(errno.EEXIST)
        self._local_dirs.add((Opener.now().session, path))
        return 0

    def rmdir(self, path: str) -> int:
        self._refuse_if_read_only()
        if self._local(path) not in self._local_dirs or any(
            one.startswith(path + "/") for _, one in self._local_dirs
        ):
            raise failed(errno.ENOTEMPTY)
        self._local_dirs.discard(self._local(path))
        return 0

    def unlink(self, path: str) -> int:
        self._refuse_if_read_only()
        key = self._key(path)
        if self._writer_of(key) is not None:
            raise failed(errno.EPERM)
        self._client.delete_object(Bucket=self._bucket, Key=key)
        self._heads.pop(key, None)
        self._seen_dirs.clear()
        return 0

    def rename(self, old: str, new: str) -> int:
        self._refuse_if_read_only()
        raise failed(errno.EPERM)

    def chmod(self, path: str, mode: int) -> int:
        self._refuse_if_read_only()
        raise failed(errno.EPERM)

    def chown(self, path: str, uid: int, gid: int) -> int:
        return self.chmod(path, 0)

    def utimens(self, path: str, times: Any = None) -> int:
        return self.chmod(path, 0)

    def symlink(self, target: str, source: str) -> int:
        raise failed(errno.EPERM)

    def link(self, target: str, source: str) -> int:
        raise failed(errno.EPERM)

    def mknod(self, path: str, mode: int, dev: int) -> int:
        raise failed(errno.EPERM)

    def statfs(self, path: str) -> dict[str, int]:
        return {
            "f_bsize": 4096,
            "f_frsize": 4096,
            "f_blocks": 1 << 40,
            "f_bavail": 1 << 40,
            "f_bfree": 1 << 40,
            "f_namemax": 255,
        }

    def _key(self, path: str) -> str:
        return self._prefix + path.lstrip("/")

    def _writer_of(self, key: str) -> Writer | None:
        """The unfinished object of this name that the caller's container writes."""
        writers = [
            one
            for one in list(self._handles.values())
            if isinstance(one, Writer) and one.key == key and not one.published
        ]
        session = Opener.now().session if writers else 0
        return next((one for one in writers if one.opener.session == session), None)

    def _local(self, path: str) -> tuple[int, str]:
        return Opener.now().session if self._local_dirs else 0, path

    def _refuse_if_read_only(self) -> None:
        if self._read_only:
            raise failed(errno.EROFS)

    def _file(self, size: int, mtime: float) -> dict[str, Any]:
        return {
            "st_mode": stat.S_IFREG | 0o644,
            "st_nlink": 1,
            "st_size": size,
            "st_blocks": (size + 511) // 512,
            **_times(mtime),
        }

    def _dir(self) -> dict[str, Any]:
        return {
            "st_mode": stat.S_IFDIR | 0o755,
            "st_nlink": 2,
            "st_size": 0,
            **_times(self._started),
        }


def _times(at: float) -> dict[str, Any]:
    return {
        "st_mtime": at,
        "st_ctime": at,
        "st_atime": at,
        "st_uid": os.getuid(),
        "st_gid": os.getgid(),
    }


def serve(settings: dict[str, Any], keeper: int) -> None:
    """Mount a bucket, and serve it until it is unmounted or `keeper`, a pipe, ends."""
    client = s3_client(settings)
    if not settings.get("trial"):
        client.list_objects_v2(Bucket=settings["bucket"], MaxKeys=1)
    files = Mountpoint(
        client, settings["bucket"], settings["prefix"], settings["read_only"], settings["cache_s"]
    )

    def end_with_keeper() -> None:
        os.read(keeper, 1)
        ctypes.CDLL(None).umount2(settings["path"].encode(), DETACH)
        os._exit(0)

    threading.Thread(target=end_with_keeper, daemon=True).start()
    cache_s = settings["cache_s"]
    fuse.FUSE(
        files,
        settings["path"],
        raw_fi=True,
        foreground=True,
        ro=settings["read_only"],
        fsname=f"offline-{settings['bucket']}",
        attr_timeout=cache_s,
        entry_timeout=cache_s,
        negative_timeout=0,
    )


def main() -> None:
    """Fork a process for each line of settings, and say its number: it starts ten times faster than
    an interpreter with boto3.

    Standard input: JSON lines, with `errors`, a file for what the process prints. At its end all
    mounts go.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system buries them
    s3_client({"endpoint": "http://127.0.0.1:9", "credentials": {}})  # loads what all clients share
    keeper, held = os.pipe()
    for line in sys.stdin:
        settings = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.close(held)
            os.setsid()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            errors = os.open(settings["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(errors, 1)
            os.dup2(errors, 2)
            try:
                serve(settings, keeper)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(1)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
