"""Answers to ListObjectsV2 as pages, and times as microseconds."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from pipeline.errors import StoreUnavailable
from pipeline.model.listing import Head, Page, Stored
from pipeline.stores.s3.errors import RangeEmpty

_FLAT = r"(?:<([A-Za-z]\w*)>[^<>]*</\1>|<[A-Za-z]\w*/>)*"
_HEAD = re.compile(
    r'(?:<\?xml version="1\.0" encoding="UTF-8"\?>\s*)?<ListBucketResult(?: xmlns="[^<>&"]*")?>'
    + _FLAT
)
_TAIL = re.compile(_FLAT + r"</ListBucketResult>\s*")
_ROW = re.compile(r"<Contents>(?:<([A-Za-z]\w*)>[^<>]*</\1>)+</Contents>")
_NAME = re.compile(r"<([A-Za-z]\w*)>")
_TEXT = r"[^<>&\x00-\x1f]*"
_SUMS = (
    f"(?:<ChecksumAlgorithm>{_TEXT}</ChecksumAlgorithm>)*(?:<ChecksumType>{_TEXT}</ChecksumType>)?"
)
_NEXT = re.compile(rb"<NextContinuationToken>([^<>&]+)</NextContinuationToken>")
_NEEDED = ("Key", "ETag", "Size", "LastModified")


def parse_listing(body: bytes, cut: int, what: str) -> tuple[Page, str | None]:
    """Keys without the store's prefix (`cut` characters), and the token of the next page.

    Raises StoreUnavailable for an answer that is not a whole page: cut off, of something else, or
    without its continuation.
    """
    try:
        return _regular(body, cut) or _any(body, cut)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        # LookupError: of an encoding that nobody knows
        raise StoreUnavailable(f"{what}: the listing came damaged or cut off ({error})") from None


def token_within(body: bytes) -> str | None:
    """What is probably the token of the next page, found without reading the answer: only good for
    asking early.
    """
    found = _NEXT.search(body)
    return found[1].decode("ascii", "replace") if found else None


# -- any answer ------------------------------------------------------------------------------------


def _any(body: bytes, cut: int) -> tuple[Page, str | None]:
    # expat neither loads external entities nor, today, lets inner ones grow
    root = ElementTree.fromstring(body)  # noqa: S314
    space = _namespace(root)
    return _entries(root, space, cut), _continuation(root, space)


def _namespace(root: ElementTree.Element) -> str:
    """What stands before the names of the elements."""
    return root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""


def _entries(root: ElementTree.Element, space: str, cut: int) -> Page:
    encoded = _is_encoded(root, space)
    keys, etags, sizes, modified = [], [], [], []
    for item in root.iterfind(f"{space}Contents"):
        key = item.findtext(f"{space}Key") or ""
        key = (unquote_plus(key) if encoded else key)[cut:]
        if not key:
            continue  # the marker of the prefix itself
        keys.append(key)
        etags.append((item.findtext(f"{space}ETag") or "").strip('"'))
        sizes.append(int(item.findtext(f"{space}Size") or 0))
        modified.append(_time(item.findtext(f"{space}LastModified") or ""))
    return Page(keys=keys, etags=etags, sizes=sizes, modified_us=modified)


def _is_encoded(root: ElementTree.Element, space: str) -> bool:
    return root.findtext(f"{space}EncodingType") == "url"


def _continuation(root: ElementTree.Element, space: str) -> str | None:
    if root.tag != f"{space}ListBucketResult":
        raise ValueError(f"it is a {root.tag.removeprefix(space)[:40]}")
    more, token = (
        root.findtext(f"{space}IsTruncated"),
        root.findtext(f"{space}NextContinuationToken"),
    )
    if more not in ("true", "false"):
        raise ValueError("it does not say whether more follows")
    if more == "true" and not token:
        raise ValueError("more follows, but it does not say where")
    return token if more == "true" else None


# -- the usual answer, four times as fast ----------------------------------------------------------


def _regular(body: bytes, cut: int) -> tuple[Page, str | None] | None:
    """What `_any` says, for an answer that is nothing but flat elements around objects that all
    look like the first; else None.

    The elements around are checked and read as XML. What is between them is split at everything
    that looks like an object, and nothing may be left. (The parts are one flat list: a tuple for
    each object would keep the garbage collector busy.)
    """
    parts = _parts(body)
    if parts is None:
        return None
    around, rows = parts
    root = ElementTree.fromstring(around)  # noqa: S314 - as in `_any`
    space = _namespace(root)
    columns = _columns(rows)
    if columns is None:
        return None
    page = _page(columns, cut, _is_encoded(root, space))
    return None if page is None else (page, _continuation(root, space))


def _parts(body: bytes) -> tuple[str, str] | None:
    """What stands around the objects, and the objects; None where that is not certain."""
    if not body.isascii():
        return None
    text = body.decode("ascii")
    first, end = text.find("<Contents>"), text.rfind("</Contents>") + len("</Contents>")
    head, tail = text[:first], text[end:]
    if first < 0 or not _HEAD.fullmatch(head) or not _TAIL.fullmatch(tail):
        return None
    return head + tail, text[first:end]


def _columns(rows: str) -> dict[str, list[str]] | None:
    """The texts of the objects' elements by name."""
    sample = _ROW.match(rows)
    if sample is None:
        return None
    names = _element_names(sample[0])
    if names is None:
        return None
    pattern, labels = _pattern(names, "<ETag>&quot;" in sample[0])
    parts, step = pattern.split(rows), len(labels) + 1
    if any(parts[::step]):
        return None
    return {label: parts[i::step] for i, label in enumerate(labels, 1)}


