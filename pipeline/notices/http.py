"""Notices of uploads over HTTP, as a plain ASGI application: S3's own, EventBridge's, R2's, or a
list of keys.

A notice is a hint and nothing more: what it names is looked up in the bucket. Whoever serves this
authenticates callers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pipeline.notices.message import keys_in

BODY_MAX = 256 * 1024

Message = MutableMapping[str, Any]


def hint_application(
    hinted: Callable[[list[str]], int], *, bucket: str, prefix: str = ""
) -> Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]:
    """POST a notice; 202 and {"accepted": n} for keys that some pipeline reads. 400 for a body that
    holds no notice.

    hinted: takes keys relative to `prefix`; returns how many it took.
    """

    async def application(
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        status, answer = 405, _error("POST a notice of uploads")
        if scope["method"] == "POST":
            status, answer = await _taken(await _noticed(receive, bucket, prefix), hinted)
        await _respond(send, status, answer)

    return application


def _error(text: str) -> dict[str, object]:
    return {"error": text}


async def _noticed(
    receive: Callable[[], Awaitable[Message]], bucket: str, prefix: str
) -> list[str] | None:
    """The keys that the request names; None where it is no notice."""
    body = await _body(receive)
    return keys_in(body, bucket=bucket, prefix=prefix) if body is not None else None


async def _taken(
    names: list[str] | None, hinted: Callable[[list[str]], int]
) -> tuple[int, dict[str, object]]:
    """The status and the answer to a notice of these keys; None: it was none."""
    if names is None:
        return 400, _error(
            'this is no notice: send S3\'s event, or {"keys": ["..."]}, below 256 kB'
        )
    return 202, {"accepted": await asyncio.to_thread(hinted, names) if names else 0}


async def _respond(
    send: Callable[[Message], Awaitable[None]], status: int, answer: dict[str, object]
) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json")],
        }
    )
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


async def _lifespan(
    receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
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
