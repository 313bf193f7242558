"""Buckets as file systems: Mountpoint's semantics where FUSE works, and the same
files either way.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import modal
import pytest

from tests.modal_offline import Offline, buckets, mount_kind
from tests.support.servers import KEYS, moto_url

fuse_only = pytest.mark.skipif(
    mount_kind() != "fuse", reason="no FUSE here: run as root with /dev/fuse and libfuse3-3"
)


class Bucket:
    """A bucket of its own for each test."""

    def __init__(self) -> None:
        keys = {
            "aws_access_key_id": KEYS["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": KEYS["AWS_SECRET_ACCESS_KEY"],
        }
        self.client: Any = boto3.client(
            "s3", endpoint_url=moto_url(), region_name="us-east-1", **keys
        )
        self.name = f"b-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=self.name)

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=body)

    def get(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def keys(self) -> list[str]:
        return [
            one["Key"] for one in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        ]


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def mounted(bucket: Bucket, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts the bucket at a path of its own; all are unmounted at the end."""
    started: list[tuple[Any, Path]] = []

    def mount(prefix: str = "", read_only: bool = False) -> Path:
        path = tmp_path / f"mnt{len(started)}"
        path.mkdir()
        settings = {
            "bucket": bucket.name,
            "path": str(path),
            "prefix": prefix,
            "read_only": read_only,
        }
        process = buckets.start_fuse(
            {**settings, "endpoint": moto_url(), "credentials": KEYS, "cache_s": 0}
        )
        started.append((process, path))
        return path

    yield mount
    for process, path in started:
        buckets.stop_fuse(process, path)


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises(OSError) as caught:
        action()
    return errno.errorcode[caught.value.errno or 0]


@fuse_only
class TestMountpoint:
    def test_a_file_appears_when_it_is_closed(
        self, bucket: Bucket, mounted: Callable[..., Path]
    ) -> None:
        """Not before; also where an exception closes it; and an empty one too."""
        path = mounted()
        with (path / "a.txt").open("wb") as file:
            file.write(b"x" * 300_000)
            file.flush()
            assert bucket.keys() == []
        assert bucket.get("a.txt") == b"x" * 300_000

        def half() -> None:
            with (path / "half").open("wb") as file:
                file.write(b"half")
                raise ConnectionError

        with pytest.raises(ConnectionError):
            half()
        assert bucket.get("half") == b"half"
        (path / "empty").touch(exist_ok=False)
        assert bucket.get("empty") == b""

    def test_a_killed_writer_publishes_what_it_wrote(
        self, bucket: Bucket, mounted: Callable[..., Path]
    ) -> None:
        """SIGKILL closes the file, so the truncated object appears."""
        path = mounted()
        code = (
            "import"
            f" os,time\nf=open({str(path / 'cut')!r},'wb',0)\n"
            "f.write(b'cut')\nprint(1,flush=True)\ntime.sleep(60)"
        )
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        assert bucket.keys() == []
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        deadline = time.monotonic() + 10
        while not bucket.keys() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert bucket.get("cut") == b"cut"

    def test_a_child_that_inherits_a_file_does_not_publish_it(
        self, bucket: Bucket, mounted: Callable[..., Path]
    ) -> None:
        """Only the process that opened a file completes it by closing."""
        with (mounted() / "a").open("wb") as file:
            os.set_inheritable(file.fileno(), True)
            subprocess.run(["/bin/true"], close_fds=False, check=True)
            assert bucket.keys() == []
            file.write(b"whole")
        assert bucket.get("a") == b"whole"

    def test_another_container_sees_a_file_once_it_is_closed(
        self, bucket: Bucket, mounted: Callable[..., Path]
    ) -> None:
        """An unfinished file, and a directory without files, are known in their own
        container only.
        """
        path = mounted()
        look = (
            f"import os; print(os.path.exists({str(path / 'a')!r}),"
            f" os.path.exists({str(path / 'd')!r}))"
        )
        command = [sys.executable, "-c", look]
        with (path / "a").open("wb") as file:
            (path / "d").mkdir()
            file.write(b"1")
            assert (path / "a").exists()
            elsewhere = subprocess.run(
                command, start_new_session=True, capture_output=True, text=True
            )
            assert elsewhere.stdout == "False False\n"
            assert subprocess.run(command, capture_output=True, text=True).stdout == "True True\n"
        elsewhere = subprocess.run(command, start_new_session=True, capture_output=True, text=True)
        assert elsewhere.stdout == "True False\n"

    def test_files_are_written_once_from_start_to_end(
        self, bucket: Bucket, mounted: Callable[..., Path]
    ) -> None:
        """No append, no write in the middle, no truncation; overwriting takes O_TRUNC."""
        path = mounted()
        bucket.put("old", b"old content")
        assert error_of(lambda: (path / "old").open("ab")) == "EINVAL"
        assert error_of(lambda: (path / "new").open("ab")) == "EINVAL"
        assert error_of(lambda: (path / "old").open("r+b")) == "EPERM"
        assert error_of(lambda: os.truncate(path / "old", 3)) == "EPERM"
        (path / "old").write_bytes(b"replaced")
        assert bucket.get("old") == b"replaced"
        with (path / "seek").open("wb", buffering=0) as file:
            file.write(b"abc")
            file.seek(1)
            assert error_of(lambda: file.write(b"z")) == "EINVAL"
        assert bucket.keys() == ["old", "seek"]

    def test_what_a_bucket_cannot_do(self, bucket: Bucket, mounted: Callable[..., Path]) -> None:
        """Rename, chmod and utime are refused; the copy of `shutil.copy` is there
        before it fails.
        """
        path = mounted()
        bucket.put("old", b"old")
        assert error_of(lambda: (path / "old").rename(path / "new")) == "EPERM"
        assert error_of(lambda: (path / "old").chmod(0o600)) == "EPERM"
        assert error_of(lambda: os.utime(path / "old")) == "EPERM"
        assert error_of(lambda: shutil.copy(path / "old", path / "copy")) == "EPERM"
        assert bucket.get("copy") == b"old"
        shutil.copyfile(path / "old", path / "copy")
        (path / "old").unlink()
        assert bucket.keys() == ["copy"]

    def test_directories(self, bucket: Bucket, mounted: Callable[..., Path]) -> None:
        """They are what keys imply; a new one is local until a file is in it; odd keys are out of
        reach.
        """
        for key in ("a/b/c.txt", "a//odd", "a/slash/", "top"):
            bucket.put(key, b"1")
        path = mounted()
        assert sorted(one.name for one in path.iterdir()) == ["a", "top"]
        assert sorted(one.name for one in (path / "a").iterdir()) == ["b", "slash"]
        assert [str(one.relative_to(path)) for one in path.rglob("*.txt")] == ["a/b/c.txt"]
        (path / "made" / "deep").mkdir(parents=True)
        assert (path / "made" / "deep").is_dir()
        assert len(bucket.keys()) == 4
        (path / "made" / "deep" / "file").write_text("x")
        assert bucket.get("made/deep/file") == b"x"
        assert error_of((path / "a").rmdir) == "ENOTEMPTY"
        assert error_of((path / "none").stat) == "ENOENT"

    def test_a_read_is_pinned_to_the_object_it_opened(
        self, bucket: Bucket, mounted: Callable[..., Path]
    ) -> None:
        """An overwrite fails a reader that has not read on yet; it never mixes.

        A new open sees it at once.
        """
        path = mounted()
        bucket.put("big", b"a" * 100)
        with (path / "big").open("rb", buffering=0) as file:
            bucket.put("big", b"b" * 50)
            assert error_of(lambda: file.read(10)) == "ESTALE"
        assert (path / "big").read_bytes() == b"b" * 50
        assert (path / "big").stat().st_size == 50
        modified = bucket.client.head_object(Bucket=bucket.name, Key="big")[
            "LastModified"
        ].timestamp()
        assert (path / "big").stat().st_mtime == modified

    def test_prefix_and_read_only(self, bucket: Bucket, mounted: Callable[..., Path]) -> None:
        """A prefix is the root of the mount; a read-only mount says so."""
        bucket.put("in/side", b"1")
        bucket.put("outside", b"2")
        inner, fixed = mounted(prefix="in/"), mounted(read_only=True)
        assert [one.name for one in inner.iterdir()] == ["side"]
        (inner / "more").write_bytes(b"3")
        assert bucket.get("in/more") == b"3"
        assert error_of(lambda: (fixed / "x").write_bytes(b"")) == "EROFS"
        assert error_of((fixed / "outside").unlink) == "EROFS"
        assert error_of((fixed / "d").mkdir) == "EROFS"
        assert (fixed / "outside").read_bytes() == b"2"

    def test_tables_are_written_and_read(self, mounted: Callable[..., Path]) -> None:
        """pyarrow and DuckDB work on it as they do on Mountpoint."""
        import duckdb
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = mounted()
        pq.write_table(pa.table({"n": list(range(200_000))}), path / "t.parquet")
        assert pq.read_table(path / "t.parquet").num_rows == 200_000
        assert duckdb.connect().execute(f"select sum(n) from '{path}/t.parquet'").fetchall() == [
            (19999900000,)
        ]


