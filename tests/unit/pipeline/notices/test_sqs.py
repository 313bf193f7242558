"""What a queue's messages name, and which address and region a queue's URL stands for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.errors import SettingsError, StoreDenied, StoreUnavailable
from pipeline.notices.message import keys_in
from pipeline.notices.sqs import NoticeQueue, unwrapped

S3 = {"Records": [{"s3": {"bucket": {"name": "b"}, "object": {"key": "up/a+b"}}}]}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (json.dumps(S3), ["up/a b"]),
        (
            json.dumps({"Type": "Notification", "TopicArn": "arn", "Message": json.dumps(S3)}),
            ["up/a b"],
        ),
        (
            json.dumps({"detail": {"bucket": {"name": "b"}, "object": {"key": "up/a+b"}}}),
            ["up/a+b"],
        ),
        (json.dumps({"Event": "s3:TestEvent", "Bucket": "b"}), []),
        (json.dumps({"Type": "Notification", "Message": "no notice"}), None),
        (json.dumps({"Type": "Notification", "Message": {"keys": ["a"]}}), None),
        ("[" * 100_000, None),
        ("\ud800", None),
    ],
)
def test_what_a_message_names(body: str, named: list[str] | None) -> None:
    assert keys_in(unwrapped(body), bucket="b") == named


@pytest.mark.parametrize(
    ("url", "endpoint", "region"),
    [
        (
            "https://sqs.eu-west-1.amazonaws.com/123456789012/q",
            "https://sqs.eu-west-1.amazonaws.com",
            "eu-west-1",
        ),
        (
            "https://us-west-2.queue.amazonaws.com/123456789012/q",
            "https://us-west-2.queue.amazonaws.com",
            "us-west-2",
        ),
        (
            "https://sqs.cn-north-1.amazonaws.com.cn/123456789012/q",
            "https://sqs.cn-north-1.amazonaws.com.cn",
            "cn-north-1",
        ),
        ("http://127.0.0.1:9/123456789012/q", "http://127.0.0.1:9", "eu-south-2"),
    ],
)
def test_a_queues_url_says_where_it_is(url: str, endpoint: str, region: str) -> None:
    meta = NoticeQueue(url, bucket="b", region="eu-south-2")._connect().meta
    assert (meta.endpoint_url, meta.region_name) == (endpoint, region)


@pytest.mark.parametrize(
    "url",
    [
        "queue",
        "arn:aws:sqs:eu-west-1:123456789012:q",
        "https://sqs.eu-west-1.amazonaws.com/q",
        "s3://b/q",
    ],
)
def test_what_is_no_queue(url: str) -> None:
    with pytest.raises(SettingsError, match="is no queue: give its URL"):
        NoticeQueue(url, bucket="b").check()


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("AWS.SimpleQueueService.NonExistentQueue", 400, SettingsError),
        ("AccessDenied", 403, StoreDenied),
        ("InvalidClientTokenId", 403, StoreDenied),
        ("ServiceUnavailable", 503, StoreUnavailable),
    ],
)
def test_refusals_in_one_line(code: str, status: int, kind: type[Exception]) -> None:
    from botocore.exceptions import ClientError

    class Refuses:
        def get_queue_attributes(self, **_: Any) -> None:
            raise ClientError(
                {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}},
                "GetQueueAttributes",
            )  # type: ignore[typeddict-item]

    queue = NoticeQueue("https://sqs.eu-west-1.amazonaws.com/123456789012/q", bucket="b")
    queue._client = Refuses()
    with pytest.raises(kind) as caught:
        queue.check()
    assert "\n" not in str(caught.value)
    assert "/q: " in str(caught.value)
