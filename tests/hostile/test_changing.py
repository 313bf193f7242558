"""Sources that change while user code reads them: rows of one version only, or none; and nothing in
the bucket makes a run hang.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ObjectNotFound, SourceChanged
from tests.contract.test_store import make_store, run
from tests.support.helpers import ROOT, Project

BODY = b"0123456789" * 4000


def content(store: Any, key: str) -> Any:
    head = run(store.head(key))
    return store.open_content(key, head.etag, head.size_bytes)


def grow(store: Any, path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more" * 100)


def cut(store: Any, path: Path) -> None:
    os.truncate(path, 100)


def empty(store: Any, path: Path) -> None:
    os.truncate(path, 0)


def replace(store: Any, path: Path) -> None:
    run(store.put("up/a", b"another"))


def same_size(store: Any, path: Path) -> None:
    run(store.put("up/a", BODY[::-1]))


def delete(store: Any, path: Path) -> None:
    run(store.delete(["up/a"]))


def pipe(store: Any, path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def listening(store: Any, path: Path) -> None:
    path.unlink()
    bound(path)


def bound(path: Path) -> None:
    """A socket at this path. Their names are short: it is reached from its folder."""
    make = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
    subprocess.run([sys.executable, "-c", make, path.name], cwd=path.parent, check=True)


def link(store: Any, path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def folder(store: Any, path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES: dict[Callable[[Any, Path], None], type[Exception]] = {
    grow: SourceChanged, cut: SourceChanged, empty: SourceChanged,
    replace: SourceChanged, same_size: SourceChanged,
    delete: ObjectNotFound, pipe: SourceChanged, listening: SourceChanged,
    link: (SourceChanged, ObjectNotFound), folder: SourceChanged,
}  # fmt: skip


@pytest.mark.parametrize("how", ["read", "open", "path"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_a_file_that_changes_is_reported_whatever_was_read(
    change: Callable[[Any, Path], None], how: str, tmp_path: Path
) -> None:
    """Before the first byte, or in the middle of the stream; whether or not the user's code saw an
    error.
    """
    store = make_store("local", tmp_path)
    run(store.put("up/a", BODY))
    path = tmp_path / "up" / "a"
    before, midway = content(store, "up/a"), content(store, "up/a")
    stream = midway.open()
    assert stream.read(100) == BODY[:100]
    change(store, path)
    with pytest.raises((SourceChanged, ObjectNotFound)):
        getattr(before, how)()
    stream.read()
    for one in (before, midway):
        assert isinstance(one.problem(), CHANGES[change])
        one.close()


@pytest.mark.parametrize("change", [replace, same_size, delete], ids=lambda c: c.__name__)
def test_an_object_that_changes_is_never_read_in_two_versions(
    change: Callable[[Any, Path], None], tmp_path: Path
) -> None:
    """On S3 every range is asked for at the version: the stream breaks off, and says so."""
    store = make_store("moto", tmp_path)
    run(store.put("up/a", BODY * 500))  # more than two ranges
    one = content(store, "up/a")
    stream = one.open()
    assert stream.read(100) == BODY[:100]
    change(store, tmp_path)
    with pytest.raises((SourceChanged, ObjectNotFound)):
        stream.read()
    assert isinstance(one.problem(), CHANGES[change])
    one.close()


SOURCE = """
import os
from pipeline import Pipeline

p = Pipeline("p", source="up/")

def change(obj):
    if obj.name == "grows":
        open(obj.path, "ab").write(b"more")
    elif obj.name == "cut":
        os.truncate(obj.path, 3)
    elif obj.name == "replaced":
        open(f"{obj.path}.new", "wb").write(b"newer and longer")
        os.rename(f"{obj.path}.new", obj.path)
    elif obj.name == "deleted":
        os.unlink(obj.path)

@p.transform
def f(obj):
    flag = os.path.join(os.environ["FLAGS"], obj.name)
    stream = obj.open()
    first = stream.read(5)
    if not os.path.exists(flag):
        open(flag, "w").close()
        change(obj)
    return [{"first": first.decode(), "rest": len(stream.read())}]