def _element_names(row: str) -> tuple[str, ...] | None:
    """Those within an object, but for its checksums; None where some are missing or repeated."""
    names = tuple(name for name in _NAME.findall(row)[1:] if not name.startswith("Checksum"))
    is_whole = len(set(names)) == len(names) and set(_NEEDED) <= set(names)
    return names if is_whole else None


@lru_cache(maxsize=16)
def _pattern(names: tuple[str, ...], quoted: bool) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """The expression of one object with these elements, and the names of its groups.

    AWS names checksums behind the etag, and only of some objects: whatever there is of them is one
    group.
    """
    quote = "&quot;" if quoted else ""
    expression, labels = "", []
    for name in names:
        expression += (
            f"<{name}>({_TEXT})</{name}>"
            if name != "ETag"
            else f"<ETag>{quote}({_TEXT}){quote}</ETag>({_SUMS})"
        )
        labels += [name] if name != "ETag" else ["ETag", "Checksums"]
    return re.compile(f"<Contents>{expression}</Contents>"), tuple(labels)


def _page(columns: dict[str, list[str]], cut: int, encoded: bool) -> Page | None:
    keys = _decoded(columns["Key"]) if encoded else columns["Key"]
    if cut:
        keys = [key[cut:] for key in keys]
    if "" in keys:
        return None  # the marker of the prefix itself
    try:
        sizes, modified = list(map(int, columns["Size"])), list(map(_time, columns["LastModified"]))
    except ValueError:
        return None  # read once more, and explained
    return Page(
        keys=keys,
        etags=[etag.strip('"') for etag in columns["ETag"]],
        sizes=sizes,
        modified_us=modified,
    )


def _decoded(keys: list[str]) -> list[str]:
    """All at once where that can be split again: what was encoded holds no line break, what is
    decoded may.
    """
    together = "\n".join(keys)
    if "%" not in together and "+" not in together:
        return keys
    found = unquote_plus(together).split("\n")
    return found if len(found) == len(keys) else [unquote_plus(key) for key in keys]


# -- values ----------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _time(text: str) -> int:
    return microseconds(datetime.fromisoformat(text))


def microseconds(when: datetime) -> int:
    return int(when.timestamp() * 1e6)


def as_head(key: str, etag: str | None, size: int, modified: datetime) -> Head:
    return Head(
        key=key, etag=(etag or "").strip('"'), size_bytes=size, modified_us=microseconds(modified)
    )


def as_stored(
    key: str, body: bytes, *, etag: str | None, size: int, modified: datetime, expected: int
) -> Stored:
    require_whole(key, body, expected)
    return Stored(
        body=body, etag=(etag or "").strip('"'), size_bytes=size, modified_us=microseconds(modified)
    )


def require_whole(key: str, body: bytes, expected: int) -> None:
    """Raises StoreUnavailable for an answer that was cut off."""
    if len(body) != expected:
        raise StoreUnavailable(f"{key!r}: the store sent {len(body)} bytes of {expected}")


def span(start: int, end: int | None, size: int) -> int:
    """How many bytes [start, end) are of an object of that size; without an end, up to its own."""
    return max(0, (size if end is None else min(end, size)) - start)


def exact_size(key: str, found: dict[str, Any], body: bytes, start: int) -> int:
    """The object's size, from boto3's answer to a read. Raises RangeEmpty, StoreUnavailable."""
    if not body and "ContentRange" not in found:  # SeaweedFS, of a key that ends with a slash
        raise RangeEmpty(f"{key}: the object has no bytes in the range that was asked for")
    return whole_size(key, found.get("ContentRange"), start)


def whole_size(key: str, content_range: str | None, start: int) -> int:
    """The object's size, from an answer's Content-Range (RFC 9110, 14.4).

    Raises StoreUnavailable where it is of another range.
    """
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", content_range or "")
    if found is None or int(found[1]) != start:
        raise StoreUnavailable(
            f"{key!r}: the store sent another range than was asked for ({content_range})"
        )
    return int(found[2])
