"""How a pipeline file is deployed: which bucket, whose credentials, where mounts are.

Read from the environment, so that the same module builds the same app on the laptop that deploys
and in each container.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

import msgspec

from pipeline.declare.pipeline import Pipeline
from pipeline.errors import SettingsError
from pipeline.model import keys
from pipeline.model.settings import PipelineSettings
from pipeline.stores.s3.address import s3_address

_APP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")

VARIABLES = {
    "file": "TIDEMILL_FILE",
    "bucket": "TIDEMILL_BUCKET",
    "endpoint_url": "TIDEMILL_ENDPOINT_URL",
    "region": "TIDEMILL_REGION",
    "app": "TIDEMILL_APP",
    "secret": "TIDEMILL_SECRET",
    "oidc_role_arn": "TIDEMILL_OIDC_ROLE_ARN",
    "mount_root": "TIDEMILL_MOUNT_ROOT",
    "environment": "TIDEMILL_MODAL_ENVIRONMENT",
}


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """One deployed app. secret: the Modal secret that holds the bucket's keys; oidc_role_arn: or
    the role to assume without any.
    """

    file: str
    bucket: str
    endpoint_url: str | None = None
    region: str | None = None
    app: str = ""
    secret: str | None = None
    oidc_role_arn: str | None = None
    mount_root: str = "/mnt/tidemill"
    environment: str | None = None

    @property
    def bucket_name(self) -> str:
        """The S3 bucket."""
        return s3_address(self.bucket)[0]

    @property
    def bucket_prefix(self) -> str:
        """What comes before every key, with a slash at its end, or nothing."""
        return s3_address(self.bucket)[1]

    def variables(self) -> dict[str, str]:
        """The environment that gives this deployment again."""
        return {VARIABLES[name]: value for name in VARIABLES if (value := getattr(self, name))}


def from_environment(environment: Mapping[str, str] = os.environ) -> Deployment:
    """The deployment that the environment describes. Raises SettingsError for what is missing."""
    found = {
        name: environment[variable]
        for name, variable in VARIABLES.items()
        if environment.get(variable)
    }
    for name in ("file", "bucket"):
        if name not in found:
            raise SettingsError(
                f"set {VARIABLES[name]} to deploy this app, or use  tidemill deploy FILE --bucket"
                " s3://..."
            )
    return msgspec.convert(found, Deployment)


def checked(deployment: Deployment, pipelines: Sequence[Pipeline], app: str) -> Deployment:
    """The deployment, called `app` unless it has a name, refused where it cannot work.

    Raises SettingsError with one line.
    """
    if not deployment.bucket.startswith("s3://"):
        raise SettingsError(
            f"{deployment.bucket!r} cannot be reached from Modal: a deployed pipeline needs an"
            " s3:// bucket"
        )
    _check_rights(deployment)
    app = deployment.app or app
    if not _APP.match(app):
        raise SettingsError(
            f"{app!r} is no app name: letters, digits, '.', '_' and '-', at most 63"
        )
    if not deployment.mount_root.startswith("/") or deployment.mount_root.rstrip("/") in (
        "",
        "/root",
        "/tmp",  # noqa: S108
    ):
        raise SettingsError(
            f"the mount root {deployment.mount_root!r} must be an absolute path, and not /, /root"
            " or /tmp"
        )
    for pipeline in pipelines:
        _check_pipeline(pipeline)
    return msgspec.structs.replace(deployment, app=app)


def _check_rights(deployment: Deployment) -> None:
    """That there is one way, and one only, to the bucket."""
    if deployment.secret and deployment.oidc_role_arn:
        raise SettingsError("give a secret or an OIDC role, not both")
    if not deployment.secret and not deployment.oidc_role_arn:
        raise SettingsError(
            "the app needs rights on the bucket: --secret NAME (a Modal secret with"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or --oidc-role ARN (no long-lived keys;"
            " `python -m infra.iam_policy` prints what the role must be allowed)"
        )


def _check_pipeline(pipeline: Pipeline) -> None:
    """What only matters once the pipeline is deployed."""
    settings = pipeline.settings()
    if pipeline.upstream is not None and settings.deployment.access == "mount":
        raise SettingsError(
            f"pipeline {pipeline.name} reads the table of {pipeline.upstream.name}: deploy it with"
            ' access="api" (a mount shows files; which of them count is in the log)'
        )
    if settings.deployment.schedule is None:
        raise SettingsError(
            f'pipeline {pipeline.name} has no schedule: add one, like schedule="*/5 * * * *", to'
            " deploy it"
        )
    _check_sinks(pipeline)
    for transform in settings.transforms:
        if transform.timeout_s < 1:
            raise SettingsError(
                f"pipeline {pipeline.name}, transform {transform.name}:"
                f" timeout_s={transform.timeout_s:g}; on Modal a call has at least 1 s"
            )


def _check_sinks(pipeline: Pipeline) -> None:
    for name, target in pipeline.sinks.items():
        if target.stays_here:
            raise SettingsError(
                f"pipeline {pipeline.name}, sink {name}: a file of this machine, which no container"
                " reaches; leave it out"
            )


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """One mounted part of the bucket: its key prefix within the store, where it is seen, and
    whether it may be written.
    """

    prefix: str
    path: str
    read_only: bool


def mounts_of(settings: PipelineSettings, root: str) -> list[Mount]:
    """What the workers of one pipeline see of the bucket: sources and orders read-only, rows and
    receipts writable. No more.
    """
    base, home = f"{root.rstrip('/')}/{settings.name}", keys.home(settings.name)
    return [
        Mount(prefix=settings.source, path=f"{base}/source", read_only=True),
        Mount(prefix=keys.assignment_prefix(home), path=f"{base}/assignments", read_only=True),
        Mount(prefix=settings.output, path=f"{base}/output", read_only=False),
        Mount(prefix=keys.receipt_prefix(home), path=f"{base}/receipts", read_only=False),
    ]
