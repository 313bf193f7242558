"""Notices of uploads over HTTP: every service's own form, and nothing that a stranger sends does
harm.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.notices.http import BODY_MAX, hint_application
from pipeline.notices.message import KEYS_MAX, keys_in

BUCKET = "acme"


def s3(*keys: str, bucket: str = BUCKET, event: str = "ObjectCreated:Put") -> dict[str, Any]:
    return {
        "Records": [
            {
                "eventName": event,
                "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 3}},
            }
            for key in keys
        ]
    }


def eventbridge(key: str, bucket: str = BUCKET) -> dict[str, Any]:
    return {
        "version": "0",
        "source": "aws.s3",
        "detail": {"bucket": {"name": bucket}, "object": {"key": key, "size": 3}},
    }


def r2(key: str, bucket: str = BUCKET) -> dict[str, Any]:
    return {
        "account": "x",
        "action": "PutObject",
        "bucket": bucket,
        "object": {"key": key, "size": 3},
    }


def named(notice: Any, prefix: str = "") -> list[str] | None:
    return keys_in(json.dumps(notice).encode(), bucket=BUCKET, prefix=prefix)


# -- notices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notice", "keys"),
    [
        (s3("up/a", "up/b"), ["up/a", "up/b"]),
        (s3("up/a", "up/a", "up/b", "up/a"), ["up/a", "up/b"]),
        (s3("up/a", event="ObjectRemoved:Delete"), ["up/a"]),
        (s3("up/a+b%2Bc.txt"), ["up/a b+c.txt"]),
        (s3("up%2Fd%C3%A4y%3D1%2Fx"), ["up/däy=1/x"]),
        (s3("up/100%25"), ["up/100%"]),
        (s3("up/a", bucket="other"), []),
        ({"Records": []}, []),
        (
            {
                "Records": [
                    {},
                    None,
                    7,
                    {"s3": {}},
                    {"s3": {"bucket": {"name": BUCKET}, "object": {"key": 7}}},
                    *s3("a")["Records"],
                ]
            },
            ["a"],
        ),
        (eventbridge("up/a"), ["up/a"]),
        (eventbridge("up/a+b%2Fc d"), ["up/a+b%2Fc d"]),
        (eventbridge("up/a", bucket="other"), []),
        (r2("up/a+b"), ["up/a+b"]),
        (r2("up/a", bucket="other"), []),
        ({"object": {"key": "up/a"}}, ["up/a"]),
        ({"keys": ["up/a", "up/a+b", "up/a"]}, ["up/a", "up/a+b"]),
        ({"keys": ["up/a", 7, None, ["x"]]}, ["up/a"]),
        ({"keys": []}, []),
        ({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": BUCKET}, []),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_what_a_notice_names(notice: Any, keys: list[str]) -> None:
    assert named(notice) == keys


@pytest.mark.parametrize(
    "notice",
    [
        *(
            None,
            7,
            "up/a",
            [],
            ["up/a"],
            {},
            {"keys": "up/a"},
            {"Records": {}},
            {"detail": {}},
            {"detail": "x"},
        ),
        *(
            {"detail": {"object": {}}},
            {"detail": {"object": {"key": 7}}},
            {"detail": {"object": "up/a"}},
            {"hello": "world"},
        ),
    ],
    ids=json.dumps,
)
def test_what_is_no_notice(notice: Any) -> None:
    assert named(notice) is None


@pytest.mark.parametrize(
    "notice",
    [
        s3("team/up/a", "other/up/b", "team/"),
        {"keys": ["team/up/a", "other/up/b", "team/", "team"]},
    ],
)
def test_keys_are_told_without_the_buckets_prefix_and_only_those_below_it(notice: Any) -> None:
    assert named(notice, prefix="team/") == ["up/a"]


@pytest.mark.parametrize("key", ["up/a\ud800", "", "up/" + "ä" * 511])
def test_what_cannot_be_a_key_is_left_out(key: str) -> None:
    """A look-up of it would fail, and with it the whole pass."""
    assert named({"keys": [key, "up/a"]}) == ["up/a"]
    assert named({"keys": ["up/" + "x" * 1021]}) == ["up/" + "x" * 1021]


def test_too_many_keys_are_refused_whole() -> None:
    names = [f"up/{i}" for i in range(KEYS_MAX + 1)]
    assert named({"keys": names}) is None
    assert named({"keys": names[:-1]}) == names[:-1]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Records", "keys", "s3", "bucket", "object", "key", "name", "detail", "Event"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=200) | values.map(lambda v: json.dumps(v).encode()))
@example(b"[" * 100_000)
@example(b"9" * 10_000)
@example(b'{"keys": ["\\ud800"]}')
@example(b'{"keys": [NaN]}')
@example(b"\xff\xfe{\x00}\x00")
def test_no_bytes_make_it_fail(body: bytes) -> None:
    found = keys_in(body, bucket=BUCKET, prefix="")
    assert found is None or all(isinstance(key, str) and key.encode() for key in found)


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), max_size=5))
def test_s3s_encoding_is_undone_exactly(names: list[str]) -> None:
    from urllib.parse import quote_plus

    assert named(s3(*(quote_plus(name, safe="/") for name in names))) == list(dict.fromkeys(names))
    assert named({"keys": names}) == list(dict.fromkeys(names))


# -- over HTTP -------------------------------------------------------------------------------------


class Server:
    """Calls the application as an ASGI server does."""

    def __init__(self, hinted: Callable[[list[str]], int] | None = None, prefix: str = "") -> None:
        self.reported: list[list[str]] = []
        self.application = hint_application(hinted or self._hinted, bucket=BUCKET, prefix=prefix)

    def _hinted(self, keys: list[str]) -> int:
        self.reported.append(keys)
        return sum(key.startswith("up/") for key in keys)

    def call(self, scope: dict[str, Any], received: list[dict[str, Any]]) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []
        waiting = iter(received)

        async def receive() -> dict[str, Any]:
            return next(waiting)

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self.application(scope, receive, send))
        self.unread = list(waiting)
        return sent

    def request(self, *parts: bytes, method: str = "POST") -> tuple[int, dict[str, Any]]:
        received = [
            {"type": "http.request", "body": part, "more_body": i + 1 < len(parts)}
            for i, part in enumerate(parts)
        ]
        start, body = self.call(
            {"type": "http", "method": method, "path": "/", "headers": []}, received
        )
        assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
        assert dict(start["headers"])[b"content-type"] == b"application/json"
        return start["status"], json.loads(body["body"])


def test_a_notice_is_accepted_and_its_keys_are_told() -> None:
    server = Server(prefix="team/")
    status, answer = server.request(
        json.dumps(s3("team/up/a", "team/elsewhere/b", "other/c")).encode()
    )
    assert (status, answer) == (202, {"accepted": 1})
    assert server.reported == [["up/a", "elsewhere/b"]]


def test_a_body_may_come_in_parts() -> None:
    body = json.dumps({"keys": ["up/ä"]}, ensure_ascii=False).encode()
    server = Server()
    assert server.request(*(body[i : i + 1] for i in range(len(body))))[0] == 202
    assert server.reported == [["up/ä"]]


@pytest.mark.parametrize(
    "notice", [s3("up/a", bucket="other"), {"Event": "s3:TestEvent"}, {"keys": []}]
)
def test_a_notice_of_nothing_is_accepted_and_nobody_is_told(notice: Any) -> None:
    server = Server()
    assert server.request(json.dumps(notice).encode()) == (202, {"accepted": 0})
    assert server.reported == []


@pytest.mark.parametrize(
    "body", [b"", b"junk", b"\xff", b"[]", b'{"keys": "up/a"}', b'{"keys": ["up/a"']
)
def test_what_is_no_notice_is_refused_with_a_line_that_says_what_is(body: bytes) -> None:
    server = Server()
    status, answer = server.request(body)
    assert (status, server.reported) == (400, [])
    assert '{"keys": ["..."]}' in answer["error"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_other_methods_are_refused(method: str) -> None:
    server = Server()
    status, answer = server.request(b'{"keys": ["up/a"]}', method=method)
    assert (status, server.reported) == (405, [])
    assert "POST" in answer["error"]


def test_a_huge_body_is_refused_without_reading_it_all() -> None:
    server = Server()
    part = b" " * 64 * 1024
    assert server.request(*[part] * 100)[0] == 400
    assert len(server.unread) >= 90
    assert server.reported == []


def test_a_body_of_just_the_largest_size_is_taken() -> None:
    server, notice = Server(), b'{"keys": ["up/a"]}'
    assert server.request(notice.ljust(BODY_MAX))[0] == 202
    assert server.request(notice.ljust(BODY_MAX + 1))[0] == 400


def test_a_body_whose_sender_leaves_is_no_notice() -> None:
    server = Server()
    received = [
        {"type": "http.request", "body": b'{"keys": ["up/a"', "more_body": True},
        {"type": "http.disconnect"},
    ]
    server.call({"type": "http", "method": "POST"}, received)
    assert server.reported == []


def test_the_server_may_start_and_stop_it_and_ask_for_what_it_does_not_speak() -> None:
    server = Server()
    sent = server.call(
        {"type": "lifespan"}, [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    )
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert server.call({"type": "websocket"}, []) == []


def test_telling_does_not_block_the_servers_loop() -> None:
    def hinted(keys: list[str]) -> int:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return len(keys)

    assert Server(hinted).request(b'{"keys": ["up/a"]}') == (202, {"accepted": 1})
