"""`tidemill jobs`: what became of files that were submitted by name."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from pipeline.cli import EXIT_PROBLEMS
from pipeline.cli.options import Target, on_bucket, runtime, wait
from pipeline.cli.pasted_commands import pasted
from pipeline.cli.render import as_json, table
from pipeline.errors import SettingsError, nearest
from pipeline.runtime.runtime import Runtime
from pipeline.state.jobs import ENDED, Job, Outcome
from pipeline.wording import count, printable

if TYPE_CHECKING:
    from pipeline.declare.pipeline import Pipeline

SHOWN_MAX = 50
POLL_S = 0.5
POLL_MAX_S = 5.0


@click.group(
    "jobs", epilog="Example:  tidemill jobs wait flows.py job-0123456789abcdef --bucket ./bucket"
)
def jobs_command() -> None:
    """Show, wait for, cancel or list what was submitted.

    What became of each file is in the bucket, for as long as that is.
    """


def _found(target: Target, job: str) -> tuple[Runtime, Job]:
    from pipeline.runtime import jobs

    known: list[str] = []
    for p in target.pipelines:
        opened = runtime(target, p)
        wait(opened.store.check(p.source))
        record = wait(jobs.read(opened, job))
        if record is not None:
            return opened, record
        known += [j.id for j in wait(jobs.listed(opened, last=1000))]
    raise SettingsError(f"there is no job {job!r} in this bucket{nearest(job, known)}")


def _show(target: Target, record: Job, found: Sequence[Outcome]) -> int:
    from pipeline.runtime.jobs import as_builtins

    if target.as_json:
        as_json(as_builtins(record, list(found)))
    else:
        click.echo(f"{record.id}: {count(len(found), 'file')}: {_summed(found)}")
        _show_files(found)
        if not record.planned and not record.cancelled:
            again = pasted(target, "run", options=f"--job {record.id}")
            click.echo(f"not planned yet; if that lasts:  {again}")
    return EXIT_PROBLEMS if any(one.status in ("failed", "missing") for one in found) else 0


def _summed(found: Sequence[Outcome]) -> str:
    states = Counter(one.status for one in found)
    each = ", ".join(f"{n:,} {status}" for status, n in sorted(states.items()))
    return f"{each}; {count(sum(one.rows for one in found), 'row')}"


def _show_files(found: Sequence[Outcome]) -> None:
    table(
        ("file", "status", "rows", "reason"),
        [(printable(one.key), one.status, one.rows, one.reason) for one in found[:SHOWN_MAX]],
        numbers=(2,),
    )
    if len(found) > SHOWN_MAX:
        click.echo(f"... and {len(found) - SHOWN_MAX:,} more; --json prints all")


@jobs_command.command(
    "show", epilog="Example:  tidemill jobs show flows.py job-0123456789abcdef --bucket ./bucket"
)
@on_bucket
@click.argument("job")
def show_command(target: Target, job: str) -> int:
    """What became of each file of a job. Exit code 1 if some failed or are missing."""
    from pipeline.runtime import jobs

    opened, record = _found(target, job)
    return _show(target, record, wait(jobs.outcomes(opened, record)))


@jobs_command.command(
    "wait", epilog="Example:  tidemill jobs wait flows.py job-0123456789abcdef --bucket ./bucket"
)
@on_bucket
@click.argument("job")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(0, 30 * 86_400),
    default=3600,
    show_default=True,
    help="seconds",
)
def wait_command(target: Target, job: str, timeout_s: int) -> int:
    """Wait until every file of a job has ended, then show it.

    Exit code 1 if some failed, or the time is up.
    """
    opened, record = _found(target, job)
    record, found = _waited(target, opened, record, time.monotonic() + timeout_s)
    code, left = _show(target, record, found), _left(found)
    if not left:
        return code
    click.echo(f"tidemill: {count(left, 'file')} not ended after {timeout_s} s", err=True)
    return EXIT_PROBLEMS


def _waited(
    target: Target, opened: Runtime, record: Job, until: float
) -> tuple[Job, Sequence[Outcome]]:
    """Look again and again, until every file has ended or the time is up."""
    from pipeline.runtime import jobs

    pause_s, shown_before = POLL_S, -1
    while True:
        found = wait(jobs.outcomes(opened, record))
        left = _left(found)
        if not left or time.monotonic() > until:
            return record, found
        if left != shown_before and not target.as_json:
            _tell_ended(record, found)
        shown_before = left
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, POLL_MAX_S)
        record = wait(jobs.read(opened, record.id)) or record


def _tell_ended(record: Job, found: Sequence[Outcome]) -> None:
    ended = len(found) - _left(found)
    click.echo(f"{record.id}: {ended:,} of {count(len(found), 'file')} ended", err=True)


def _left(found: Sequence[Outcome]) -> int:
    return sum(one.status not in ENDED for one in found)


@jobs_command.command(
    "cancel",
    epilog="Example:  tidemill jobs cancel flows.py job-0123456789abcdef --bucket ./bucket",
)
@on_bucket
@click.argument("job")
def cancel_command(target: Target, job: str) -> int:
    """End a job's work.

    Files that are done stay; the others are set aside until  tidemill quarantine retry.
    """
    from pipeline.runtime import jobs

    opened, record = _found(target, job)
    ended = wait(jobs.cancel(opened, record))
    if record.calls:
        from pipeline.executors.modal import cancel_calls, explained_modal

        with explained_modal("jobs cancel"):
            cancel_calls(record.calls)
    if target.as_json:
        as_json({"job": job, "cancelled_tasks": ended})
    else:
        idle = "cancelled before it began" if record.cancelled else "nothing was under way"
        click.echo(f"{job}: {count(ended, 'task')} cancelled" if ended else f"{job}: {idle}")
    return 0


@jobs_command.command("list", epilog="Example:  tidemill jobs list flows.py --bucket ./bucket")
@on_bucket
@click.option(
    "--last", type=click.IntRange(1, 10_000), default=20, show_default=True, help="jobs to show"
)
def list_command(target: Target, last: int) -> int:
    """The newest jobs, oldest first, with how many files ended."""
    rows = [row for p in target.pipelines for row in _rows(target, p, last)]
    if target.as_json:
        names = ("job", "pipeline", "submitted", "files", "ended", "failed")
        as_json([dict(zip(names, row, strict=True)) for row in rows])
    elif rows:
        table(
            ("job", "pipeline", "submitted (UTC)", "files", "ended", "failed"),
            rows,
            numbers=(3, 4, 5),
        )
    else:
        click.echo("no jobs")
    return 0


def _rows(target: Target, pipeline: Pipeline, last: int) -> list[tuple[object, ...]]:
    from pipeline.runtime import jobs

    opened = runtime(target, pipeline)
    wait(opened.store.check(pipeline.source))
    return [
        _row(pipeline.name, record, wait(jobs.outcomes(opened, record)))
        for record in wait(jobs.listed(opened, last=last))
    ]


def _row(pipeline: str, record: Job, found: Sequence[Outcome]) -> tuple[object, ...]:
    from datetime import UTC, datetime

    when = f"{datetime.fromtimestamp(record.submitted_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    ended = sum(one.status in ENDED for one in found)
    failed = sum(one.status == "failed" for one in found)
    return record.id, pipeline, when, len(found), ended, failed
