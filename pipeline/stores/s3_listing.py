"""Answers to ListObjectsV2 as pages, and times as microseconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from pipeline.errors import StoreUnavailable
from pipeline.model import Head, Page, Stored


def parse_listing(body: bytes, cut: int, what: str) -> tuple[Page, str | None]:
    """Keys without the store's prefix, and the token of the next page.

    Raises StoreUnavailable for an answer that is not a whole page: cut off, of something else, or without its continuation.
    """
    try:
        # expat neither loads external entities nor, today, lets inner ones grow
        root = ElementTree.fromstring(body)  # noqa: S314
        space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
        return _entries(root, space, cut), _continuation(root, space)
    except (ElementTree.ParseError, ValueError) as error:
        raise StoreUnavailable(f"{what}: the listing came damaged or cut off ({error})") from None


def _entries(root: ElementTree.Element, space: str, cut: int) -> Page:
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
    return Page(keys=keys, etags=etags, sizes=sizes, modified_us=modified)


def _continuation(root: ElementTree.Element, space: str) -> str | None:
    if root.tag != f"{space}ListBucketResult":
        raise ValueError(f"it is a {root.tag.removeprefix(space)[:40]}")
    more, token = root.findtext(f"{space}IsTruncated"), root.findtext(f"{space}NextContinuationToken")
    if more not in ("true", "false"):
        raise ValueError("it does not say whether more follows")
    if more == "true" and not token:
        raise ValueError("more follows, but it does not say where")
    return token if more == "true" else None


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


def span(start: int, end: int | None, size: int) -> int:
    """How many bytes [start, end) are of an object of that size; without an end, up to its own."""
    return max(0, (size if end is None else min(end, size)) - start)


def whole_size(key: str, content_range: str | None, start: int) -> int:
    """The object's size, from an answer's Content-Range (RFC 9110, 14.4). Raises StoreUnavailable where it is of another range."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", content_range or "")
    if found is None or int(found[1]) != start:
        raise StoreUnavailable(f"{key!r}: the store sent another range than was asked for ({content_range})")
    return int(found[2])
