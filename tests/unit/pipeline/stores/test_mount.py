"""Files through a mounted bucket: what is read is tied to the planned version, or said to be
unverified.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import (
    InputRejected,
    ObjectNotFound,
    SourceChanged,
    StoreError,
    StoreUnavailable,
)
from pipeline.model.receipt import Receipt
from pipeline.model.task import Assignment
from pipeline.runtime.system import WallClock
from pipeline.stores import mount
from pipeline.stores.mount import MountContent, MountContents, MountOutbox, Mounts
from pipeline.testing.memory_store import MemoryStore
from pipeline.work.object import Object
from pipeline.work.worker import AttemptLost, Code, Worker
from tests.support.builders import inputs_of, task_of

T0 = 1_700_000_000
"""When files were uploaded, in seconds."""
BODY = bytes(range(256)) * 20


def digest(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


class Mounted:
    """A directory that stands for the mounted source prefix `up/`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mounts = Mounts({"up/": str(root)})
        self.contents = MountContents(self.mounts)

    def upload(self, name: str, body: bytes, *, at_s: float = T0) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # a new file each time, as an upload is a new object
        path.write_bytes(body)
        os.utime(path, (at_s, at_s))
        return path

    def planned(
        self, name: str, body: bytes, *, etag: str | None = None, at_s: float = T0
    ) -> MountContent:
        """The object as it was when it was planned."""
        etag = digest(body) if etag is None else etag
        found = asyncio.run(self.contents.open(f"up/{name}", etag, len(body), int(at_s * 1e6)))
        assert isinstance(found, MountContent)
        return found


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    return Mounted(tmp_path)


# -- tied to the version ---------------------------------------------------------------------------

Reads = Callable[[MountContent], object]

WHOLE: dict[str, Reads] = {
    "read": lambda c: c.read(),
    "open and read": lambda c: c.open().read(),
    "in parts": lambda c: [(f := c.open()), *iter(lambda: f.read(100), b"")],
    "lines": lambda c: list(io.TextIOWrapper(c.open(), encoding="latin-1")),
    "the start, then all": lambda c: [(f := c.open()).read(10), f.seek(0), f.read()],
    "twice": lambda c: [c.read(), c.open().read()],
}
PARTLY: dict[str, Reads] = {
    "nothing": lambda c: c.open(),
    "the start": lambda c: c.open().read1(10),
    "with a gap": lambda c: [(f := c.open()).seek(mount.BUFFER_BYTES + 1), f.read()],
    "the path": lambda c: c.path().read_bytes(),
    "all, and the path": lambda c: [c.read(), c.path()],
    "all, and another file in part": lambda c: [c.read(), c.open().read1(10)],
}
LARGE = BODY * (2 * mount.BUFFER_BYTES // len(BODY) + 1)


@pytest.mark.parametrize("how", WHOLE)
def test_an_object_that_was_read_whole_is_verified_by_its_md5(mounted: Mounted, how: str) -> None:
    mounted.upload("a", BODY)
    content = mounted.planned("a", BODY)
    WHOLE[how](content)
    assert (content.unverified, content.problem()) == (False, None)
    assert content.bytes_read >= len(BODY)


@pytest.mark.parametrize("how", PARTLY)
def test_an_object_that_was_read_in_part_or_by_others_is_not(mounted: Mounted, how: str) -> None:
    mounted.upload("a", LARGE)
    content = mounted.planned("a", LARGE)
    PARTLY[how](content)
    assert (content.unverified, content.problem()) == (True, None)


@pytest.mark.parametrize(
    "etag", ["9b2cf535f27731c974343645a3985328-2", "", "0x8DB", digest(b"other")]
)
def test_an_etag_that_is_not_the_md5_verifies_nothing(mounted: Mounted, etag: str) -> None:
    mounted.upload("a", BODY)
    content = mounted.planned("a", BODY, etag=etag)
    assert content.read() == BODY
    assert (content.unverified, content.problem()) == (True, None)


def test_an_object_that_nobody_looked_into_needs_no_verification(mounted: Mounted) -> None:
    content = mounted.planned("not-even-there", BODY)
    assert (content.unverified, content.problem(), content.bytes_read) == (False, None, 0)


def test_other_bytes_of_the_same_size_and_second_are_not_verified(mounted: Mounted) -> None:
    other = b"x" * len(BODY)
    mounted.upload("a", other)
    content = mounted.planned("a", BODY)
    assert content.read() == other
    assert content.unverified, "whoever settles asks the store"


def test_an_empty_object_is_verified(mounted: Mounted) -> None:
    mounted.upload("a", b"")
    for read in (WHOLE["read"], WHOLE["open and read"]):
        content = mounted.planned("a", b"")
        read(content)
        assert (content.unverified, content.problem()) == (False, None)


@pytest.mark.parametrize(("shown", "planned"), [(0.0, 0.75), (0.75, 0.0), (0.25, 0.5)])
def test_fractions_of_a_second_do_not_count_for_a_mount_may_round_them(
    mounted: Mounted, shown: float, planned: float
) -> None:
    mounted.upload("a", BODY, at_s=T0 + shown)
    assert mounted.planned("a", BODY, at_s=T0 + planned).read() == BODY


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["read", "read1", "readinto", "seek"]), st.integers(0, 60)),
        st.tuples(st.just("forward"), st.integers(-20, 20)),
        st.tuples(st.just("rest"), st.just(-1)),
    ),
    max_size=12,
)


