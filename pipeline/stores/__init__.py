"""Where objects live: a local directory or an S3 bucket, by URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import SettingsError
from pipeline.stores.local.address import directory_of, require_directory
from pipeline.stores.s3.address import require_bucket_name, require_endpoint, s3_address

if TYPE_CHECKING:
    from pipeline.ports import Store


def open_store(
    url: str, *, endpoint_url: str | None = None, region: str | None = None, create: bool = False
) -> Store:
    """The store behind a URL: `file:///dir`, a directory's path, or `s3://bucket/prefix`. Does no
    request yet.

    endpoint_url, region: for S3 services other than AWS. create: make a local directory that does
    not exist. Raises SettingsError for a URL that names no bucket.
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme in ("", "file"):
        from pipeline.stores.local.store import LocalStore

        return LocalStore(directory_of(url), create=create)
    if scheme == "s3":
        from pipeline.stores.s3.store import S3Store

        name, prefix = s3_address(url)
        require_bucket_name(name, url)
        require_endpoint(endpoint_url)
        return S3Store(name, prefix, endpoint_url=endpoint_url, region=region)
    raise SettingsError(
        f"{url!r} is no bucket Tidemill knows: use a directory, file:///dir or s3://bucket/prefix"
    )


def require_place(url: str) -> None:
    """Raises SettingsError for a URL that names no bucket, and where a local one is no directory:
    as every command says it.
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme in ("", "file"):
        require_directory(directory_of(url).absolute())
