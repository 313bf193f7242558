"""What tests of the deployed app share: an offline Modal, a bucket on a real S3 server, and the
command line as users run it.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import boto3

from tests.modal_offline import Offline
from tests.support.helpers import ROOT, Project
from tests.support.servers import KEYS, moto_url
from tests.support.warm import containers

T = TypeVar("T")
SECRET = "bucket-keys"


class Cloud:
    """An offline Modal whose secret `bucket-keys` opens the buckets of one S3 server.

    Several apps may be deployed to it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = moto_url()
        self.s3 = boto3.client("s3", endpoint_url=self.url, region_name="us-east-1")
        self.modal = Offline(
            folder / "modal", s3_endpoint=self.url, aws=KEYS, template=containers()
        )

    def __enter__(self) -> Cloud:
        self.modal.__enter__()
        self.modal.secrets[SECRET] = dict(KEYS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.modal.__exit__(kind, error, trace)

    def project(self, source: str | Path, *, prefix: str = "deep") -> Deployed:
        """A pipeline file (its text, or one that exists) on a bucket of its own; not
        deployed yet.
        """
        name = f"b-{secrets.token_hex(4)}"
        self.s3.create_bucket(Bucket=name)
        folder = self.folder / name
        folder.mkdir()
        return Deployed(self, folder, source, f"s3://{name}/{prefix}".rstrip("/"))


class Deployed(Project):
    """A project on the cloud: `call`, `run`, `sql` and `audit` are those of any project."""

    warm = ("boto3", "modal.runner")

    def __init__(self, cloud: Cloud, folder: Path, source: str | Path, bucket: str) -> None:
        self.cloud = cloud
        self.folder = folder
        self.bucket = bucket
        self.environment = {
            **KEYS,
            **cloud.modal.env,
            "TIDEMILL_ENDPOINT_URL": cloud.url,
            "TIDEMILL_APP": f"app-{folder.name}",
        }
        self.file = source if isinstance(source, Path) else folder / "flow.py"
        self.app = ""
        if isinstance(source, str):
            self.write(source)

    def deploy(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """`tidemill deploy`; afterwards `app` is the app's name."""
        import json

        options = ["--secret", SECRET, "--mount-root", str(self.folder / "mnt")]
        done = self.call("deploy", "--json", *options, *arguments, code=code)
        if code == 0:
            self.app = json.loads(done.stdout)[0]["app"]
        return done

    def tidemill(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Any command line, FILE included where it takes one."""
        done = self.finish(*arguments)
        if code is not None:
            assert done.returncode == code, (
                f"{arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TIDEMILL_BUCKET": self.bucket,
            **self.environment,
        }

    # the answer means something for local buckets alone
    def upload(self, key: str, body: str | bytes) -> Path:
        bucket, _, prefix = self.bucket.removeprefix("s3://").partition("/")
        content = body if isinstance(body, bytes) else body.encode()
        self.cloud.s3.put_object(
            Bucket=bucket, Key=f"{prefix}/{key}" if prefix else key, Body=content
        )
        return Path(key)

    def delete(self, key: str) -> None:
        bucket, _, prefix = self.bucket.removeprefix("s3://").partition("/")
        self.cloud.s3.delete_object(Bucket=bucket, Key=f"{prefix}/{key}" if prefix else key)

    def keys(self, below: str = "") -> list[str]:
        """Keys in the bucket, as the pipeline sees them."""
        bucket, _, prefix = self.bucket.removeprefix("s3://").partition("/")
        start = f"{prefix}/" if prefix else ""
        pages = self.cloud.s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=start + below
        )
        return [
            found["Key"].removeprefix(start) for page in pages for found in page.get("Contents", [])
        ]

    def fire(self, function: str = "tick", timeout_s: float = 120) -> None:
        """A schedule fires; wait until all that follows has ended."""
        self.cloud.modal.fire(self.app, function)
        self.cloud.modal.wait_idle(timeout_s)

    def inputs(self, function: str) -> list[Any]:
        """All inputs a function of the app ever got."""
        return self.cloud.modal.inputs(self.app, function)

    def until(self, condition: Callable[[], T], timeout_s: float = 60) -> T:
        """Wait for a condition; a failure shows all that is going on."""
        return self.cloud.modal.wait(condition, timeout_s)