def walk(file: Any, body: bytes, todo: list[tuple[str, int]]) -> int:
    """Read as told, checking the bytes; how many were delivered without a gap from the start."""
    upto = 0
    for what, n in todo:
        at = file.tell()
        if what in ("seek", "forward"):
            file.seek(n if what == "seek" else max(0, at + n))
            continue
        if what == "readinto":
            buffer = bytearray(n)
            got = bytes(buffer[: file.readinto(buffer)])
        else:
            got = file.read1(n) if what == "read1" else file.read(n)
        assert got == body[at : at + len(got)]
        upto = max(upto, at + len(got)) if at <= upto else upto
    return upto


@given(st.integers(1, 50), st.integers(0, 49), steps)
@example(50, 0, [("seek", 30), ("read", 5), ("seek", 0), ("rest", -1)])
@example(50, 40, [("read", 5), ("seek", 30), ("read", 5), ("seek", 2), ("rest", -1)])
def test_however_an_object_is_read_it_is_verified_by_all_its_bytes_alone(
    size: int, at: int, todo: list[tuple[str, int]]
) -> None:
    body = BODY[:size]
    other = (
        body[: at % size] + b"~" + body[at % size + 1 :]
        if BODY[at % size] != ord("~")
        else body[:-1] + b"~"
    )
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(mount, "BUFFER_BYTES", 8)  # else one read fetches all
        mounted = Mounted(Path(folder))
        mounted.upload("a", body)
        content = mounted.planned("a", body)
        upto = walk(content.open(), body, todo)
        if upto == size:
            assert not content.unverified
        if not todo:
            assert content.unverified
        content.close()
        mounted.upload("a", other)
        content = mounted.planned("a", body)
        walk(content.open(), other, todo)
        assert content.unverified, (
            "one byte is another: no way of reading makes that the planned version"
        )
        content.close()


# -- not the version any more ----------------------------------------------------------------------


@pytest.mark.parametrize("read", [*WHOLE.values(), *PARTLY.values()], ids=[*WHOLE, *PARTLY])
@pytest.mark.parametrize("change", ["size", "time"])
def test_another_size_or_time_than_planned_is_a_change(
    mounted: Mounted, change: str, read: Reads
) -> None:
    mounted.upload(
        "a", BODY + b"+" if change == "size" else BODY, at_s=T0 + 1 if change == "time" else T0
    )
    content = mounted.planned("a", BODY)
    with pytest.raises(SourceChanged):
        read(content)
    assert isinstance(content.problem(), SourceChanged)
    assert not content.unverified, "there is nothing to verify"


