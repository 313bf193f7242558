"""Notices of uploads over HTTP, as a plain ASGI application: S3's own, EventBridge's, R2's, or a list of keys.

A notice is a hint and nothing more: what it names is looked up in the bucket. Whoever serves this authenticates callers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote_plus

BODY_MAX = 256 * 1024
KEYS_MAX = 1_000
KEY_BYTES_MAX = 1_024

Message = MutableMapping[str, Any]


def hint_application(
    hinted: Callable[[list[str]], int], *, bucket: str, prefix: str = ""
) -> Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]:
    """POST a notice; 202 and {"accepted": n} for keys that some pipeline reads. 400 for a body that holds no notice.

    hinted: takes keys relative to `prefix`; returns how many it took.
    """

    async def application(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        status, answer = 405, {"error": "POST a notice of uploads"}
        if scope["method"] == "POST":
            body = await _body(receive)
            names = keys_in(body, bucket=bucket, prefix=prefix) if body is not None else None
            if names is None:
                status, answer = 400, {"error": 'this is no notice: send S3\'s event, or {"keys": ["..."]}, below 256 kB'}
            else:
                accepted = await asyncio.to_thread(hinted, names) if names else 0
                status, answer = 202, {"accepted": accepted}  # type: ignore[dict-item]
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    return application


async def _lifespan(receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _body(receive: Callable[[], Awaitable[Message]]) -> bytes | None:
    """The request's body, None where it is too large."""
    parts, size = [], 0
    while True:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > BODY_MAX:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def keys_in(body: bytes, *, bucket: str, prefix: str = "") -> list[str] | None:
    """The keys that a notice names, without `prefix`, in order and once each; None if it is no notice.

    S3 writes keys URL-encoded (`+` for a blank), EventBridge, R2 and plain lists as they are. Other buckets' keys are left out.
    """
    try:
        notice = json.loads(body)
    except (ValueError, RecursionError):
        return None
    named = _named(notice, bucket)
    if named is None or len(named) > KEYS_MAX:
        return None
    return list(dict.fromkeys(key[len(prefix) :] for key in named if key.startswith(prefix) and key != prefix and _may_be_one(key)))


def _may_be_one(key: str) -> bool:
    """Whether a store can be asked for the key at all: else the look-up would fail, and the other keys with it."""
    try:
        return len(key.encode()) <= KEY_BYTES_MAX
    except UnicodeEncodeError:
        return False


def _named(notice: Any, bucket: str) -> list[str] | None:
    if not isinstance(notice, dict):
        return None
    if isinstance(notice.get("keys"), list):
        return [key for key in notice["keys"] if isinstance(key, str)]
    if isinstance(notice.get("Records"), list):  # S3
        found = [_of_s3(record, bucket) for record in notice["Records"]]
        return [key for key in found if key is not None]
    if notice.get("Event") == "s3:TestEvent":
        return []
    detail = notice.get("detail", notice)  # EventBridge; R2 has the object at the top
    if isinstance(detail, dict) and isinstance(detail.get("object"), dict) and isinstance(detail["object"].get("key"), str):
        named = detail.get("bucket")
        other = named.get("name") if isinstance(named, dict) else named
        return [detail["object"]["key"]] if other in (None, bucket) else []
    return None


def _of_s3(record: Any, bucket: str) -> str | None:
    try:
        if record["s3"]["bucket"]["name"] != bucket:
            return None
        key = record["s3"]["object"]["key"]
    except (KeyError, TypeError):
        return None
    return unquote_plus(key) if isinstance(key, str) else None
