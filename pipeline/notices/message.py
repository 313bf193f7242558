"""Which keys a notice of uploads names, whoever sent it: S3, EventBridge, R2, or a list of keys."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote_plus

KEYS_MAX = 1_000
KEY_BYTES_MAX = 1_024


def keys_in(body: bytes, *, bucket: str, prefix: str = "") -> list[str] | None:
    """The keys that a notice names, without `prefix`, in order and once each; None if it is no
    notice.

    S3 writes keys URL-encoded (`+` for a blank), EventBridge, R2 and plain lists as they are. Other
    buckets' keys are left out.
    """
    try:
        notice = json.loads(body)
    except (ValueError, RecursionError):
        return None
    named = _named(notice, bucket)
    if named is None or len(named) > KEYS_MAX:
        return None
    return list(
        dict.fromkeys(
            key[len(prefix) :]
            for key in named
            if key.startswith(prefix) and key != prefix and _may_be_one(key)
        )
    )


def _may_be_one(key: str) -> bool:
    """Whether a store can be asked for the key at all: else the look-up would fail, and the other
    keys with it.
    """
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
    return _of_detail(notice.get("detail", notice), bucket)


def _of_detail(detail: Any, bucket: str) -> list[str] | None:
    """Of EventBridge's `detail`; R2 has the same at the top."""
    if (
        isinstance(detail, dict)
        and isinstance(detail.get("object"), dict)
        and isinstance(detail["object"].get("key"), str)
    ):
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
