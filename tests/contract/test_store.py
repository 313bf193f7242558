"""One contract for every store: memory, a local directory, moto over HTTP, and SeaweedFS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable, Coroutine
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest

from pipeline.errors import (
    KeyUnsupported,
    ObjectNotFound,
    PreconditionFailed,
    SettingsError,
    SourceChanged,
    StoreDenied,
)
from pipeline.stores import open_store
from pipeline.testing.memory_store import MemoryStore
from tests.support.servers import moto_url, seaweed_url

KINDS = ("memory", "local", "moto", "seaweed")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return make_store(request.param, tmp_path)


def make_store(kind: str, folder: Path) -> Any:
    if kind == "memory":
        return MemoryStore(page_keys=3)
    if kind == "local":
        return open_store(folder.as_uri())
    url = moto_url() if kind == "moto" else seaweed_url()
    make_bucket(url)
    return open_store(
        f"s3://contract/{secrets.token_hex(6)}/prefix", endpoint_url=url, region="us-east-1"
    )


@cache
def make_bucket(url: str) -> None:
    boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket="contract")


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def listed(store: Any, prefix: str, **options: Any) -> list[str]:
    keys: list[str] = []
    async for page in store.list(prefix, **options):
        assert len(page.keys) == len(page.etags) == len(page.sizes) == len(page.modified_us)
        keys += page.keys
    return keys


def test_what_is_put_is_got(store: Any) -> None:
    async def work() -> None:
        await store.put("a/b", b"hello")
        found = await store.get("a/b")
        head = await store.head("a/b")
        assert (found.body, found.size_bytes) == (b"hello", 5)
        assert (head.etag, head.size_bytes, head.modified_us) == (found.etag, 5, found.modified_us)
        await store.put("a/b", b"other!")
        assert (await store.head("a/b")).etag != found.etag
        assert (await store.get("a/b")).body == b"other!"
        await store.put("empty", b"")
        assert (await store.get("empty")).body == b""

    run(work())


def test_listing_and_reading_agree_on_version_and_time(store: Any) -> None:
    async def work() -> None:
        await store.put("x/1", b"one")
        async for page in store.list("x/"):
            if page.keys:
                head = await store.head("x/1")
                assert (page.keys, page.etags, page.sizes) == (["x/1"], [head.etag], [3])
                assert abs(page.modified_us[0] - head.modified_us) < 1_000_000

    run(work())


def test_missing_objects(store: Any) -> None:
    async def work() -> None:
        for request in (store.get("no"), store.head("no"), store.get("a/b/c", byte_range=(0, 1))):
            with pytest.raises(ObjectNotFound):
                await request
        assert list(await store.get_many(["no", "neither"])) == [None, None]
        await store.delete(["no"])
        assert await listed(store, "nothing/here/") == []

    run(work())


def test_get_many_keeps_order(store: Any) -> None:
    async def work() -> None:
        for i in range(5):
            await store.put(f"k{i}", str(i).encode())
        found = await store.get_many(["k3", "nope", "k0", "k4"])
        assert [f and f.body for f in found] == [b"3", None, b"0", b"4"]

    run(work())


def test_create_only_lets_one_writer_win(store: Any) -> None:
    async def attempt(i: int) -> int | None:
        try:
            await store.put("log/1", str(i).encode(), create_only=True)
        except PreconditionFailed:
            return None
        return i

    async def work() -> None:
        # moto checks and then writes, with no lock
        n = 1 if getattr(store, "_endpoint_url", "") == moto_url() else 8
        winners = [
            w for w in await asyncio.gather(*(attempt(i) for i in range(n))) if w is not None
        ]
        assert len(winners) == 1
        assert (await store.get("log/1")).body == str(winners[0]).encode()
        with pytest.raises(PreconditionFailed):
            await store.put("log/1", b"again", create_only=True)

    run(work())


def test_swap_only_at_the_named_version(store: Any) -> None:
    async def work() -> None:
        with pytest.raises(PreconditionFailed):
            await store.put("floor", b"1", if_match="0" * 32)
        await store.put("floor", b"1")
        first = (await store.head("floor")).etag
        await store.put("floor", b"2", if_match=first)
        with pytest.raises(PreconditionFailed):
            await store.put("floor", b"3", if_match=first)
        assert (await store.get("floor")).body == b"2"

    run(work())


def test_reads_at_a_version_and_in_ranges(store: Any) -> None:
    async def work() -> None:
        await store.put("r", b"0123456789")
        etag = (await store.head("r")).etag
        assert (await store.get("r", if_match=etag)).body == b"0123456789"
        part = await store.get("r", byte_range=(2, 5))
        assert (part.body, part.size_bytes) == (b"234", 10)
        assert (await store.get("r", byte_range=(8, 50))).body == b"89"
        await store.put("r", b"changed...")
        with pytest.raises(PreconditionFailed):
            await store.get("r", if_match=etag)

    run(work())


def test_listing_is_in_byte_order_and_resumes(store: Any) -> None:
    names = [
        "data-1",
        "data.txt",
        "data/a",
        "data/b/c",
        "data0",
        "z",
        "é",
        "Z",
        "data/b-2",
        "🎉",
        "e\u0301",
    ]

    async def work() -> None:
        for name in names:
            await store.put("in/" + name, b"x")
        await store.put("inner", b"neither")
        wanted = sorted(("in/" + n for n in names), key=str.encode)
        assert await listed(store, "in/") == wanted
        assert await listed(store, "in/data") == [k for k in wanted if k.startswith("in/data")]
        assert await listed(store, "in/data/") == [k for k in wanted if k.startswith("in/data/")]
        for after in wanted:
            assert await listed(store, "in/", start_after=after) == [
                k for k in wanted if k.encode() > after.encode()
            ]
        for splits in (wanted, wanted[::3], ["a", "in/", "in/data.", "in/y", "in/y", "zz"]):
            assert await listed(store, "in/", split_at=splits) == wanted
            assert await listed(store, "in/data", split_at=splits) == [
                k for k in wanted if k.startswith("in/data")
            ]
            assert await listed(store, "in/", start_after=wanted[4], split_at=splits) == wanted[5:]
        assert await listed(store, "no/", split_at=["no/a", "no/b"]) == []

    run(work())


def test_delete_takes_many_and_the_missing(store: Any) -> None:
    async def work() -> None:
        for i in range(7):
            await store.put(f"d/{i}", b"")
        await store.delete([f"d/{i}" for i in range(0, 7, 2)] + ["d/none"])
        assert await listed(store, "d/") == ["d/1", "d/3", "d/5"]
        await store.delete([])
        await store.delete(["d/1", "d/3", "d/5"])
        await store.put("d", b"now an object of its own")
        assert (await store.get("d")).body == b"now an object of its own"

    run(work())


def test_a_file_is_stored(store: Any, tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path.parent / f"{tmp_path.name}-big"
        body = os.urandom(17 * 2**20)
        path.write_bytes(body)
        await store.put_file("big/one", path)
        assert (await store.get("big/one")).body == body
        assert (await store.get("big/one", byte_range=(2**24, 2**24 + 10))).body == body[
            2**24 : 2**24 + 10
        ]

    run(work())


def test_content_for_user_code(store: Any) -> None:
    async def work() -> None:
        await store.put("c/x.txt", b"line 1\nline 2\n")
        head = await store.head("c/x.txt")
        content = store.open_content("c/x.txt", head.etag, head.size_bytes)
        assert content.read() == b"line 1\nline 2\n"
        file = content.open()
        assert file.readline() == b"line 1\n"
        file.seek(-7, 2)
        assert file.read() == b"line 2\n"
        assert content.path().read_bytes() == b"line 1\nline 2\n"
        assert content.problem() is None
        assert content.bytes_read > 0
        content.close()
        assert (
            store.open_content("c/x.txt", "", head.size_bytes).open().read() == b"line 1\nline 2\n"
        ), "whatever is there"

    run(work())


def test_content_that_changed_or_went_says_so_even_if_user_code_swallows_it(store: Any) -> None:
    async def work() -> None:
        await store.put("c/y", b"first")
        head = await store.head("c/y")
        await store.put("c/y", b"second, longer")
        changed = store.open_content("c/y", head.etag, head.size_bytes)
        with_error(changed.read, SourceChanged)
        assert isinstance(changed.problem(), SourceChanged)
        await store.delete(["c/y"])
        gone = store.open_content("c/y", head.etag, head.size_bytes)
        with_error(gone.read, ObjectNotFound)
        assert isinstance(gone.problem(), ObjectNotFound)

    run(work())


def with_error(read: Callable[[], object], kind: type[Exception]) -> None:
    """Memory returns nothing and reports the problem; the others raise as well.
    Either is enough.
    """
    with contextlib.suppress(kind):
        assert read() == b""


HOSTILE = [
    "a b", "quo'te\"s", "new\nline", "tab\tx", "é", "e\u0301", "a=b",
    "100%", "%2F", "x+y", "a?b#c&d", "back\\slash", "~",
    "A", "a",
    "x" * 200, "..", "../up", "a/../b", ".", "a/./b", "/lead", "a//b", "trail/", " ", "🎉",
    "\x01", "\x7f",
    "a:b", "*", "[x]",
    "{y}", "$HOME", "`id`", "y" * 900, "-rf", "con", "nul ", "a\u202eb",
]  # fmt: skip


@pytest.mark.parametrize("key", HOSTILE)
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_keys_round_trip_or_are_refused(kind: str, key: str, tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    store = make_store(kind, bucket)

    async def work() -> None:
        if kind in ("moto", "seaweed") and not survives(store, "k/" + key):
            return  # the server itself refuses or changes this key: not ours to fix
        try:
            await store.put("k/" + key, b"body", create_only=True)
        except KeyUnsupported as error:
            assert kind == "local", error
            return
        assert (await store.get("k/" + key)).body == b"body"
        assert await listed(store, "k/") == ["k/" + key]
        assert (await store.head("k/" + key)).size_bytes == 4
        assert (
            store.open_content("k/" + key, (await store.head("k/" + key)).etag, 4).read() == b"body"
        )
        await store.delete(["k/" + key])
        assert await listed(store, "k/") == []

    run(work())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bucket"], "nothing escapes the directory"


def survives(store: Any, key: str) -> bool:
    """Whether boto3 alone gets back from this server what it put there."""
    client = store._boto
    try:
        client.put_object(Bucket=store._bucket, Key=store._prefix + key, Body=b"body")
        found = client.list_objects_v2(Bucket=store._bucket, Prefix=store._prefix + "k/").get(
            "Contents", []
        )
        got = client.get_object(Bucket=store._bucket, Key=store._prefix + key)["Body"].read()
        client.delete_object(Bucket=store._bucket, Key=store._prefix + key)
    except Exception:
        return False
    return got == b"body" and [item["Key"] for item in found] == [store._prefix + key]


def test_keys_that_differ_only_in_case_are_two_objects(store: Any) -> None:
    async def work() -> None:
        await store.put("case/File", b"upper")
        await store.put("case/file", b"lower")
        assert (await store.get("case/File")).body == b"upper"
        assert await listed(store, "case/") == ["case/File", "case/file"]

    run(work())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://x/y", "no bucket Tidemill knows"),
        ("s3://UPPER/x", "no S3 bucket name"),
        ("s3://", "no S3 bucket name"),
        ("file://relative/x", "three slashes"),
    ],
)
def test_urls_that_name_no_bucket(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        open_store(url)


def test_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        run(open_store(str(tmp_path / "none")).check())
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="not a directory"):
        run(open_store(str(tmp_path / "file")).check())


def test_an_s3_bucket_that_does_not_exist() -> None:
    with pytest.raises(SettingsError, match="no bucket 'nowhere-at-all'"):
        run(open_store("s3://nowhere-at-all", endpoint_url=moto_url(), region="us-east-1").check())


def test_wrong_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    url = seaweed_url()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreDenied, match=r"SignatureDoesNotMatch|AccessDenied"):
        run(open_store("s3://started", endpoint_url=url, region="us-east-1").check())


def test_names_that_are_not_unicode_are_reported(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with open(os.fsencode(tmp_path) + b"/bad\xff", "wb"):
        pass
    (tmp_path / "good").write_text("x")

    async def work() -> tuple[list[str], list[str]]:
        pages = [page async for page in store.list("")]
        return [k for p in pages for k in p.keys], [u for p in pages for u in p.unusable]

    assert run(work()) == (["good"], ["bad\\xff"])


def test_symbolic_links_do_not_lead_out(tmp_path: Path) -> None:
    outside, bucket = tmp_path / "outside", tmp_path / "bucket"
    outside.mkdir()
    bucket.mkdir()
    (outside / "secret").write_text("s")
    (bucket / "link").symlink_to(outside)
    (bucket / "file").symlink_to(outside / "secret")
    store = open_store(str(bucket))
    assert run(listed(store, "")) == []
    for key in ("file",):
        with pytest.raises(ObjectNotFound):
            run(store.get(key))
    with pytest.raises(KeyUnsupported):
        run(store.put("link/new", b"x"))
    assert [p.name for p in outside.iterdir()] == ["secret"]


def test_a_half_written_local_object_is_never_seen(tmp_path: Path) -> None:
    """Listing shows only finished objects, whatever temporary files a dead writer left."""
    store: Any = open_store(str(tmp_path))
    run(store.check())
    (tmp_path / ".tidemill" / "tmp" / "left-over").write_bytes(b"half")
    run(store.put("whole", b"x"))
    assert run(listed(store, "")) == ["whole"]
