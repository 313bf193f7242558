"""`tidemill status`: sources by state, what waits, the last commits and failures."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import Target, on_bucket, runtime, wait
from pipeline.cli.pasted_commands import pasted
from pipeline.cli.render import as_json, dollars, table
from pipeline.model.commit import Backlog
from pipeline.tracebacks import visible
from pipeline.wording import count, duration, printable, size

if TYPE_CHECKING:
    from pipeline.commit_log.log import Log
    from pipeline.runtime.runtime import Runtime
    from pipeline.state.state import State

FAILURES_SHOWN = 5


@click.command("status", epilog="Example:  tidemill status flows.py --bucket ./bucket --json")
@on_bucket
@click.option(
    "--commits",
    "last",
    type=click.IntRange(0, 1000),
    default=5,
    show_default=True,
    help="commits to show",
)
def status_command(target: Target, last: int) -> int:
    """Count sources by state; show the last commits and failures.

    Reads the state only; `plan` looks at the bucket too.
    """
    reports = [wait(_status(runtime(target, p), last)) for p in target.pipelines]
    if target.as_json:
        as_json(reports)
        return 0
    for report in reports:
        _show(report)
        _show_failures(target, report["failures"])
    return 0


def _show(report: dict[str, Any]) -> None:
    _show_counts(report)
    for line in _waiting_lines(report):
        click.echo(line)
    usage = report["usage"]
    if usage["seconds_today"] or usage["fill"]:
        click.echo(_usage_line(usage))
    if report["commits"]:
        _show_commits(report["commits"])


def _show_counts(report: dict[str, Any]) -> None:
    states = report["sources"]
    click.echo(
        f"{_table(report)}: {count(states['committed'], 'file')} committed,"
        f" {count(report['rows'], 'row')}, {states['in progress']:,} in progress,"
        f" {states['quarantined']:,} quarantined"
    )
    click.echo(
        f"  {count(report['files'], 'Parquet file')}, {size(report['bytes'])}, at commit"
        f" {report['sequence']}"
    )


def _usage_line(usage: dict[str, Any]) -> str:
    fill = "".join(f"; {name}: batches {share:.0%} full" for name, share in usage["fill"].items())
    usd = usage["usd_today"]
    price = f", {dollars(usd)} on Modal" if usd is not None else ""
    return f"  today {usage['seconds_today']:,.1f} s of work{price}{fill}"


def _show_commits(commits: list[dict[str, Any]]) -> None:
    counts = ("planned", "committed", "rows", "failed", "deleted")
    table(
        ("commit", "at (UTC)", *counts),
        [(c["sequence"], c["at"], *(c[name] for name in counts)) for c in commits],
        numbers=(0, 2, 3, 4, 5, 6),
    )


def _show_failures(target: Target, failures: list[dict[str, str]]) -> None:
    for failure in failures[:FAILURES_SHOWN]:
        click.echo(f"  quarantined: {printable(failure['key'])}: {visible(failure['reason'])}")
    if len(failures) > FAILURES_SHOWN:
        click.echo(
            f"  ... and {len(failures) - FAILURES_SHOWN} more:  {pasted(target, 'quarantine list')}"
        )


def _table(report: dict[str, Any]) -> str:
    return (
        f"{report['pipeline']}, generation {report['generation']}"
        if report["generation"]
        else str(report["pipeline"])
    )


async def _status(opened: Runtime, last: int) -> dict[str, Any]:
    await opened.store.check(opened.settings.source)
    log = opened.log()
    state = await log.load()
    return {
        "pipeline": state.pipeline,
        "generation": opened.settings.generation,
        "sequence": state.sequence,
        "sources": {
            "committed": state.totals.sources,
            "in progress": len(state.wanted),
            "quarantined": len(_failures(state)),
        },
        "backlog": _backlog(state),
        "rows": state.totals.rows,
        "files": state.totals.files,
        "bytes": state.totals.size_bytes,
        "usage": _usage(opened, state),
        "commits": await _commits(log, state, last),
        "failures": _failures(state),
    }


async def _commits(log: Log, state: State, last: int) -> list[dict[str, Any]]:
    from pipeline.tables.views import commits_of
    from sinks.query.state_tables import state_table

    commits = [c async for c in commits_of(log, last=last)] if last else []
    shown: list[dict[str, Any]] = state_table("commits", [state], [commits]).to_pylist()
    for row in shown:
        row["at"] = f"{row.pop('written_at'):%Y-%m-%d %H:%M:%S}"
    return shown


def _failures(state: State) -> list[dict[str, str]]:
    """What is in quarantine, and not in progress again."""
    return [
        {"key": q.key, "kind": q.kind, "reason": q.reason}
        for q in state.quarantine.values()
        if q.key not in state.wanted
    ]


def _backlog(state: State) -> dict[str, Any]:
    """Files that are known to wait: left by the last listing that said so, in open tasks, in
    quarantine until their next try.

    Times of upload are the store's. A backfill's files have their rows: they do not count as
    unprocessed.
    """
    left = state.backlog or Backlog()
    waits = sum(q.retry_at_ms > 0 and q.key not in state.wanted for q in state.quarantine.values())
    return {
        "files": left.files,
        "bytes": left.size_bytes,
        "complete": left.complete,
        "oldest_uploaded_at": _uploaded(left.oldest_us),
        "as_of": _utc(left.at_ms / 1e3) if state.backlog else None,
        "oldest_unprocessed_at": _uploaded(_oldest_unprocessed_us(state, left)),
        "tried_again_by_itself": waits,
    }


def _oldest_unprocessed_us(state: State, left: Backlog) -> int | None:
    times_us = [
        task.inputs.modified_us[i]
        for task in state.tasks.values()
        for i, key in enumerate(task.inputs.keys)
        if not task.again and state.is_wanted(key, task.id)
    ]
    if left.oldest_us is not None:
        times_us.append(left.oldest_us)
    return min(times_us, default=None)


def _uploaded(us: int | None) -> str | None:
    return _utc(us / 1e6) if us is not None else None


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _waiting_lines(report: dict[str, Any]) -> list[str]:
    b = report["backlog"]
    lines = _backlog_lines(b)
    if b["oldest_unprocessed_at"] and report["sources"]["in progress"]:
        lines.append(
            "  the oldest file that waits or is in progress was uploaded"
            f" {_ago(b['oldest_unprocessed_at'])}"
        )
    if b["tried_again_by_itself"]:
        lines.append(
            f"  {count(b['tried_again_by_itself'], 'quarantined file')} to be tried again without a"
            " person"
        )
    return lines


def _backlog_lines(b: dict[str, Any]) -> list[str]:
    when = (
        f" (as of the last listing, {b['as_of'].replace('T', ' ').removesuffix('+00:00')} UTC)"
        if b["as_of"]
        else ""
    )
    if b["files"]:
        known = (
            f"{'' if b['complete'] else 'at least '}{count(b['files'], 'file')}, {size(b['bytes'])}"
        )
        return [f"  backlog: {known}, the oldest uploaded {_ago(b['oldest_uploaded_at'])}{when}"]
    if not b["complete"]:
        return [f"  backlog: not known, the listing was not read to its end{when}"]
    return []


def _ago(moment: str) -> str:
    passed = datetime.now(UTC) - datetime.fromisoformat(moment)
    return f"{duration(max(0.0, passed.total_seconds()))} ago"


def _usage(opened: Runtime, state: State) -> dict[str, Any]:
    """Seconds of work today (UTC), what they cost on Modal at list prices (None without a
    schedule), and how full batches were.
    """
    from pipeline.plan.cost import Prices
    from pipeline.runtime.system import WallClock
    from pipeline.state.usage import day_of

    today = state.usage.by_day.get(day_of(WallClock().now_ms()), {})
    is_deployed = opened.settings.deployment.schedule is not None
    fills = {
        t.name: state.usage.took(t.name).fill for t in opened.settings.transforms if t.batch_size
    }
    return {
        "seconds_today": sum(today.values()),
        "usd_today": (
            Prices(opened.settings, opened.policy).spent_usd(today) if is_deployed else None
        ),
        "fill": {name: fill for name, fill in fills.items() if fill is not None},
    }
