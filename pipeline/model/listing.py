"""Objects as a store lists them, says of them, and gives them."""

from __future__ import annotations

from collections.abc import Sequence

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

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of(cls, rows: Sequence[tuple[str, str, int, int]]) -> Page:
        """From rows of key, etag, size and time of change, in this order."""
        keys, etags, sizes, modified_us = zip(*rows, strict=True) if rows else ((), (), (), ())
        return Page(
            keys=list(keys), etags=list(etags), sizes=list(sizes), modified_us=list(modified_us)
        )

    @classmethod
    def joined(cls, pages: Sequence[Page]) -> Page:
        """Pages that follow each other as one."""
        if len(pages) == 1:
            return pages[0]
        return Page(
            **{
                name: [value for page in pages for value in getattr(page, name)]
                for name in cls.__struct_fields__
            }
        )

    def take(self, indexes: Sequence[int]) -> Page:
        """The objects at these positions, in this order; no unusable names."""
        if len(indexes) == len(self):
            return self
        return Page(
            keys=[self.keys[i] for i in indexes],
            etags=[self.etags[i] for i in indexes],
            sizes=[self.sizes[i] for i in indexes],
            modified_us=[self.modified_us[i] for i in indexes],
        )

    def slice(self, start: int, stop: int | None = None) -> Page:
        """The objects from one position up to another; unusable names only with the last."""
        is_last = stop is None or stop >= len(self)
        if start == 0 and is_last:
            return self
        return Page(
            keys=self.keys[start:stop],
            etags=self.etags[start:stop],
            sizes=self.sizes[start:stop],
            modified_us=self.modified_us[start:stop],
            unusable=self.unusable if is_last else [],
        )


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
