"""python -m infra.iam_policy FILE s3://bucket/prefix [--role ROLE]: the least an IAM role must be
allowed, as JSON.

Sources are read and never written; rows, aggregates and state are written below their own prefixes
and nowhere else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from infra.iam_roles import Role, policy_of, role_named
from pipeline.declare.load_file import load_pipelines
from pipeline.declare.pipeline import Pipeline
from pipeline.errors import SettingsError, TidemillError
from pipeline.stores.s3.address import s3_address


def bucket_policy(
    pipelines: Sequence[Pipeline], url: str, role: Role = "operator"
) -> dict[str, Any]:
    """An IAM policy document. Raises SettingsError if `url` is no `s3://bucket/prefix`."""
    if not url.startswith("s3://"):
        raise SettingsError(f"{url!r} is not s3://bucket/prefix")
    return policy_of(role, pipelines, *s3_address(url))


@click.command(help=__doc__)
@click.argument("file", metavar="FILE")
@click.argument("url", metavar="s3://bucket/prefix")
@click.option(
    "--role", default="operator", show_default=True, help="reader, worker, committer or operator"
)
def _print(file: str, url: str, role: str) -> None:
    click.echo(json.dumps(bucket_policy(load_pipelines(file), url, role_named(role)), indent=2))


def main() -> int:
    """The command; exit code 2 for bad input."""
    try:
        _print.main(prog_name="python -m infra.iam_policy", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"tidemill: {error.format_message()}", err=True)
        return 2
    except TidemillError as error:
        click.echo(f"tidemill: {error}", err=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
