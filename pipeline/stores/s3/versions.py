"""An older version of an object, where the bucket keeps versions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pipeline.errors import PreconditionFailed, SourceChanged, StoreDenied, StoreUnavailable
from pipeline.model.listing import Head
from pipeline.stores.s3.content import S3Content
from pipeline.stores.s3.errors import explained
from pipeline.stores.s3.list_answer import microseconds

if TYPE_CHECKING:
    from pipeline.stores.s3.store import S3Store

_PAGES_MAX = 20


class OldVersion:
    """One version of one object, by the id that the service gave it."""

    def __init__(
        self, client: Any, bucket: str, full_key: str, version_id: str, head: Head
    ) -> None:
        self.head = head
        self._client = client
        self._bucket = bucket
        self._full = full_key
        self._id = version_id

    def content(self) -> S3Content:
        """Read access for user code."""
        return S3Content(self._read, self.head.key, self.head.etag, self.head.size_bytes)

    def _read(self, key: str, etag: str, start: int, end: int) -> bytes:
        """Bytes [start, end), only if the version has this etag.

        Raises SourceChanged, StoreDenied, StoreUnavailable.
        """
        parameters = {"Bucket": self._bucket, "Key": self._full, "VersionId": self._id}
        try:
            with explained(key):
                found = self._client.get_object(
                    **parameters, IfMatch=f'"{etag}"', Range=f"bytes={start}-{end - 1}"
                )
                body: bytes = found["Body"].read()
        except PreconditionFailed:
            raise SourceChanged(
                f"{key!r}: version {self._id} has another etag than {etag}"
            ) from None
        return body


async def old_version(store: S3Store, key: str, etag: str) -> OldVersion | None:
    """The version of an object that has this etag; None where the bucket keeps no versions, not
    this one, or cannot say.
    """
    return await asyncio.to_thread(_find, store._boto, store._bucket, store._full(key), key, etag)


def _find(client: Any, bucket: str, full: str, key: str, etag: str) -> OldVersion | None:
    marker: dict[str, str] = {}
    for _ in range(_PAGES_MAX):
        try:
            with explained(key):
                page = client.list_object_versions(Bucket=bucket, Prefix=full, **marker)
        except (StoreDenied, StoreUnavailable):
            return None  # no right to list versions, or a service without them
        found = _version_in(page, full, etag)
        if found is not None:
            return OldVersion(client, bucket, full, found["VersionId"], _head(key, found))
        following = _following(page, full)
        if following is None:
            return None
        marker = following
    return None


def _version_in(page: dict[str, Any], full: str, etag: str) -> dict[str, Any] | None:
    for found in page.get("Versions", ()):
        if found["Key"] == full and found["ETag"].strip('"') == etag:
            version: dict[str, Any] = found
            return version
    return None


def _following(page: dict[str, Any], full: str) -> dict[str, str] | None:
    """Where the next page begins; None where no version of this key can be on it."""
    key = page.get("NextKeyMarker", "")
    if not page.get("IsTruncated") or key > full:
        return None
    return {"KeyMarker": key, "VersionIdMarker": page.get("NextVersionIdMarker", "")}


def _head(key: str, found: dict[str, Any]) -> Head:
    return Head(
        key=key,
        etag=found["ETag"].strip('"'),
        size_bytes=found["Size"],
        modified_us=microseconds(found["LastModified"]),
    )
