"""Where objects live: a local directory or an S3 bucket, by URL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.errors import SettingsError

if TYPE_CHECKING:
    from pipeline.ports import Store

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")


def open_store(url: str, *, endpoint_url: str | None = None, region: str | None = None, create: bool = False) -> Store:
    """The store behind a URL: `file:///dir`, a directory's path, or `s3://bucket/prefix`. Does no request yet.

    endpoint_url, region: for S3 services other than AWS. create: make a local directory that does not exist.
    Raises SettingsError for a URL that names no bucket.
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme in ("", "file"):
        from pipeline.stores.local import LocalStore

        return LocalStore(_directory(url), create=create)
    if scheme == "s3":
        from pipeline.stores.s3 import S3Store

        name, prefix = s3_address(url)
        if not _BUCKET.match(name):
            raise SettingsError(f"{url!r}: {name!r} is no S3 bucket name (3 to 63 lower-case letters, digits, - and .)")
        if "@" in (endpoint_url or ""):  # it would be shown in errors and sent to the service in clear
            raise SettingsError("the endpoint URL has a name or password before '@': leave it out, boto3 finds the credentials")
        return S3Store(name, prefix, endpoint_url=endpoint_url, region=region)
    raise SettingsError(f"{url!r} is no bucket Tidemill knows: use a directory, file:///dir or s3://bucket/prefix")


def _directory(url: str) -> Path:
    if not url.startswith("file:"):
        return Path(url).expanduser()
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise SettingsError(f"{url!r} needs three slashes and an absolute path, like file:///data/bucket")
    return Path(unquote(parts.path))


def s3_address(url: str) -> tuple[str, str]:
    """The bucket of `s3://bucket/prefix`, and what comes before every key: with a slash at its end, or nothing."""
    name, _, prefix = url.removeprefix("s3://").partition("/")
    return name, prefix if not prefix or prefix.endswith("/") else prefix + "/"