@pytest.mark.parametrize("read", [*WHOLE.values(), *PARTLY.values()], ids=[*WHOLE, *PARTLY])
def test_a_deleted_object_is_not_found(mounted: Mounted, read: Reads) -> None:
    content = mounted.planned("a", BODY)
    with pytest.raises(ObjectNotFound):
        read(content)
    assert isinstance(content.problem(), ObjectNotFound)


def test_an_object_replaced_between_reads_is_a_change(mounted: Mounted) -> None:
    mounted.upload("a", BODY)
    content = mounted.planned("a", BODY)
    assert content.read() == BODY
    mounted.upload("a", BODY, at_s=T0 + 5)
    with pytest.raises(SourceChanged):
        content.read()
    assert isinstance(content.problem(), SourceChanged)


def test_an_object_replaced_after_the_last_read_is_noticed_in_the_end(mounted: Mounted) -> None:
    mounted.upload("a", BODY)
    content = mounted.planned("a", BODY)
    content.open().read1(10)
    mounted.upload("a", BODY + b"+")
    assert isinstance(content.problem(), SourceChanged)


def test_an_object_that_ends_early_is_a_change(
    mounted: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale attribute lets the opening pass; the bytes are another version's."""
    path = mounted.upload("a", BODY[:-1])
    content = mounted.planned("a", BODY)
    monkeypatch.setattr(MountContent, "_is_as_planned", lambda self, stat: True)
    with pytest.raises(SourceChanged):
        content.read()
    assert path.exists()
    assert isinstance(content.problem(), SourceChanged)


# -- a mount that is unwell ------------------------------------------------------------------------


class Unwell:
    """A mount that fails when files are opened or read, once told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opening = self.reading = 0

        def check(number: int) -> None:
            if number:
                raise OSError(number, os.strerror(number))

        class Failing(io.FileIO):
            def readinto(file, buffer: Any) -> int | None:
                check(self.reading)
                return super().readinto(buffer)

            def readall(file) -> bytes | None:
                check(self.reading)
                return super().readall()

        class Digested(mount._Digested, Failing):
            def __init__(file, *arguments: Any) -> None:
                check(self.opening)
                super().__init__(*arguments)

        monkeypatch.setattr(mount, "_Digested", Digested)


@pytest.fixture
def unwell(monkeypatch: pytest.MonkeyPatch) -> Unwell:
    return Unwell(monkeypatch)


@pytest.mark.parametrize("read", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("where", ["opening", "reading"])
def test_an_error_of_the_mount_is_no_verdict_about_an_unchanged_object(
    mounted: Mounted, unwell: Unwell, where: str, read: Reads
) -> None:
    mounted.upload("a", BODY)
    setattr(unwell, where, errno.EIO)
    content = mounted.planned("a", BODY)
    with pytest.raises(StoreUnavailable):
        read(content)
    assert isinstance(content.problem(), StoreUnavailable)


def test_a_read_that_fails_because_the_object_was_replaced_is_a_change(
    mounted: Mounted, unwell: Unwell
) -> None:
    """So does Mountpoint answer the reader of an object that was overwritten."""
    mounted.upload("a", BODY)
    content = mounted.planned("a", BODY)
    file = content.open()
    mounted.upload("a", BODY, at_s=T0 + 9)
    unwell.reading = errno.ESTALE
    with pytest.raises(SourceChanged):
        file.read()
    assert isinstance(content.problem(), SourceChanged)


# -- keys that no mount shows ----------------------------------------------------------------------

UNREACHABLE = ["a//b", "x/", "../a", "a/../b", "./a", "a/./b", "a/..", "/a", "a\0b", "..", "."]


@pytest.mark.parametrize("name", UNREACHABLE)
def test_a_key_that_no_mount_shows_is_refused_with_a_line_that_says_what_to_do(
    mounted: Mounted, name: str
) -> None:
    content = asyncio.run(mounted.contents.open(f"up/{name}", "e", 1, 0))
    problem = content.problem()
    assert isinstance(problem, InputRejected)
    assert "rename the object, or set access='api'" in str(problem)
    with pytest.raises(InputRejected):
        content.read()


@pytest.mark.parametrize(
    "name", ["a/b", "...", "a/.b", "..a/b", "a b", "ä/ü", "a/...", "new\nline", "d/\n", "-"]
)
def test_other_odd_keys_are_read(mounted: Mounted, name: str) -> None:
    mounted.upload(name, BODY)
    assert mounted.planned(name, BODY).read() == BODY


@pytest.mark.parametrize("read", [*WHOLE.values(), *PARTLY.values()], ids=[*WHOLE, *PARTLY])
def test_an_object_hidden_by_a_folder_of_its_name_cannot_be_reached(
    mounted: Mounted, read: Reads
) -> None:
    """S3 holds `a` and `a/b` side by side; a mount shows the folder.

    Else the object would seem changed, for ever.
    """
    mounted.upload("a/b", BODY)
    content = mounted.planned("a", BODY)
    with pytest.raises(InputRejected, match="rename the object"):
        read(content)
    assert isinstance(content.problem(), InputRejected)


def test_a_name_too_long_for_a_file_cannot_be_reached(mounted: Mounted) -> None:
    content = mounted.planned("x" * 300, BODY)
    with pytest.raises(InputRejected, match="rename the object"):
        content.read()


def test_the_longest_prefix_says_which_mount_shows_a_key(tmp_path: Path) -> None:
    mounts = Mounts({"up/": "/one", "up/deep/": "/two", "": "/all"})
    assert [str(mounts.path(k)) for k in ("up/a", "up/deep/a", "other/a")] == [
        "/one/a",
        "/two/a",
        "/all/other/a",
    ]
    with pytest.raises(InputRejected):
        Mounts({"up/": "/one"}).path("elsewhere/a")


# -- what a worker makes of it ---------------------------------------------------------------------


class Rows:
    """A writer that counts results."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}
        self.rejected: dict[int, int] = {}
        self.problems: dict[int, str] = {}
        self.broken: dict[str, int] = {}
        self.schema = None
        self.files: list[Any] = []

    def add(self, index: int, key: str, etag: str, result: Any, rejected: Any = ()) -> None:
        self.rows[index] = len(result)

    def finish(self) -> Any:
        return self

    def close(self) -> None:
        return None


def attempt(mounted: Mounted, call: Callable[[Object], object], *names: str) -> Receipt:
    n = len(names)
    columns = {
        "etags": [digest(BODY)] * n,
        "sizes": [len(BODY)] * n,
        "modified_us": [T0 * 1_000_000] * n,
    }
    task = task_of("t", inputs_of(*(f"up/{name}" for name in names), **columns))
    worker = Worker(
        store=MemoryStore(),
        contents=mounted.contents,
        home="h/",
        code=lambda name: Code(call, None),
        make_writer=lambda assignment: Rows(),
        clock=WallClock(),
        budget_s=60,
    )
    assignment = Assignment(pipeline="p", task=task, nonce="n", schema=None)
    return asyncio.run(worker.run(assignment, lambda position: None))


def read_all(obj: Object) -> list[bytes]:
    return [obj.open().read()]


def test_a_receipt_says_what_whoever_settles_has_to_verify(mounted: Mounted) -> None:
    for name in "abc":
        mounted.upload(name, BODY)
    receipt = attempt(
        mounted, lambda o: [o.path.read_bytes()] if o.name == "b" else read_all(o), "a", "b", "c"
    )
    assert (receipt.mounted, receipt.unverified, receipt.rows, receipt.problems) == (
        True,
        [1],
        [1, 1, 1],
        [],
    )
    assert receipt.bytes_read == 3 * len(BODY)


def swallowing(obj: Object) -> list[bytes]:
    try:
        return read_all(obj)
    except Exception:
        return []


@pytest.mark.parametrize(
    "call", [lambda o: [o.read()], read_all, lambda o: list(o.lines("latin-1")), swallowing]
)
@pytest.mark.parametrize("where", ["opening", "reading"])
def test_a_mount_that_is_unwell_loses_the_attempt_and_condemns_no_file(
    mounted: Mounted, unwell: Unwell, where: str, call: Callable[[Object], object]
) -> None:
    mounted.upload("a", BODY)
    setattr(unwell, where, errno.EIO)
    with pytest.raises((StoreUnavailable, AttemptLost)):
        attempt(mounted, call, "a")


@pytest.mark.parametrize("call", [read_all, swallowing])
def test_stale_gone_and_unreachable_files_cost_their_neighbours_nothing(
    mounted: Mounted, call: Callable[[Object], object]
) -> None:
    mounted.upload("a", BODY)
    mounted.upload("b", BODY, at_s=T0 + 7)
    mounted.upload("folder/x", BODY)
    receipt = attempt(mounted, call, "a", "b", "c", "d//e", "folder")
    found = {p.index: p for p in receipt.problems}
    assert {i: p.status for i, p in found.items()} == {
        1: "stale",
        2: "gone",
        3: "failed",
        4: "failed",
    }
    assert all("rename the object" in found[i].reason for i in (3, 4))
    assert receipt.rows[0] == 1


# -- writing ---------------------------------------------------------------------------------------


@pytest.fixture
def outbox(tmp_path: Path) -> MountOutbox:
    return MountOutbox(
        Mounts({"out/": str(tmp_path / "out"), "receipts/": str(tmp_path / "receipts")})
    )


def test_objects_are_put_and_fetched(outbox: MountOutbox, tmp_path: Path) -> None:
    async def work() -> None:
        await outbox.put("receipts/t.n.json", b"{}")
        (tmp_path / "rows").write_bytes(BODY)
        (tmp_path / "rows").chmod(0o400)
        await outbox.put_file("out/rows/day=1/t.n.0.parquet", tmp_path / "rows")
        assert await outbox.fetch("receipts/t.n.json") == b"{}"
        assert await outbox.fetch("out/rows/day=1/t.n.0.parquet") == BODY
        assert await outbox.fetch("receipts/none") is None

    asyncio.run(work())


def test_only_what_every_mount_takes_is_asked_of_it(
    outbox: MountOutbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rename, no permissions, no times: Mountpoint refuses them after the object is there."""

    def refused(*arguments: Any, **options: Any) -> Any:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    for name in ("rename", "replace", "link", "chmod", "utime", "fsync"):
        monkeypatch.setattr(os, name, refused)
    (tmp_path / "rows").write_bytes(BODY)

    async def work() -> None:
        await outbox.put_file("out/rows/a", tmp_path / "rows")
        await outbox.put("out/rows/b", BODY)
        assert [await outbox.fetch(f"out/rows/{name}") for name in "ab"] == [BODY, BODY]

    asyncio.run(work())


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EIO, StoreUnavailable), (errno.ENOSPC, StoreUnavailable), (errno.EACCES, StoreError)],
)
def test_errors_while_writing_are_those_of_a_store(
    outbox: MountOutbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[Exception],
) -> None:
    (tmp_path / "rows").write_bytes(BODY)

    def fail(*arguments: Any, **options: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", fail)
    monkeypatch.setattr(mount.shutil, "copyfile", fail)
    with pytest.raises(kind, match="receipts/t"):
        asyncio.run(outbox.put("receipts/t", b"x"))
    with pytest.raises(kind, match="out/t"):
        asyncio.run(outbox.put_file("out/t", tmp_path / "rows"))


@pytest.mark.parametrize("key", ["out/../x", "out//x", "elsewhere/x"])
def test_nothing_is_written_outside_the_mounts(
    outbox: MountOutbox, tmp_path: Path, key: str
) -> None:
    (tmp_path / "rows").write_bytes(BODY)
    for work in (outbox.put(key, b"x"), outbox.put_file(key, tmp_path / "rows"), outbox.fetch(key)):
        with pytest.raises(InputRejected):
            asyncio.run(work)
    assert [p.name for p in tmp_path.iterdir()] == ["rows"]
