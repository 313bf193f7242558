"""Where objects live: a local directory or an S3 bucket, by URL."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.errors import SettingsError

if TYPE_CHECKING:
    from pipeline.ports import Store

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")

BESIDE_MAX = 1000
"""Directories beside a missing bucket among which one is looked for."""


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
        if endpoint_url is not None:
            _require_endpoint(endpoint_url)
        return S3Store(name, prefix, endpoint_url=endpoint_url, region=region)
    raise SettingsError(f"{url!r} is no bucket Tidemill knows: use a directory, file:///dir or s3://bucket/prefix")


def _require_endpoint(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"the endpoint {url!r} is no URL of a service: write it like https://HOST or http://HOST:PORT")


def require_place(url: str) -> None:
    """Raises SettingsError for a URL that names no bucket, and where a local one is no directory: as every command says it."""
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme in ("", "file"):
        require_directory(_directory(url).absolute())


def require_directory(root: Path) -> None:
    """Raises SettingsError where a local bucket is no directory, with the one beside it that was perhaps meant."""
    if root.is_dir():
        return
    if root.exists():
        raise SettingsError(f"the bucket {root} is not a directory: give the directory that the keys are in")
    beside = [one.name for one in root.parent.iterdir() if one.is_dir()] if root.parent.is_dir() else []
    close = difflib.get_close_matches(root.name, sorted(beside)[:BESIDE_MAX], 1)
    meant = f"did you mean {root.parent / close[0]}? Else make it" if close else "make it"
    raise SettingsError(f"the bucket {root} does not exist: {meant} with  mkdir -p {root}")


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
