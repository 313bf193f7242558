"""python -m infra.policy FILE s3://bucket/prefix: the least an IAM role must be allowed for these pipelines, as JSON.

Sources are read and never written; rows, aggregates and state are written below their own prefixes and nowhere else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from pipeline import keys
from pipeline.api import Pipeline
from pipeline.errors import SettingsError, TidemillError
from pipeline.loading import load_pipelines


def bucket_policy(pipelines: Sequence[Pipeline], url: str) -> dict[str, Any]:
    """An IAM policy document. Raises SettingsError if `url` is no `s3://bucket/prefix`."""
    if not url.startswith("s3://"):
        raise SettingsError(f"{url!r} is not s3://bucket/prefix")
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    prefix = prefix if not prefix or prefix.endswith("/") else prefix + "/"
    arn = f"arn:aws:s3:::{bucket}"
    sources = sorted({f"{prefix}{p.source}" for p in pipelines})
    own = sorted({f"{prefix}{name}" for p in pipelines for name in (p.output, keys.home(p.name))})
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "List",
                "Effect": "Allow",
                "Action": "s3:ListBucket",
                "Resource": arn,
                "Condition": {"StringLike": {"s3:prefix": [f"{name}*" for name in [*sources, *own]]}},
            },
            {"Sid": "ReadSources", "Effect": "Allow", "Action": "s3:GetObject", "Resource": [f"{arn}/{name}*" for name in sources]},
            {
                "Sid": "KeepRowsAndState",
                "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
                "Resource": [f"{arn}/{name}*" for name in own],
            },
        ],
    }


def main() -> int:
    """The command; exit code 2 for bad input."""
    if len(sys.argv) != 3:
        sys.stderr.write("usage: python -m infra.policy FILE s3://bucket/prefix\n")
        return 2
    try:
        found = bucket_policy(load_pipelines(sys.argv[1]), sys.argv[2])
    except TidemillError as error:
        sys.stderr.write(f"tidemill: {error}\n")
        return 2
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
