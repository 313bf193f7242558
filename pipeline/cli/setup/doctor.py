"""`tidemill doctor`: what is missing on this machine, in the Modal account and in the bucket, and
how to fix it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
import msgspec

from pipeline import wording
from pipeline.cli import EXIT_BAD_INPUT, EXIT_PROBLEMS, render
from pipeline.cli.options import bucket_options, wait

if TYPE_CHECKING:
    from pipeline.deploy.machine_checks import Check
    from pipeline.runtime.bucket import Bucket


@click.command("doctor", epilog="Example:  tidemill doctor flows.py --bucket s3://bucket/prefix")
@click.argument("file", required=False)
@bucket_options
def doctor_command(file: str | None, bucket: Bucket | None, as_json: bool) -> int:
    """Check this machine and the Modal account, and where given FILE's pipelines and the bucket.

    One line for each check.

    Writes a few small objects below each pipeline's home prefix and deletes them. Exit code 1 if
    anything failed, 2 if the store breaks promises that commits rely on.
    """
    from pipeline.deploy.doctor import failed, unsafe
    from pipeline.stores import require_place

    checks = wait(_checks(file, bucket))
    if as_json:
        render.as_json([msgspec.to_builtins(check) for check in checks])
    else:
        for check in checks:
            click.echo(_line(check))
    if bucket is not None:
        require_place(bucket.url)  # said once more, as other commands say it
        bucket.open()
    if unsafe(checks):
        return EXIT_BAD_INPUT
    return EXIT_PROBLEMS if failed(checks) else 0


def _line(check: Check) -> str:
    fix = f"; to fix it: {check.fix}" if check.fix else ""
    return (
        f"{check.status:4}  {wording.printable(check.check)}: {wording.printable(check.found)}{fix}"
    )


async def _checks(file: str | None, bucket: Bucket | None) -> list[Check]:
    from pipeline.deploy import doctor, machine_checks
    from pipeline.runtime.system import RandomIds, WallClock

    checks, pipelines = doctor.declared(file, datetime.now(UTC)) if file else ([], [])
    checks = [
        *machine_checks.machine(),
        *await doctor.account(doctor.secrets_used(pipelines)),
        *checks,
    ]
    if bucket is not None:
        checks += await doctor.bucket_checks(bucket, pipelines, WallClock(), RandomIds())
    return checks