"""


def test_a_run_commits_one_version_of_files_that_change_under_it(tmp_path: Path) -> None:
    """The attempt's rows do not count; the same run goes on with the new version, or forgets the
    file.
    """
    (tmp_path / "flags").mkdir()
    project = Project(tmp_path, SOURCE, FLAGS=str(tmp_path / "flags"))
    for name in ("grows", "cut", "replaced", "deleted", "stays"):
        project.upload(name, b"first version")
    project.run()
    bodies = {p.name: p.read_bytes().decode() for p in (project.root / "up").iterdir()}
    assert bodies == {
        "grows": "first versionmore",
        "cut": "fir",
        "replaced": "newer and longer",
        "stays": "first version",
    }
    rows = project.sql("SELECT _source_key, first, rest FROM p ORDER BY 1")
    wanted = [
        {"_source_key": f"up/{n}", "first": b[:5], "rest": len(b[5:])}
        for n, b in sorted(bodies.items())
    ]
    assert rows == wanted
    project.audit()


def test_what_is_no_file_never_stops_a_run(tmp_path: Path) -> None:
    """Pipes, sockets, devices, loops of links and empty files: skipped, or processed; never waited
    for.
    """
    (tmp_path / "flags").mkdir()
    project = Project(tmp_path, SOURCE, FLAGS=str(tmp_path / "flags"))
    project.upload("empty", b"")
    project.upload("good", b"hello world")
    up = project.root / "up"
    os.mkfifo(up / "pipe")
    (up / "loop").symlink_to("loop")
    (up / "zero").symlink_to("/dev/zero")
    (up / "self").symlink_to(".")
    if os.geteuid() == 0:
        os.mknod(up / "device", 0o600 | 0o020000, os.makedev(1, 5))
    bound(up / "socket")
    report = project.run()
    assert (report["committed"], report["quarantined"]) == (2, 0)
    assert [r["_source_key"] for r in project.sql("SELECT _source_key FROM p ORDER BY 1")] == [
        "up/empty",
        "up/good",
    ]
    project.audit()


STREAM = """
import resource, sys
from pathlib import Path
from pipeline.work.object import Object
from pipeline.stores import open_store
import asyncio
url, key, endpoint = sys.argv[1:4]
store = open_store(url, endpoint_url=endpoint or None, region="us-east-1")
head = asyncio.run(store.head(key))
content = store.open_content(key, head.etag, head.size_bytes)
obj = Object(key, head.etag, head.size_bytes, head.modified_us, content)
with obj.open() as warm:
    warm.read(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
n = 0
with obj.open() as stream:
    while part := stream.read(2**20):
        n += len(part)
    stream.seek(-3, 2)
    assert stream.read() == b"end"
assert content.problem() is None
content.close()
print(n, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def streamed(url: str, key: str, endpoint: str = "") -> tuple[int, int]:
    """Bytes read through `obj.open()` by a process of its own, and by how many MB its peak memory
    rose.
    """
    command = [sys.executable, "-c", STREAM, url, key, endpoint]
    reported = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    return int(reported[0]), int(reported[1])


def sparse(path: Path, size: int) -> None:
    """A file of zeros, with `end` at its end, that takes no room."""
    with open(path, "wb") as file:
        file.truncate(size - 3)
        file.seek(size - 3)
        file.write(b"end")


def test_a_large_file_is_streamed_in_bounded_memory(tmp_path: Path) -> None:
    """`python -m tests.hostile --large` does the same with 10 GB."""
    sparse(tmp_path / "large", 2**29)
    size, grown_mb = streamed(tmp_path.as_uri(), "large")
    assert size == 2**29
    assert grown_mb < 16


def test_a_large_object_is_streamed_in_bounded_memory(tmp_path: Path) -> None:
    """By ranges of 8 MB, of which two may be held at once."""
    from tests.support.servers import moto_url

    store = make_store("moto", tmp_path)
    name, path = secrets.token_hex(4), tmp_path / "large"
    sparse(path, 64 * 2**20)
    run(store.put_file(name, path))
    size, grown_mb = streamed(store.url, name, moto_url())
    assert size == 64 * 2**20
    assert grown_mb < 40


def test_reading_a_file_of_more_than_one_read_gives_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux gives at most 2 GiB in one read; a file that grows faster than it is read must not be
    read for ever.
    """
    from pipeline.stores.local import content as local_content

    monkeypatch.setattr(local_content, "ONE_READ_BYTES", 10)
    store = make_store("local", tmp_path)
    run(store.put("big", BODY))
    one = content(store, "big")
    assert one.read() == BODY
    assert one.problem() is None
