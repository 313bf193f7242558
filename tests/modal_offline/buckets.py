"""CloudBucketMounts of containers: a FUSE process for each where that works, else a directory kept
alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from modal_proto import api_pb2

from tests.modal_offline.s3 import s3_client
from tests.modal_offline.world import World

REPOSITORY = Path(__file__).resolve().parents[2]
MOUNT_S = 20.0


@dataclass(eq=False)
class BucketMount:
    """A bucket at a path, and the containers that use it."""

    path: Path
    settings: dict[str, Any] = field(repr=False)
    users: set[str] = field(default_factory=set)
    process: int | None = None
    """The number of the process that serves it, where it is a file system."""
    etags: dict[str, str] = field(default_factory=dict)
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return "fuse" if self.process else "directory"

    @property
    def read_only(self) -> bool:
        return bool(self.settings["read_only"])


class Buckets:
    """The mounts of one stand-in; containers with the same definition share one."""

    def __init__(
        self,
        world: World,
        s3_endpoint: str | None,
        aws: dict[str, str] | None,
        cache_s: float = 0.0,
    ) -> None:
        self._world = world
        self._endpoint = s3_endpoint or ""
        self._aws = aws or {}
        self._cache_s = cache_s
        self.active: dict[Path, BucketMount] = {}
        self._locks: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def attach(self, task_id: str, definition: api_pb2.Function) -> None:
        """Mount what a function declares. Raises where a bucket cannot be reached."""
        await asyncio.gather(
            *(self._attach(task_id, declared) for declared in definition.cloud_bucket_mounts)
        )

    async def _attach(self, task_id: str, declared: api_pb2.CloudBucketMount) -> None:
        settings, path = self._settings(declared), Path(declared.mount_path)
        async with self._locks[path]:
            mount = self.active.get(path)
            if mount is not None and mount.settings != settings:
                if mount.users:
                    raise OSError(f"{path} is in use with other settings")
                await asyncio.to_thread(unmount, mount)
                mount = None
            if mount is None:
                mount = BucketMount(path, settings)
                await asyncio.to_thread(open_mount, mount)
                self.active[path] = mount
            mount.users.add(task_id)

    def detach(self, task_id: str) -> None:
        for mount in self.active.values():
            mount.users.discard(task_id)

    async def pull(self, task_id: str) -> None:
        await self._copy(task_id, pull)

    async def push(self, task_id: str) -> None:
        await self._copy(task_id, push)

    async def _copy(self, task_id: str, copy: Any) -> None:
        for mount in list(self.active.values()):
            if task_id in mount.users and mount.kind == "directory":
                async with self._locks[mount.path]:
                    await asyncio.to_thread(copy, mount)

    def close(self) -> None:
        for mount in self.active.values():
            unmount(mount)
        self.active.clear()

    def _settings(self, declared: api_pb2.CloudBucketMount) -> dict[str, Any]:
        secret = (
            self._world.secret(declared.credentials_secret_id)
            if declared.credentials_secret_id
            else self._aws
        )
        return {
            "bucket": declared.bucket_name,
            "path": declared.mount_path,
            "prefix": declared.key_prefix,
            "read_only": declared.read_only,
            "endpoint": declared.bucket_endpoint_url or self._endpoint,
            "credentials": {
                name: value for name, value in secret.items() if name.startswith("AWS_")
            },
            "cache_s": self._cache_s,
        }


def open_mount(mount: BucketMount) -> None:
    mount.path.mkdir(parents=True, exist_ok=True)
    if mount_kind() == "fuse":
        mount.process = start_fuse(mount.settings)
    else:
        s3_client(mount.settings).list_objects_v2(Bucket=mount.settings["bucket"], MaxKeys=1)


def unmount(mount: BucketMount) -> None:
    if mount.process is not None:
        stop_fuse(mount.process, mount.path)
    else:
        shutil.rmtree(mount.path, ignore_errors=True)


class _Starter:
    """The process that forks one for each mount, started with the first."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.modal_offline.mountpoint"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self, settings: dict[str, Any]) -> int:
        """The number of a process that is about to mount what the settings say."""
        with self._turn:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.write(json.dumps(settings) + "\n")
            self.process.stdin.flush()
            reported = self.process.stdout.readline()
            if not reported.strip():
                raise OSError("what mounts file systems cannot even start: is libfuse3 installed?")
            return int(reported)


