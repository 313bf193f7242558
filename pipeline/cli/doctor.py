"""`tidemill doctor`: what is missing on this machine, in the Modal account and in the bucket, and how to mend it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
import msgspec

from pipeline.cli import EXIT_PROBLEMS
from pipeline.cli.options import wait
from pipeline.cli.render import as_json, printable

if TYPE_CHECKING:
    from pipeline.assembly import Bucket
    from pipeline.doctor import Check


@click.command("doctor", epilog="Example:  tidemill doctor pipeline.py --bucket s3://bucket/prefix")
@click.argument("file", required=False)
@click.option("--bucket", envvar="TIDEMILL_BUCKET", help="file:///dir, a directory, or s3://bucket/prefix [$TIDEMILL_BUCKET]")
@click.option(
    "--endpoint-url",
    envvar=["TIDEMILL_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
    help="another S3 service than AWS (R2, MinIO, ...) [$AWS_ENDPOINT_URL]",
)
@click.option("--region", envvar=["AWS_REGION", "AWS_DEFAULT_REGION"], help="the bucket's region [$AWS_REGION]")
@click.option("--json", "in_json", is_flag=True, help="print JSON for programs")
@click.option("--debug", is_flag=True, help="show tracebacks of errors")
def doctor_command(  # noqa: PLR0917
    file: str | None, bucket: str | None, endpoint_url: str | None, region: str | None, in_json: bool, debug: bool
) -> int:
    """Check this machine and the Modal account, and where given FILE's pipelines and the bucket. One line for each check.

    Writes two small objects below each pipeline's home prefix and deletes them. Exit code 1 if anything failed.
    """
    from pipeline.assembly import Bucket
    from pipeline.doctor import failed

    where = Bucket(url=bucket, endpoint_url=endpoint_url, region=region) if bucket else None
    checks = wait(_checks(file, where))
    if in_json:
        as_json([msgspec.to_builtins(check) for check in checks])
    else:
        for check in checks:
            mend = f"; to mend it: {check.mend}" if check.mend else ""
            click.echo(f"{check.status:4}  {printable(check.check)}: {printable(check.found)}{mend}")
    return EXIT_PROBLEMS if failed(checks) else 0


async def _checks(file: str | None, bucket: Bucket | None) -> list[Check]:
    from pipeline import doctor
    from pipeline.assembly import RandomIds, WallClock

    checks, pipelines = doctor.declared(file, datetime.now(UTC)) if file else ([], [])
    checks = [*doctor.machine(), *await doctor.account(doctor.secrets_used(pipelines)), *checks]
    if bucket is not None:
        checks += await doctor.bucket_checks(bucket, pipelines, WallClock(), RandomIds())
    return checks
