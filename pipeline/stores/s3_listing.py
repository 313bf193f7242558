"""Answers to ListObjectsV2 as pages, and times as microseconds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from pipeline.errors import StoreUnavailable
from pipeline.model import Head, Page, Stored


def parse_listing(body: bytes, cut: int) -> tuple[Page, str | None]:
    """Keys without the store's prefix, and the token of the next page."""
    root = ElementTree.fromstring(body)  # noqa: S314 - expat neither loads external entities nor, today, lets inner ones grow
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
    encoded = root.findtext(f"{space}EncodingType") == "url"
    keys, etags, sizes, modified = [], [], [], []
    for item in root.iterfind(f"{space}Contents"):
        key = item.findtext(f"{space}Key") or ""
        key = (unquote_plus(key) if encoded else key)[cut:]
        if not key:
            continue  # the marker of the prefix itself
        keys.append(key)
        etags.append((item.findtext(f"{space}ETag") or "").strip('"'))
        sizes.append(int(item.findtext(f"{space}Size") or 0))
        modified.append(microseconds(datetime.fromisoformat(item.findtext(f"{space}LastModified") or "")))
    more = root.findtext(f"{space}IsTruncated") == "true"
    token = root.findtext(f"{space}NextContinuationToken") if more else None
    return Page(keys=keys, etags=etags, sizes=sizes, modified_us=modified), token


def together(pages: Sequence[Page]) -> Page:
    return Page(
        keys=[k for page in pages for k in page.keys],
        etags=[e for page in pages for e in page.etags],
        sizes=[s for page in pages for s in page.sizes],
        modified_us=[m for page in pages for m in page.modified_us],
    )


def microseconds(when: datetime) -> int:
    return int(when.timestamp() * 1e6)


def as_head(key: str, etag: str | None, size: int, modified: datetime) -> Head:
    return Head(key=key, etag=(etag or "").strip('"'), size_bytes=size, modified_us=microseconds(modified))


def as_stored(key: str, body: bytes, *, etag: str | None, size: int, modified: datetime, expected: int) -> Stored:
    if len(body) != expected:
        raise StoreUnavailable(f"{key!r}: the store sent {len(body)} bytes of {expected}")
    return Stored(body=body, etag=(etag or "").strip('"'), size_bytes=size, modified_us=microseconds(modified))