@cache
def _starter() -> _Starter:
    return _Starter()


def start_fuse(settings: dict[str, Any]) -> int:
    """The number of a process that serves a bucket at a path, once it is mounted.

    Raises with the process's last words.
    """
    path = Path(settings["path"])
    with tempfile.NamedTemporaryFile("r") as errors:
        pid = _starter().start({**settings, "errors": errors.name})
        deadline = time.monotonic() + MOUNT_S
        while not path.is_mount():
            if not psutil.pid_exists(pid) or time.monotonic() > deadline:
                _kill(pid)
                raise OSError(
                    f"{settings['bucket']} cannot be mounted at {path}: {errors.read()[-1000:]}"
                )
            time.sleep(0.005)
    return pid


def stop_fuse(pid: int, path: Path) -> None:
    """Unmount; the process ends by that."""
    unmounting = ["umount", "-l"] if os.getuid() == 0 else ["fusermount3", "-uz"]
    subprocess.run([*unmounting, str(path)], capture_output=True)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.005)
    _kill(pid)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@cache
def mount_kind() -> str:
    """`fuse` where a file system can be mounted here, found by mounting one; else `directory`, or
    where the tests ask for it.
    """
    if os.environ.get("TIDEMILL_TEST_MOUNTS") == "directory":
        return "directory"
    folder = Path(tempfile.mkdtemp(prefix="offline-fuse-"))
    settings = {
        "bucket": "none",
        "path": str(folder),
        "prefix": "",
        "read_only": True,
        "endpoint": "http://127.0.0.1:9",
    }
    try:
        process = start_fuse({**settings, "credentials": {}, "cache_s": 0, "trial": True})
    except OSError:
        return "directory"
    else:
        stop_fuse(process, folder)
        return "fuse"
    finally:
        folder.rmdir()


def pull(mount: BucketMount) -> None:
    """Make a directory equal to what is in the bucket."""
    client, prefix = s3_client(mount.settings), mount.settings["prefix"]
    there: dict[str, tuple[str, float]] = {}
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=mount.settings["bucket"], Prefix=prefix
    )
    for one in (one for page in pages for one in page.get("Contents", [])):
        name = one["Key"][len(prefix) :]
        if all(part not in ("", ".", "..") for part in name.split("/")):
            there[name] = one["ETag"], one["LastModified"].timestamp()
    for name in set(mount.etags) - set(there):
        (mount.path / name).unlink(missing_ok=True)
        del mount.etags[name]
    for name, (etag, modified_s) in there.items():
        if mount.etags.get(name) != etag:
            path = mount.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(mount.settings["bucket"], prefix + name, str(path))
            os.utime(path, (modified_s, modified_s))
            mount.etags[name] = etag
            mount.seen[name] = stamp(path)


def push(mount: BucketMount) -> None:
    """Upload what was written into a directory, and delete what was deleted."""
    if mount.read_only:
        return
    client, prefix = s3_client(mount.settings), mount.settings["prefix"]
    here = {
        str(path.relative_to(mount.path)): path for path in mount.path.rglob("*") if path.is_file()
    }
    for name, path in here.items():
        if mount.seen.get(name) != stamp(path):
            with path.open("rb") as body:
                answer = client.put_object(
                    Bucket=mount.settings["bucket"], Key=prefix + name, Body=body
                )
            mount.etags[name], mount.seen[name] = answer["ETag"], stamp(path)
    for name in set(mount.etags) - set(here):
        client.delete_object(Bucket=mount.settings["bucket"], Key=prefix + name)
        del mount.etags[name]


def stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
