"""Notices of uploads from an SQS queue, which S3, SNS and EventBridge can write to.

A notice is a hint and nothing more: what it names is looked up in the bucket. Notices that come
twice, late, in another order or never are harmless: what is committed is not run again, and the
next full listing finds what no notice named. A message is deleted only after what it names is
committed, or known to need no work.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from pipeline.errors import SettingsError, StoreDenied, StoreUnavailable
from pipeline.notices.message import keys_in
from pipeline.stores.s3.errors import explained

T = TypeVar("T")

RECEIVE_MAX = 10
"""Messages in one request (SQS's own bound)."""
WAIT_S_MAX = 20
"""How long SQS waits for a message before it answers with none (its own bound)."""
HIDDEN_S = 300
"""How long a message that was received is shown to nobody else.

One that is worked on for longer comes again, which is harmless.
"""

TOGETHER_MAX = 1_000
"""From so many keys on they are looked up before more is received."""

_ABSENT = ("QueueDoesNotExist", "NonExistentQueue", "InvalidAddress")
_REGION = re.compile(r"(?:sqs\.([a-z0-9-]+)|([a-z0-9-]+)\.queue)\.amazonaws\.com(?:\.cn)?\Z")


@dataclass(slots=True)
class Notices:
    """What some messages say. keys: relative to the store's prefix, once each, in the order of the
    messages. handles: of messages that may be deleted once these keys are committed. odd: ids of
    messages that are no notices.
    """

    keys: list[str] = field(default_factory=list)
    handles: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.handles or self.odd)


class NoticeQueue:
    """One queue, seen by one process. Several may share it.

    url: of the queue. bucket, prefix: whose keys count; those of other buckets, or outside the
    prefix, need no work here.
    """

    def __init__(
        self, url: str, *, bucket: str, prefix: str = "", region: str | None = None
    ) -> None:
        self.url = url
        self._bucket, self._prefix = bucket, prefix
        self._region = region
        self._client: Any = None
        self.sets_aside: bool = False
        """Whether the queue moves messages that are never deleted to a dead-letter queue; known
        after `check`.
        """

    def check(self) -> None:
        """Whether there is such a queue.

        Raises SettingsError where there is none, StoreDenied, StoreUnavailable.
        """
        if self._client is None:
            self._client = self._connect()
        with self._explained():
            found = self._client.get_queue_attributes(
                QueueUrl=self.url, AttributeNames=["RedrivePolicy"]
            )
        self.sets_aside = "RedrivePolicy" in found.get("Attributes", {})

    async def receive(self, wait_s: float) -> Notices:
        """Wait up to `wait_s` seconds (at most 20) for a message, then take what else is there, up
        to some 1,000 keys.
        """
        notices = await in_background(lambda: self._some(min(math.ceil(wait_s), WAIT_S_MAX)))
        while notices and len(notices.keys) < TOGETHER_MAX:
            more = await in_background(lambda: self._some(0))
            if not more:
                break
            notices.keys = list(dict.fromkeys([*notices.keys, *more.keys]))
            notices.handles += more.handles
            notices.odd += more.odd
        return notices

    async def done(self, notices: Notices) -> None:
        """Delete the messages: what they name is committed. One that cannot be
        deleted comes again.
        """
        for start in range(0, len(notices.handles), RECEIVE_MAX):
            entries = [
                {"Id": str(i), "ReceiptHandle": h}
                for i, h in enumerate(notices.handles[start : start + RECEIVE_MAX])
            ]
            await in_background(lambda entries=entries: self._delete(entries))  # type: ignore[misc]

    def _delete(self, entries: Sequence[dict[str, str]]) -> None:
        with self._explained():
            self._client.delete_message_batch(QueueUrl=self.url, Entries=entries)

    def _some(self, wait_s: int) -> Notices:
        if self._client is None:
            self.check()
        notices = Notices()
        for message in self._received(wait_s):
            named = keys_in(unwrapped(message["Body"]), bucket=self._bucket, prefix=self._prefix)
            if named is None:
                notices.odd.append(message["MessageId"])
                if self.sets_aside:
                    continue
            notices.keys += named or []
            notices.handles.append(message["ReceiptHandle"])
        notices.keys = list(dict.fromkeys(notices.keys))
        return notices

    def _received(self, wait_s: int) -> Sequence[dict[str, Any]]:
        with self._explained():
            answer = self._client.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=RECEIVE_MAX,
                WaitTimeSeconds=wait_s,
                VisibilityTimeout=HIDDEN_S,
            )
        messages: Sequence[dict[str, Any]] = answer.get("Messages", ())
        return messages

    def _connect(self) -> Any:
        import boto3
        from botocore.config import Config

        address = urlsplit(self.url)
        if not _is_of_queue(address):
            raise SettingsError(
                f"{self.url!r} is no queue: give its URL,"
                " https://sqs.REGION.amazonaws.com/ACCOUNT/NAME"
            )
        session = boto3.Session()
        region = _region_in(address) or self._region or session.region_name or "us-east-1"
        config = Config(
            retries={"max_attempts": 6, "mode": "standard"}, read_timeout=WAIT_S_MAX + 10
        )
        with self._explained():
            return session.client(
                "sqs",
                endpoint_url=f"{address.scheme}://{address.netloc}",
                region_name=region,
                config=config,
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A queue's own refusals; all else that goes wrong between boto3 and a service is said as
        of a store.
        """
        from botocore.exceptions import ClientError

        with explained(self.url):
            try:
                yield
            except ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                raise self._refusal(code, status) from None

    def _refusal(self, code: str, status: int | None) -> Exception:
        if any(name in code for name in _ABSENT):
            return SettingsError(
                f"{self.url}: there is no such queue: check --queue and its region"
            )
        if status in (401, 403) or "AccessDenied" in code:
            needed = "sqs:ReceiveMessage, sqs:DeleteMessage and sqs:GetQueueAttributes"
            return StoreDenied(
                f"{self.url}: the queue refused ({code}): the credentials need {needed}"
            )
        return StoreUnavailable(f"{self.url}: {code}")


def unwrapped(body: str) -> bytes:
    """A message's text; what SNS put around it is taken off."""
    with suppress(ValueError, RecursionError):
        outer = json.loads(body)
        if (
            isinstance(outer, dict)
            and outer.get("Type") == "Notification"
            and isinstance(outer.get("Message"), str)
        ):
            body = outer["Message"]
    return body.encode("utf-8", "replace")


async def in_background(call: Callable[[], T]) -> T:
    """The result of a call that blocks.

    Unlike those of asyncio.to_thread it may be left behind: nobody waits for its end.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def work() -> None:
        result: T | None = None
        failure: Exception | None = None
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            failure = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, future, result, failure)

    threading.Thread(target=work, daemon=True).start()
    return await future


def _settle(future: asyncio.Future[T], result: T | None, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)  # type: ignore[arg-type]


def _is_of_queue(address: SplitResult) -> bool:
    return (
        address.scheme in ("http", "https")
        and bool(address.netloc)
        and address.path.count("/") >= 2
    )


def _region_in(address: SplitResult) -> str | None:
    found = _REGION.search(address.hostname or "")
    return found[1] or found[2] if found else None
