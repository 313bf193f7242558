"""Jobs: keys that somebody submitted by name, and what became of them. Pure.

A job's record holds what was asked; the outcome of each key is read from the state, which outlives
any engine's memory.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pipeline.model.commit import Quarantined
from pipeline.state.ledger import Entry

Status = Literal["waiting", "running", "done", "failed", "cancelled", "superseded", "missing"]
"""What became of one key.

waiting: not planned yet. running: in an open task. done: its rows are committed. failed:
quarantined. cancelled: by a person. superseded: a newer version of the object took its place.
missing: there was no such object, or it is gone.
"""

ENDED: frozenset[Status] = frozenset(("done", "failed", "cancelled", "superseded", "missing"))


class Job(msgspec.Struct, kw_only=True):
    """`jobs/<id>.json`: the keys at the versions they had when the job was planned (etag "" where
    there was no object).
    """

    format: int
    id: str
    pipeline: str
    keys: list[str]
    etags: list[str]
    submitted_ms: int
    """By the submitter's clock, for people."""
    planned: bool = False
    tasks: list[str] = []
    """Tasks that were planned for this job alone."""
    calls: list[str] = []
    """The engine's own ids of the calls, for cancelling; Modal forgets them after 7 days."""
    again: bool = False
    """Whether versions that are committed already are run again."""
    base: int = 0
    """The commit before the job's own."""
    cancelled: bool = False
    """Cancelled before it was planned: it never is."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a job."""

    key: str
    status: Status
    rows: int = 0
    reason: str = ""


def outcome(
    job: Job,
    i: int,
    *,
    entry: Entry | None,
    quarantined: Quarantined | None,
    wanted: tuple[str, str] | None,
) -> Outcome:
    """What became of the job's i-th key, by what the state says of it now."""
    key = job.keys[i]
    if not job.planned:
        return Outcome(key=key, status="cancelled" if job.cancelled else "waiting")
    etag = job.etags[i]
    if not etag:
        return Outcome(key=key, status="missing", reason="there was no such object")
    if wanted is not None and wanted[1] == etag:
        return Outcome(key=key, status="running")
    if quarantined is not None and quarantined.etag == etag:
        return _of_quarantined(quarantined, key)
    return _of_entry(job, i, entry, is_free=quarantined is None and wanted is None)


def _of_entry(job: Job, i: int, entry: Entry | None, *, is_free: bool) -> Outcome:
    """By what is committed; is_free: no other version is in hand, or set aside."""
    key, etag = job.keys[i], job.etags[i]
    is_there = entry is not None and entry.etag == etag
    if entry is not None and is_there and (entry.sequence > job.base or not job.again):
        return Outcome(key=key, status="done", rows=entry.rows)
    if (entry is None or is_there) and is_free:
        return Outcome(key=key, status="waiting")
    return Outcome(
        key=key, status="superseded", reason="a newer version of the object took its place"
    )


def _of_quarantined(quarantined: Quarantined, key: str) -> Outcome:
    status: Status = "cancelled" if quarantined.kind == "cancelled" else "failed"
    return Outcome(key=key, status=status, reason=quarantined.reason)
