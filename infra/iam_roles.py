"""The least rights of each role on a bucket, as IAM statements by prefix. Pure.

Each action and prefix here is used by a request that the code makes (tests/security/test_roles.py
records them). Listing is wider than the listings that are made: without s3:ListBucket at its key,
S3 answers 403 for an absent object, not 404.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from pipeline.declare.pipeline import Pipeline
from pipeline.errors import SettingsError, nearest
from pipeline.model import keys

Role = Literal["reader", "worker", "committer", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)

Rights = Mapping[str, Sequence[str]]
"""Actions to key patterns, relative to the bucket's URL; for s3:ListBucket the patterns of
prefixes.
"""

READ, WRITE, DELETE, LIST, ABORT = (
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:ListBucket",
    "s3:AbortMultipartUpload",
)
VERSIONS, READ_VERSION = "s3:ListBucketVersions", "s3:GetObjectVersion"


def role_named(name: str) -> Role:
    """The role. Raises SettingsError for a name that is none."""
    for role in ROLES:
        if role == name:
            return role
    raise SettingsError(
        f"there is no role {name!r}{nearest(name, [*ROLES])}; there are reader, worker, committer"
        " and operator"
    )


def policy_of(
    role: Role, pipelines: Sequence[Pipeline], bucket: str, prefix: str = ""
) -> dict[str, Any]:
    """An IAM policy document. prefix: within the bucket, with a slash at its end, or nothing."""
    arn = f"arn:aws:s3:::{bucket}"
    sums: dict[str, set[str]] = {}
    for pipeline in pipelines:
        for action, patterns in _RIGHTS[role](pipeline).items():
            sums.setdefault(action, set()).update(prefix + pattern for pattern in patterns)
    return {
        "Version": "2012-10-17",
        "Statement": [_statement(action, sorted(found), arn) for action, found in sums.items()],
    }


def _statement(action: str, patterns: Sequence[str], arn: str) -> dict[str, Any]:
    common = {"Sid": action.removeprefix("s3:"), "Effect": "Allow", "Action": action}
    if action in (LIST, VERSIONS):
        return {
            **common,
            "Resource": arn,
            "Condition": {"StringLike": {"s3:prefix": list(patterns)}},
        }
    return {**common, "Resource": [f"{arn}/{pattern}" for pattern in patterns]}


def _reader(pipeline: Pipeline) -> Rights:
    """SQL, status, lineage: what is committed, and never a source."""
    home = keys.home(pipeline.name)
    return {LIST: _listed(home), READ: [*_states(home), *_output(pipeline)]}


def _worker(pipeline: Pipeline) -> Rights:
    """Attempts: reads sources and orders, leaves rows, receipts and notes.

    A receipt makes nothing count by itself.
    """
    home, rows = keys.home(pipeline.name), _rows(pipeline)
    receipts, orders = f"{keys.receipt_prefix(home)}*", f"{keys.assignment_prefix(home)}*"
    return {
        LIST: [f"{pipeline.source}*", receipts, orders],
        READ: [f"{pipeline.source}*", receipts, orders],
        WRITE: [receipts, *rows],
        ABORT: rows,
    }


def _committer(pipeline: Pipeline) -> Rights:
    """Settles receipts and brings aggregates up to date: appends to the log, and
    deletes nothing.
    """
    home, source, sinks = keys.home(pipeline.name), f"{pipeline.source}*", _sinks(pipeline)
    receipts = f"{keys.receipt_prefix(home)}*"
    markers = (keys.format_marker(home), keys.format_marker(_further(home)))
    return {
        LIST: [*_listed(home), receipts, source, *_rows(pipeline), *sinks],
        READ: [*_states(home), receipts, *markers, source, *_output(pipeline), *sinks],
        WRITE: [*_committed(pipeline, home), *sinks],
    }


def _committed(pipeline: Pipeline, home: str) -> list[str]:
    """What commits write: log, checkpoints, aggregates."""
    return [
        *(f"{keys.log_prefix(one)}*" for one in (home, _further(home))),
        *_folded(home),
        *_folded(_further(home)),
        *_of_each(pipeline, keys.aggregate_prefix),
    ]


def _operator(pipeline: Pipeline) -> Rights:
    """Everything: runs, ticks, jobs, backfills, the vacuum. Never writes or deletes a source."""
    home, source, sinks = keys.home(pipeline.name), f"{pipeline.source}*", _sinks(pipeline)
    out, passing = _output(pipeline), _passing(home)
    seen = [f"{home}*", source, *out, *sinks]
    return {
        LIST: seen,
        READ: seen,
        WRITE: [*_kept(home), *passing, *out, *sinks],
        DELETE: [*_vacuumed(home), *passing, *out],
        ABORT: [*_rows(pipeline), *sinks],
        VERSIONS: [source],
        READ_VERSION: [source],
    }


def _kept(home: str) -> list[str]:
    """The state as runs write it."""
    return [
        keys.format_marker(home),
        f"{keys.log_prefix(home)}*",
        keys.floor(home),
        f"{keys.generations_prefix(home)}*",
        *_folded(home),
    ]


def _vacuumed(home: str) -> list[str]:
    """What of the state a vacuum deletes: the hint and the floor stay."""
    log, generations = keys.log_prefix(home), keys.generations_prefix(home)
    return [f"{log}*", f"{generations}*", *_folded(home)[:2]]


def _passing(home: str) -> list[str]:
    """What is written for a while: receipts, orders, jobs, and what probes of the store write."""
    return [
        f"{keys.receipt_prefix(home)}*",
        f"{keys.assignment_prefix(home)}*",
        f"{keys.job_prefix(home)}*",
        f"{home}probe-*",
        f"{home}clock-*",
    ]


def _state(home: str) -> list[str]:
    """What loading the state reads; the ledger last."""
    return [
        f"{keys.log_prefix(home)}*",
        f"{keys.checkpoint_prefix(home)}*",
        keys.hint(home),
        keys.floor(home),
        f"{keys.ledger_prefix(home)}*",
    ]


def _states(home: str) -> list[str]:
    """The same of all generations."""
    return [*_state(home), *_state(_further(home))]


def _listed(home: str) -> list[str]:
    """What of it is listed: a run of the ledger is never looked for."""
    lists = [pattern for pattern in _states(home) if "ledger/" not in pattern]
    return [*lists, f"{keys.generations_prefix(home)}*"]


def _folded(home: str) -> list[str]:
    """What a checkpoint writes."""
    return [f"{keys.checkpoint_prefix(home)}*", f"{keys.ledger_prefix(home)}*", keys.hint(home)]


def _further(home: str) -> str:
    """The homes of all generations but the first."""
    return f"{keys.generations_prefix(home)}*/"


def _sinks(pipeline: Pipeline) -> list[str]:
    """What sinks in the bucket read and write."""
    return [f"{target.writes}*" for target in pipeline.sinks.values() if target.writes is not None]


def _output(pipeline: Pipeline) -> list[str]:
    """Rows, rejected rows, aggregates, of all generations."""
    return [*_rows(pipeline), *_of_each(pipeline, keys.aggregate_prefix)]


def _rows(pipeline: Pipeline) -> list[str]:
    return [*_of_each(pipeline, keys.rows_prefix), *_of_each(pipeline, keys.rejected_prefix)]


def _of_each(pipeline: Pipeline, prefix: Callable[[str], str]) -> list[str]:
    """A part of the output, of the first generation and of all further ones."""
    return [f"{prefix(pipeline.output)}*", f"{prefix(f'{pipeline.output}generations/*/')}*"]


_RIGHTS: Mapping[Role, Callable[[Pipeline], Rights]] = {
    "reader": _reader,
    "worker": _worker,
    "committer": _committer,
    "operator": _operator,
}
