"""Objects as a store lists them, says of them, and gives them."""

from __future__ import annotations

import msgspec


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a listing: parallel columns in UTF-8 byte order of `keys`.

    `unusable` holds printable forms of names that cannot be object keys at all (say, file names
    that are not UTF-8).
    """

    keys: list[str]
    etags: list[str]
    sizes: list[int]
    modified_us: list[int]
    unusable: list[str] = []


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a store knows of one object without its bytes."""

    key: str
    etag: str
    size_bytes: int
    modified_us: int


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """One object as read: the bytes and the version they belong to."""

    body: bytes
    etag: str
    size_bytes: int
    """Size of the whole object, also when only a range was read."""
    modified_us: int
