"""What is read through a faulty network is exact, or an error of ours; never less and never other
bytes.
"""

from __future__ import annotations

import asyncio
import io
import random
import re
import secrets
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest

from pipeline.errors import StoreUnavailable
from pipeline.stores import open_store
from pipeline.stores.s3.content import S3Content
from tests.faults.proxy import BODY, Answer, Fault, Proxy, Request, Rule, error, faulty, weather
from tests.support.servers import moto_url

BODIES = {
    "small": b"0123456789" * 30,
    "a//odd": bytes(range(256)) * 5,
    "empty": b"",
    "dir/": b"",
    "large": b"",
    "b//large": b"",
}
BODIES |= {name: random.Random(name).randbytes(2**20) for name in ("large", "b//large")}
_TOKEN = re.compile(rb"<NextContinuationToken>[^<]*</NextContinuationToken>")
NAMES = [f"list/{i:04}" for i in range(6)]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 tries again at once, and sends files in parts of the smallest size that S3 allows."""
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.0
    )
    monkeypatch.setattr("pipeline.stores.s3.store.MULTIPART_BYTES", 5 * 2**20)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with faulty(moto_url()) as found:
        yield found


@cache
def bucket() -> str:
    client = boto3.client("s3", endpoint_url=moto_url(), region_name="us-east-1")
    client.create_bucket(Bucket="faults-reads")
    for key, body in BODIES.items():
        client.put_object(Bucket="faults-reads", Key=key, Body=body)
    return "faults-reads"


def store_at(proxy: Proxy, name: str | None = None) -> Any:
    return open_store(f"s3://{name or bucket()}", endpoint_url=proxy.url, region="us-east-1")


READS = {
    "get": lambda store, key, etag: asyncio.run(store.get(key)).body,
    "get at a version": lambda store, key, etag: asyncio.run(store.get(key, if_match=etag)).body,
    "get a range": lambda store, key, etag: asyncio.run(store.get(key, byte_range=(0, 10**9))).body,
    "get many": lambda store, key, etag: asyncio.run(store.get_many([key]))[0].body,
    "read a range": lambda store, key, etag: (
        store.read_range(key, etag, 0, len(BODIES[key])) if BODIES[key] else b""
    ),
    "read whole": lambda store, key, etag: store.open_content(key, etag, len(BODIES[key])).read(),
    "open": lambda store, key, etag: store.open_content(key, etag, len(BODIES[key])).open().read(),
    "path": lambda store, key, etag: path_of(store.open_content(key, etag, len(BODIES[key]))),
}


def path_of(content: S3Content) -> bytes:
    try:
        return content.path().read_bytes()
    finally:
        content.close()


@pytest.mark.parametrize("fault", sorted(BODY))
@pytest.mark.parametrize("read", sorted(READS))
def test_an_answer_that_is_cut_off_is_no_shorter_object(
    proxy: Proxy, read: str, fault: Fault
) -> None:
    for key in ("small", "a//odd"):
        store = store_at(proxy)
        etag = asyncio.run(store.head(key)).etag
        proxy.rules = (Rule(fault, 1.0, "GET", key, times=1),)
        try:
            got = READS[read](store, key, etag)
        except StoreUnavailable:
            got = READS[read](store, key, etag)  # the network is well again
        assert got == BODIES[key]
        proxy.rules = ()
    assert proxy.counts[fault] == 2


def test_every_read_of_every_object_in_bad_weather_is_exact_or_says_that_it_failed(
    proxy: Proxy,
) -> None:
    store, outcomes = store_at(proxy), {True: 0, False: 0}
    etags = {key: asyncio.run(store.head(key)).etag for key in BODIES}
    proxy.rules = weather(0.05)
    for key, body in BODIES.items():
        for read in READS.values():
            try:
                assert read(store, key, etags[key]) == body
                outcomes[True] += 1
            except StoreUnavailable:
                outcomes[False] += 1
    assert outcomes[True] > 24
    assert {fault for fault in BODY if not proxy.counts[fault]} == set()


def test_objects_without_bytes_are_read(proxy: Proxy) -> None:
    store = store_at(proxy)
    for key in ("empty", "dir/"):
        head = asyncio.run(store.head(key))
        for found in (
            store.get(key),
            store.get(key, if_match=head.etag),
            store.get(key, byte_range=(0, 5)),
        ):
            stored = asyncio.run(found)
            assert (stored.body, stored.etag, stored.size_bytes) == (b"", head.etag, 0)
    assert asyncio.run(store.get("small", byte_range=(10**6, 10**7))).body == b"", (
        "ranges are clipped"
    )


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("PUT", Fault.LOST_AFTER),
        ("POST .*uploads", Fault.LOST_AFTER),
        ("POST .*uploads", Fault.SHORT),
        *(("POST .*uploadId", fault) for fault in Fault),
    ],
)
def test_files_in_parts_arrive_whole_or_not_at_all(
    proxy: Proxy, tmp_path: Path, part: str, fault: Fault
) -> None:
    """An upload in parts: of one part, of its beginning and of its end the first try meets the
    fault.
    """
    body = random.Random(1).randbytes(6 * 2**20)
    method, _, path = part.partition(" ")
    proxy.rules = (Rule(fault, 1.0, method, path, times=1),)
    name, store = f"up/{secrets.token_hex(4)}", store_at(proxy)
    (tmp_path / "file").write_bytes(body)
    try:
        asyncio.run(store.put_file(name, tmp_path / "file"))
    except StoreUnavailable:
        there = asyncio.run(store_at(proxy).get_many([name]))[0]
        assert there is None or there.body == body
    else:
        assert asyncio.run(store.get(name)).body == body
    assert proxy.counts[fault] == 1


class ForgetsUploads(Proxy):
    """Answers the end of an upload as AWS does where it was ended before, and the answer to that
    was lost.
    """

    def serve(self, request: Request) -> Answer:
        ending = request.method == "POST" and "uploadId" in request.target
        return error(404, "NoSuchUpload") if ending else self.forward(request)


def test_an_upload_of_which_the_end_is_unknown_is_no_missing_object(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 6 * 2**20)
    with (
        faulty(moto_url(), kind=ForgetsUploads) as proxy,
        pytest.raises(StoreUnavailable, match="not known whether the upload"),
    ):
        asyncio.run(store_at(proxy).put_file("up/forgotten", tmp_path / "file"))


def test_an_outage_of_an_upload_is_an_outage(proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 6 * 2**20)
    proxy.down = True
    with pytest.raises(StoreUnavailable, match="SlowDown"):
        asyncio.run(store_at(proxy).put_file("up/never", tmp_path / "file"))


# -- listings --------------------------------------------------------------------------------------


@cache
def many() -> str:
    client = boto3.client("s3", endpoint_url=moto_url(), region_name="us-east-1")
    client.create_bucket(Bucket="faults-lists")
    for name in NAMES:
        client.put_object(Bucket="faults-lists", Key=name, Body=b"")
    return "faults-lists"


class SmallPages(Proxy):
    """A service with pages of two keys."""

    def serve(self, request: Request) -> Answer:
        return self.forward(
            replace(request, target=request.target.replace("max-keys=1000", "max-keys=2"))
        )


async def listed(store: Any) -> list[str]:
    return [key async for page in store.list("list/") for key in page.keys]


@pytest.mark.parametrize("fault", sorted(Fault))
def test_a_listing_is_whole_or_says_that_it_failed(fault: Fault) -> None:
    """Three pages, and the request for the second meets the fault."""
    rule = Rule(fault, 1.0, "GET", "continuation-token", times=1)
    with faulty(moto_url(), (rule,), kind=SmallPages) as proxy:
        try:
            found = asyncio.run(listed(store_at(proxy, many())))
        except StoreUnavailable as error:
            assert fault in (Fault.SHORT, Fault.SHORT_CHUNKED), error
        else:
            assert found == NAMES
        assert proxy.counts[fault] == 1


class Repeating(SmallPages):
    """Gives the first page again where the second is asked for, a number of times."""

    times = 1
    first: Answer | None = None

    def serve(self, request: Request) -> Answer:
        answer = super().serve(request)
        if "max-keys=1000" in request.target and self.first is None:
            self.first = answer
        elif "continuation-token" in request.target and self.times and self.first is not None:
            self.times -= 1
            return self.first
        return answer


class GoingOn(Repeating):
    """Gives the keys of the page before once more, and then goes on."""

    def serve(self, request: Request) -> Answer:
        answer = super().serve(request)
        if answer is self.first and "continuation-token" in request.target:
            following = _TOKEN.search(SmallPages.serve(self, request).body)
            assert following is not None
            return replace(answer, body=_TOKEN.sub(following[0], answer.body))
        return answer


class Unfinished(SmallPages):
    """Says that more follows, and not where; or nothing about it; or answers with
    another document.
    """

    change = (b"", b"")

    def serve(self, request: Request) -> Answer:
        answer = super().serve(request)
        return replace(answer, body=answer.body.replace(*self.change))


@pytest.mark.parametrize("times", [1, 1000])
def test_a_listing_that_goes_in_circles_fails(times: int) -> None:
    with (
        faulty(moto_url(), kind=Repeating) as proxy,
        pytest.raises(StoreUnavailable, match="same next page"),
    ):
        proxy.times = times  # type: ignore[attr-defined]
        asyncio.run(listed(store_at(proxy, many())))


def test_a_page_that_comes_twice_is_listed_once_or_fails() -> None:
    """The second page is missing then: what the sorted listing finds at a further look is whole."""
    with faulty(moto_url(), kind=GoingOn) as proxy:
        assert asyncio.run(listed(store_at(proxy, many()))) == NAMES


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((b"NextContinuationToken", b"Token"), "it does not say where"),
        ((b"IsTruncated", b"Is"), "whether more follows"),
        ((b"ListBucketResult", b"Error"), "it is a Error"),
        ((b"</ListBucketResult>", b""), "no element found"),
        ((b"<LastModified>", b"<LastModified>x"), "Invalid isoformat"),
    ],
)
def test_a_page_without_its_continuation_is_no_last_page(
    change: tuple[bytes, bytes], words: str
) -> None:
    with faulty(moto_url(), kind=Unfinished) as proxy:
        proxy.change = change  # type: ignore[attr-defined]
        with pytest.raises(StoreUnavailable, match=words):
            asyncio.run(listed(store_at(proxy, many())))


def test_user_code_that_swallows_the_error_is_found_out(proxy: Proxy) -> None:
    store = store_at(proxy)
    content = store.open_content(
        "small", asyncio.run(store.head("small")).etag, len(BODIES["small"])
    )
    proxy.rules = (Rule(Fault.SHORT, 1.0, "GET"),)
    with pytest.raises(StoreUnavailable):
        io.TextIOWrapper(content.open()).read()
    assert isinstance(content.problem(), StoreUnavailable)
