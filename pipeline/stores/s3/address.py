"""`s3://bucket/prefix`, and the endpoint of a service: taken apart, and refused where they can name
nothing.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pipeline.errors import SettingsError

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")


def s3_address(url: str) -> tuple[str, str]:
    """The bucket of `s3://bucket/prefix`, and what comes before every key: with a slash at its end,
    or nothing.
    """
    name, _, prefix = url.removeprefix("s3://").partition("/")
    return name, prefix if not prefix or prefix.endswith("/") else prefix + "/"


def require_bucket_name(name: str, url: str) -> None:
    """Raises SettingsError for what S3 takes for no bucket's name."""
    if not _BUCKET.match(name):
        raise SettingsError(
            f"{url!r}: {name!r} is no S3 bucket name (3 to 63 lower-case letters, digits, - and .)"
        )


def require_endpoint(url: str | None) -> None:
    """Raises SettingsError for an endpoint that is no URL of a service, or has
    credentials in it.
    """
    if url is None:
        return
    if "@" in url:  # it would be shown in errors and sent to the service in clear
        raise SettingsError(
            "the endpoint URL has a name or password before '@': leave it out, boto3 finds the"
            " credentials"
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(
            f"the endpoint {url!r} is no URL of a service: write it like https://HOST or"
            " http://HOST:PORT"
        )
