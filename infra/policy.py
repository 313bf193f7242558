"""python -m infra.policy FILE s3://bucket/prefix [--role ROLE]: the least an IAM role must be allowed for these pipelines, as JSON.

Sources are read and never written; rows, aggregates and state are written below their own prefixes and nowhere else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from infra.roles import Role, policy_of, role_named
from pipeline.api import Pipeline
from pipeline.errors import SettingsError, TidemillError
from pipeline.loading import load_pipelines

USAGE = "usage: python -m infra.policy FILE s3://bucket/prefix [--role reader|worker|committer|operator]\n"


def bucket_policy(pipelines: Sequence[Pipeline], url: str, role: Role = "operator") -> dict[str, Any]:
    """An IAM policy document. Raises SettingsError if `url` is no `s3://bucket/prefix`."""
    if not url.startswith("s3://"):
        raise SettingsError(f"{url!r} is not s3://bucket/prefix")
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return policy_of(role, pipelines, bucket, prefix if not prefix or prefix.endswith("/") else prefix + "/")


def main() -> int:
    """The command; exit code 2 for bad input."""
    words = sys.argv[1:]
    role = "operator"
    if len(words) == 4 and words[2] == "--role":
        role = words.pop()
        words.pop()
    if len(words) != 2:
        sys.stderr.write(USAGE)
        return 2
    try:
        found = bucket_policy(load_pipelines(words[0]), words[1], role_named(role))
    except TidemillError as error:
        sys.stderr.write(f"tidemill: {error}\n")
        return 2
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
