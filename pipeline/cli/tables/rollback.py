"""`tidemill rollback`: the generation before is live again."""

from __future__ import annotations

import click

from pipeline.cli.options import Target, on_bucket, root_runtime
from pipeline.cli.tables.publish import swapped


@click.command("rollback", epilog="Example:  tidemill rollback flows.py --bucket ./bucket")
@on_bucket
def rollback_command(target: Target) -> int:
    """Let readers see the generation again that was live before the last publish.

    What was uploaded since, the next run adds.
    """
    return swapped(target, root_runtime(target, target.only()), "rollback")