APP = """
import modal
from pathlib import Path
app = modal.App("mounts")
keys = modal.Secret.from_name("keys")
volumes = {
    "MNT/source": modal.CloudBucketMount("BUCKET", secret=keys, key_prefix="in/", read_only=True),
    "MNT/sink": modal.CloudBucketMount("BUCKET", secret=keys, key_prefix="out/"),
}

@app.function(volumes=volumes)
def copy(name):
    text = Path("MNT/source/" + name).read_text()
    Path("MNT/sink/" + name).write_text(text.upper())
    return text

@app.function(volumes={"MNT/none": modal.CloudBucketMount("no-such-bucket", secret=keys)})
def nowhere():
    pass
"""


@pytest.mark.parametrize("kind", ["fuse", "directory"])
def test_functions_read_and_write_buckets(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A declared mount is there in the container, by FUSE or as a directory; what is written is in
    the bucket.
    """
    if kind == "fuse" and mount_kind() != "fuse":
        pytest.skip("no FUSE here")
    monkeypatch.setattr(buckets, "mount_kind", lambda: kind)
    bucket.put("in/one", b"first")
    file = tmp_path / "mounts_app.py"
    file.write_text(APP.replace("MNT", str(tmp_path / "mnt")).replace("BUCKET", bucket.name))
    with Offline(tmp_path / "cloud", s3_endpoint=moto_url()) as cloud:
        cloud.secrets["keys"] = KEYS
        for name, value in cloud.env.items():
            monkeypatch.setenv(name, value)
        subprocess.run(
            [sys.executable, "-m", "modal", "deploy", str(file)], check=True, capture_output=True
        )
        copy = modal.Function.from_name("mounts", "copy")
        assert copy.remote("one") == "first"
        bucket.put("in/two", b"second")
        assert copy.remote("two") == "second"
        assert (bucket.get("out/one"), bucket.get("out/two")) == (b"FIRST", b"SECOND")
        assert {mount.kind for mount in cloud.bucket_mounts} == {kind}
        with pytest.raises(modal.exception.RemoteError, match="NoSuchBucket"):
            modal.Function.from_name("mounts", "nowhere").remote()
        assert len(cloud.problems()) == 2
    assert not (tmp_path / "mnt" / "sink").is_mount()
