"""An S3 bucket, or a prefix in one, on AWS or any service that honours conditional writes.

Keys are exact: whatever S3 allows as a key is read and written as it is. Most requests go through
obstore (a Rust client, far lighter than boto3); keys that its paths cannot express (`a//b`, `x/`,
control characters) go through boto3. Listings are signed by boto3 and read here (`s3_pages`), since
obstore drops the last slash of a key and stops at odd ones. Credentials are found the way boto3
finds them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import (
    KeyUnsupported,
    ObjectNotFound,
    PreconditionFailed,
    SourceChanged,
    StoreUnavailable,
    StoreUnsafe,
)
from pipeline.model.listing import Head, Page, Stored
from pipeline.ports import Content, StoreTraits
from pipeline.stores.s3.content import S3Content
from pipeline.stores.s3.errors import RangeEmpty, explained, of_code
from pipeline.stores.s3.list_answer import as_head, as_stored, exact_size, require_whole, span
from pipeline.stores.s3.lister import S3Lister
from pipeline.stores.s3.versions import old_version

T = TypeVar("T")

KEY_BYTES_MAX = 1024
CONCURRENT = 32
MULTIPART_BYTES = 16 * 2**20
DELETE_MAX = 1000

_ODD = re.compile(r"(^|/)(\.{0,2})(/|$)|[\x00-\x1f\x7f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class S3Store:
    """The Store port over one bucket and prefix."""

    def __init__(
        self, bucket: str, prefix: str, *, endpoint_url: str | None, region: str | None
    ) -> None:
        import boto3

        self.url: str = f"s3://{bucket}/{prefix}"
        self.traits: StoreTraits = StoreTraits(
            is_mountable=True,
            foreign_options=self._foreign_options,
            old_version=partial(old_version, self),
        )
        self._bucket = bucket
        self._prefix = prefix
        self._session = boto3.Session()
        self._region = region or self._session.region_name or "us-east-1"
        self._endpoint_url = endpoint_url
        with explained(self.url):
            self._boto: Any = self._boto_client({"max_attempts": 6})
            self._boto_once: Any = self._boto_client({"total_max_attempts": 1})
        self._lister = S3Lister(self._boto, bucket, prefix, endpoint_url)
        self._fast: Any = None
        self._fast_once: Any = None
        self._gate: asyncio.Semaphore | None = None

    # -- clients -----------------------------------------------------------------------------------

    def _boto_client(self, retries: dict[str, Any]) -> Any:
        from botocore.config import Config

        config = Config(
            s3={"addressing_style": "path"} if self._endpoint_url else None,
            signature_version="s3v4",
            retries={**retries, "mode": "standard"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            max_pool_connections=CONCURRENT,
        )
        return self._session.client(
            "s3", endpoint_url=self._endpoint_url, region_name=self._region, config=config
        )

    def _client(self, *, once: bool = False) -> Any:
        """The obstore client; the one that sends each request once for conditional writes."""
        if self._fast is None:
            from datetime import timedelta

            from obstore.auth.boto3 import Boto3CredentialProvider
            from obstore.store import S3Store as Fast

            common = self._fast_options()
            with explained(self.url):
                credentials = Boto3CredentialProvider(self._session)
                retry = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
                never = {"max_retries": 0, "retry_timeout": timedelta(seconds=60)}
                self._fast = Fast(
                    self._bucket, credential_provider=credentials, retry_config=retry, **common
                )
                self._fast_once = Fast(
                    self._bucket, credential_provider=credentials, retry_config=never, **common
                )
        return self._fast_once if once else self._fast

    def _fast_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"region": self._region}
        if self._endpoint_url is not None:
            options |= {"endpoint": self._endpoint_url, "virtual_hosted_style_request": False}
            options["client_options"] = {"allow_http": self._endpoint_url.startswith("http://")}
        return options

    def _limit(self) -> asyncio.Semaphore:
        if self._gate is None:
            self._gate = asyncio.Semaphore(CONCURRENT)
        return self._gate

    def _full(self, key: str) -> str:
        return self._prefix + key

    def _foreign_options(self) -> dict[str, str]:
        """How another client of this process reaches the bucket, in the words of object_store
        (Rust), with the keys of now.
        """
        found = self._session.get_credentials()
        options = {"aws_region": self._region, "aws_conditional_put": "etag"}
        if self._endpoint_url is not None:
            options |= {
                "aws_endpoint": self._endpoint_url,
                "aws_virtual_hosted_style_request": "false",
            }
            options["aws_allow_http"] = str(self._endpoint_url.startswith("http://")).lower()
        if found is not None:
            keys = found.get_frozen_credentials()
            options |= {
                "aws_access_key_id": keys.access_key,
                "aws_secret_access_key": keys.secret_key,
            }
            options |= {"aws_session_token": keys.token} if keys.token else {}
        return options

    async def check(self, prefix: str = "") -> None:
        """One small listing below the prefix: proves that the bucket exists and may
        be read there.
        """
        await self._lister.check(prefix)

    async def close(self) -> None:
        """Release connections."""
        self._lister.close()
        self._boto.close()
        self._boto_once.close()

    # -- listing -----------------------------------------------------------------------------------

    @property
    def sorts(self) -> bool:
        """Whether the service is known to list in another order than that of the keys' bytes."""
        return self._lister.sorts

    def list(
        self, prefix: str, *, start_after: str = "", split_at: Sequence[str] = ()
    ) -> AsyncIterator[Page]:
        return self._lister.list(prefix, start_after, split_at)

    def pages(self, prefix: str, start_after: str = "", *, size: int = 1000) -> AsyncIterator[Page]:
        """Pages of up to `size` keys as the service gives them, in whatever order."""
        return self._lister.pages(prefix, start_after, size)

    # -- reading -----------------------------------------------------------------------------------

    async def get(
        self, key: str, *, if_match: str | None = None, byte_range: tuple[int, int] | None = None
    ) -> Stored:
        start, end = byte_range or (0, None)
        if end is not None and end <= start:
            return self._nothing(await self.head(key), if_match, start, end)
        try:
            if _ODD.search(self._full(key)):
                return await asyncio.to_thread(self._get_exact, key, if_match, start, end)
            return await self._get_plain(key, if_match, start, end)
        except RangeEmpty:
            return self._nothing(await self.head(key), if_match, start, end)

    async def _get_plain(
        self, key: str, if_match: str | None, start: int, end: int | None
    ) -> Stored:
        options = _reading(if_match, start, end)
        async with self._limit():
            with explained(key):
                result = await self._client().get_async(self._full(key), options=options)
                body = bytes(await result.bytes_async())
        meta = result.meta
        self._answered(key, meta["e_tag"], if_match)
        etag, size, modified = meta["e_tag"], meta["size"], meta["last_modified"]
        return as_stored(
            key, body, etag=etag, size=size, modified=modified, expected=span(start, end, size)
        )

    def _nothing(self, head: Head, if_match: str | None, start: int, end: int | None) -> Stored:
        """No bytes of an object: S3 answers 416 where a range begins at its end or behind, as each
        range of an empty one does.
        """
        if if_match not in (None, head.etag):
            raise PreconditionFailed(f"{head.key!r} exists, or is at another version")
        if span(start, end, head.size_bytes):
            raise StoreUnavailable(
                f"{head.key!r}: the store sent 0 bytes of {span(start, end, head.size_bytes)}"
            )
        return Stored(
            body=b"", etag=head.etag, size_bytes=head.size_bytes, modified_us=head.modified_us
        )

    def _answered(self, key: str, etag: str | None, if_match: str | None) -> None:
        """Raises StoreUnsafe where a read at one version was answered with another: nothing that is
        read could be trusted.
        """
        if if_match is not None and (etag or "").strip('"') != if_match:
            raise StoreUnsafe(
                f"{self.url} answered {key!r} at version {etag} where {if_match} was asked for"
                " (If-Match)"
            )

    def _get_exact(self, key: str, if_match: str | None, start: int, end: int | None) -> Stored:
        parameters = self._reading_exact(key, if_match, start, end)
        with explained(key):
            found = self._boto.get_object(**parameters)
            body = found["Body"].read()
        self._answered(key, found["ETag"], if_match)
        size = exact_size(key, found, body, start)
        etag, modified = found["ETag"], found["LastModified"]
        return as_stored(
            key, body, etag=etag, size=size, modified=modified, expected=span(start, end, size)
        )

    def _reading_exact(
        self, key: str, if_match: str | None, start: int, end: int | None
    ) -> dict[str, Any]:
        parameters: dict[str, Any] = {"Bucket": self._bucket, "Key": self._full(key)}
        if if_match is not None:
            parameters["IfMatch"] = f'"{if_match}"'
        parameters["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        return parameters

    async def get_many(self, keys: Sequence[str]) -> Sequence[Stored | None]:
        return await asyncio.gather(*(_or_none(self.get(key)) for key in keys))

    async def head(self, key: str) -> Head:
        if _ODD.search(self._full(key)):
            with explained(key):
                found = await asyncio.to_thread(
                    self._boto.head_object, Bucket=self._bucket, Key=self._full(key)
                )
            return as_head(key, found["ETag"], found["ContentLength"], found["LastModified"])
        async with self._limit():
            with explained(key):
                meta = await self._client().head_async(self._full(key))
        return as_head(key, meta["e_tag"], meta["size"], meta["last_modified"])

    async def head_many(self, keys: Sequence[str]) -> Sequence[Head | None]:
        return await asyncio.gather(*(_or_none(self.head(key)) for key in keys))

    def open_content(self, key: str, etag: str, size_bytes: int) -> Content:
        return S3Content(self.read_range, key, etag, size_bytes)

    def read_range(self, key: str, etag: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of one version, clipped to it, synchronously, for user code.

        `etag` "" reads whatever is there.

        Raises ObjectNotFound, SourceChanged, StoreUnavailable, StoreDenied.
        """
        try:
            if _ODD.search(self._full(key)):
                return self._get_exact(key, etag or None, start, end).body
            body, meta = self._read_plain(key, etag or None, start, end)
        except PreconditionFailed:
            raise SourceChanged(f"{key!r} was overwritten after it was planned") from None
        except RangeEmpty:
            raise StoreUnavailable(f"{key!r}: the store has no bytes from {start} on") from None
        self._answered(key, meta["e_tag"], etag or None)
        require_whole(key, body, span(start, end, meta["size"]))
        return body

    def _read_plain(
        self, key: str, etag: str | None, start: int, end: int
    ) -> tuple[bytes, dict[str, Any]]:
        with explained(key):
            result = self._client().get(self._full(key), options=_reading(etag, start, end))
            return bytes(result.bytes()), result.meta

    # -- writing -----------------------------------------------------------------------------------

    async def put(
        self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None
    ) -> None:
        full = self._checked(key)
        if _ODD.search(full):
            await asyncio.to_thread(self._put_exact, full, body, create_only, if_match)
            return
        mode: Any = (
            "create"
            if create_only
            else {"e_tag": f'"{if_match}"'}
            if if_match is not None
            else "overwrite"
        )
        conditional = create_only or if_match is not None
        async with self._limit():
            with explained(key, conditional_write=conditional):
                await self._client(once=conditional).put_async(
                    full, body, mode=mode, use_multipart=False
                )

    def _put_exact(self, full: str, body: bytes, create_only: bool, if_match: str | None) -> None:
        parameters: dict[str, Any] = {}
        if create_only:
            parameters["IfNoneMatch"] = "*"
        elif if_match is not None:
            parameters["IfMatch"] = f'"{if_match}"'
        client = self._boto_once if parameters else self._boto
        with explained(full, conditional_write=bool(parameters)):
            client.put_object(Bucket=self._bucket, Key=full, Body=body, **parameters)

    async def put_file(self, key: str, path: Path) -> None:
        from boto3.s3.transfer import TransferConfig

        settings = TransferConfig(
            multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES
        )
        with explained(key):
            await asyncio.to_thread(
                self._boto.upload_file, str(path), self._bucket, self._checked(key), Config=settings
            )

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            if _CONTROL.search(key):  # XML, in which many keys travel, cannot carry these
                await self._delete_alone(key)
        plain = [key for key in keys if not _CONTROL.search(key)]
        for start in range(0, len(plain), DELETE_MAX):
            await self._delete_together(plain[start : start + DELETE_MAX])

    async def _delete_alone(self, key: str) -> None:
        with explained(key):
            await asyncio.to_thread(
                self._boto.delete_object, Bucket=self._bucket, Key=self._full(key)
            )

    async def _delete_together(self, keys: Sequence[str]) -> None:
        part = [{"Key": self._full(key)} for key in keys]
        with explained(self.url):
            answer = await asyncio.to_thread(
                self._boto.delete_objects,
                Bucket=self._bucket,
                Delete={"Objects": part, "Quiet": True},
            )
        for error in answer.get("Errors", ()):
            if error.get("Code") != "NoSuchKey":
                raise of_code(error.get("Code", ""), 0, error.get("Key", self.url))

    def _checked(self, key: str) -> str:
        full = self._full(key)
        size = len(full.encode("utf-8", "surrogatepass"))
        if not key or size > KEY_BYTES_MAX:
            raise KeyUnsupported(
                f"{key[:80]!r} has {size} bytes with its prefix; S3 keys have 1 to {KEY_BYTES_MAX}"
            )
        return full


def _reading(if_match: str | None, start: int, end: int | None) -> dict[str, Any]:
    """How obstore is asked.

    Always for a range: its answer names the object's size apart from its own length, so that an
    answer cut off on its way is noticed even where its length was made to fit.
    """
    options: dict[str, Any] = {"range": {"offset": start} if end is None else (start, end)}
    if if_match is not None:
        options["if_match"] = f'"{if_match}"'
    return options


async def _or_none(request: Coroutine[Any, Any, T]) -> T | None:
    """The answer, None where there is no object."""
    try:
        return await request
    except ObjectNotFound:
        return None
