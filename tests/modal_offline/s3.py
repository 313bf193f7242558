"""The S3 client of a bucket mount."""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import boto3
from botocore import UNSIGNED
from botocore.config import Config

_ONE_AT_A_TIME = threading.Lock()


def s3_client(settings: dict[str, Any]) -> Any:
    """A client with the mount's own credentials, and no others: without any it is anonymous."""
    keys = settings["credentials"]
    signed = "AWS_ACCESS_KEY_ID" in keys
    config = Config(
        signature_version=None if signed else UNSIGNED,
        s3={"addressing_style": "path"},
        max_pool_connections=32,
        retries={"max_attempts": 3, "mode": "standard"},
    )
    # sessions are not for several threads; making one takes ten times as long as making a client
    with _ONE_AT_A_TIME:
        return _session().client(
            "s3",
            endpoint_url=settings["endpoint"] or None,
            region_name=keys.get("AWS_REGION") or keys.get("AWS_DEFAULT_REGION") or "us-east-1",
            aws_access_key_id=keys.get("AWS_ACCESS_KEY_ID") if signed else None,
            aws_secret_access_key=keys.get("AWS_SECRET_ACCESS_KEY") if signed else None,
            aws_session_token=keys.get("AWS_SESSION_TOKEN") if signed else None,
            config=config,
        )


@cache
def _session() -> boto3.Session:
    return boto3.Session()
