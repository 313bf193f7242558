"""`tidemill status`: sources by state, what waits, the last commits and failures."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from pipeline.cli.options import Target, on_bucket, runtime, wait
from pipeline.cli.pasted_commands import pasted
from pipeline.cli.render import as_json, dollars, table
from pipeline.tracebacks import visible
from pipeline.wording import count, duration, printable, size


@click.command("status", epilog="Example:  tidemill status pipeline.py --bucket ./bucket --json")
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
        for line in _waiting_lines(report):
            click.echo(line)
        usage = report["usage"]
        if usage["seconds_today"] or usage["fill"]:
            fill = "".join(
                f"; {name}: batches {share:.0%} full" for name, share in usage["fill"].items()
            )
            price = (
                f", {dollars(usage['usd_today'])} on Modal"
                if usage["usd_today"] is not None
                else ""
            )
            click.echo(f"  today {usage['seconds_today']:,.1f} s of work{price}{fill}")
        if report["commits"]:
            table(
                ("commit", "at (UTC)", "planned", "committed", "rows", "failed", "deleted"),
                [
                    (
                        c["sequence"],
                        c["at"],
                        c["planned"],
                        c["committed"],
                        c["rows"],
                        c["failed"],
                        c["deleted"],
                    )
                    for c in report["commits"]
                ],
                numbers=(0, 2, 3, 4, 5, 6),
            )
        for failure in report["failures"][:5]:
            click.echo(f"  quarantined: {printable(failure['key'])}: {visible(failure['reason'])}")
        if len(report["failures"]) > 5:
            click.echo(
                f"  ... and {len(report['failures']) - 5} more: "
                f" {pasted(target, 'quarantine list')}"
            )
    return 0


def _table(report: dict[str, Any]) -> str:
    return (
        f"{report['pipeline']}, generation {report['generation']}"
        if report["generation"]
        else str(report["pipeline"])
    )


async def _status(opened: Any, last: int) -> dict[str, Any]:
    from pipeline.tables.views import commits_of
    from sinks.query.state_tables import state_table

    await opened.store.check(opened.settings.source)
    log = opened.log()
    state = await log.load()
    commits = [c async for c in commits_of(log, last=last)] if last else []
    shown = state_table("commits", [state], [commits]).to_pylist()
    for row in shown:
        row["at"] = f"{row.pop('written_at'):%Y-%m-%d %H:%M:%S}"
    return {
        "pipeline": state.pipeline,
        "generation": opened.settings.generation,
        "sequence": state.sequence,
        "sources": {
            "committed": state.totals.sources,
            "in progress": len(state.wanted),
            "quarantined": sum(key not in state.wanted for key in state.quarantine),
        },
        "backlog": _backlog(state),
        "rows": state.totals.rows,
        "files": state.totals.files,
        "bytes": state.totals.size_bytes,
        "usage": _usage(opened, state),
        "commits": shown,
        "failures": [
            {"key": q.key, "kind": q.kind, "reason": q.reason}
            for q in state.quarantine.values()
            if q.key not in state.wanted
        ],
    }


def _backlog(state: Any) -> dict[str, Any]:
    """Files that are known to wait: left by the last listing that said so, in open tasks, in
    quarantine until their next try.

    Times of upload are the store's. A backfill's files have their rows: they do not count as
    unprocessed.
    """
    left = state.backlog
    running = [
        task.inputs.modified_us[i]
        for task in state.tasks.values()
        for i, key in enumerate(task.inputs.keys)
        if not task.again and state.is_wanted(key, task.id)
    ]
    waits = sum(q.retry_at_ms > 0 and q.key not in state.wanted for q in state.quarantine.values())
    oldest = [
        us
        for us in (min(running, default=None), left.oldest_us if left else None)
        if us is not None
    ]
    return {
        "files": left.files if left else 0,
        "bytes": left.size_bytes if left else 0,
        "complete": left.complete if left else True,
        "oldest_uploaded_at": (
            _utc(left.oldest_us / 1e6) if left and left.oldest_us is not None else None
        ),
        "as_of": _utc(left.at_ms / 1e3) if left else None,
        "oldest_unprocessed_at": _utc(min(oldest) / 1e6) if oldest else None,
        "tried_again_by_itself": waits,
    }


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _waiting_lines(report: dict[str, Any]) -> list[str]:
    b, lines = report["backlog"], []
    when = (
        f" (as of the last listing, {b['as_of'].replace('T', ' ').removesuffix('+00:00')} UTC)"
        if b["as_of"]
        else ""
    )
    if b["files"]:
        known = (
            f"{'' if b['complete'] else 'at least '}{count(b['files'], 'file')}, {size(b['bytes'])}"
        )
        lines.append(
            f"  backlog: {known}, the oldest uploaded {_ago(b['oldest_uploaded_at'])}{when}"
        )
    elif not b["complete"]:
        lines.append(f"  backlog: not known, the listing was not read to its end{when}")
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


def _ago(moment: str) -> str:
    passed = datetime.now(UTC) - datetime.fromisoformat(moment)
    return f"{duration(max(0.0, passed.total_seconds()))} ago"


def _usage(opened: Any, state: Any) -> dict[str, Any]:
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
