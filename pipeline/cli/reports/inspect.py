"""Commands that look, and change nothing: plan, status, lineage, audit."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import msgspec

from pipeline.cli import EXIT_PROBLEMS
from pipeline.cli.missing_sources import empty_source
from pipeline.cli.options import Target, on_bucket, root_runtime, runtime, wait
from pipeline.cli.pasted_commands import pasted
from pipeline.cli.render import as_json, count, duration, printable, size, table
from pipeline.tracebacks import visible

if TYPE_CHECKING:
    from pipeline.runtime.plan_preview import Plan, PlanCost, RouteCost
    from pipeline.runtime.runtime import Runtime


@click.command("plan", epilog="Example:  tidemill plan pipeline.py --bucket ./bucket")
@on_bucket
@click.option(
    "--engine",
    type=click.Choice(["local", "modal"]),
    default="local",
    show_default=True,
    help="modal: also containers, time and estimated dollars",
)
def plan_command(target: Target, engine: str) -> int:
    """Say what a run would do: new and changed files by transform, deleted ones, and what no transform takes.

    With --engine modal also what it would take there, at the rates of your workspace if Modal says them, else at list prices.
    """
    from pipeline.deploy.workspace_rates import workspace_rates
    from pipeline.runtime.plan_preview import preview
    from pipeline.runtime.runtime import WallClock

    rates = wait(workspace_rates()) if engine == "modal" else None
    warnings = {p.name: wait(_foreseen(root_runtime(target, p))) for p in target.pipelines}
    plans = [wait(preview(runtime(target, p), WallClock().now_ms(), rates)) for p in target.pipelines]
    for plan, p in zip(plans, target.pipelines, strict=True):
        plan.warnings = [*warnings[p.name], *([] if plan.listed or p.upstream else [wait(empty_source(runtime(target, p)))])]
    if target.as_json:
        as_json([msgspec.to_builtins(plan) for plan in plans])
        return 0
    for plan in plans:
        _show_plan(target, plan)
    return 0


def _show_plan(target: Target, plan: Plan) -> None:
    from pipeline.state.key_growth import LISTED_MIN

    click.echo(f"{plan.pipeline}: {count(plan.listed, 'object')} listed, {size(plan.listed_bytes)}")
    for route in plan.routes:
        click.echo(f"  {route.transform}: {count(route.new, 'new file')}, {route.changed:,} changed, {size(route.bytes)}")
        if route.cost:
            click.echo(f"    {_work(route.cost)}; {route.cost.basis}")
    if plan.deleted:
        click.echo(f"  {count(plan.deleted, 'file')} deleted in the bucket: their rows would go")
    for transform, n in plan.behind.items():
        anew = pasted(target, "backfill", options="--outdated")
        click.echo(f"  {transform}: the rows of {count(n, 'file')} were made by other code; to make them anew:  {anew}")
    if plan.in_progress:
        click.echo(f"  {count(plan.in_progress, 'file')} in open tasks of other or earlier runs")
    if plan.unmatched:
        click.echo(f"  {count(plan.unmatched, 'file')} matched by no transform, such as {printable(plan.unmatched_sample[0])}")
    if plan.listing and (plan.listed >= LISTED_MIN or "listing=" in plan.listing):
        click.echo(f"  {plan.listing}")
    if not plan.routes and not plan.deleted and not plan.in_progress:
        click.echo("  nothing to do")
    if plan.cost:
        if plan.routes:
            click.echo(f"  on Modal: {_work(plan.cost)}; {plan.cost.rates}")
        click.echo(f"  {_limits(plan.cost)}")
    for warning in plan.warnings:
        click.echo(f"  {warning}")


async def _foreseen(root: Runtime) -> list[str]:
    """What is to be warned of. Raises SettingsError where a run would be refused."""
    from pipeline.runtime.feasibility import foreseen

    await root.store.check(root.settings.source)
    found = await foreseen(root)
    found.require()
    return found.warnings


def _work(cost: RouteCost | PlanCost) -> str:
    work = f"{cost.container_s:,.1f} container-seconds in about {duration(cost.wall_s)}"
    return f"{count(cost.containers, 'container')}, {work}, {dollars(cost.usd)}"


def _limits(cost: PlanCost) -> str:
    limits = {"max_cost_usd": cost.max_cost_usd, "max_cost_usd_per_day": cost.max_cost_usd_per_day}
    named = " and ".join(f"{name}={usd:g}" for name, usd in limits.items() if usd is not None)
    spent = f"today's receipts cost {dollars(cost.spent_today_usd)}"
    if not named:
        return f"no cost limit is declared; {spent}"
    return f"{named} allow {cost.files_allowed:,} of {count(cost.files, 'file')} now; {spent}"


def dollars(usd: float) -> str:
    """Dollars for people: $1,234.50, $0.0042, and never $0.00 for something."""
    if usd >= 1:
        return f"${usd:,.2f}"
    return f"${usd:.4f}" if usd >= 0.0001 or not usd else "under $0.0001"


@click.command("status", epilog="Example:  tidemill status pipeline.py --bucket ./bucket --json")
@on_bucket
@click.option("--commits", "last", type=click.IntRange(0, 1000), default=5, show_default=True, help="commits to show")
def status_command(target: Target, last: int) -> int:
    """Count sources by state; show the last commits and failures. Reads the state only; `plan` looks at the bucket too."""
    reports = [wait(_status(runtime(target, p), last)) for p in target.pipelines]
    if target.as_json:
        as_json(reports)
        return 0
    for report in reports:
        states = report["sources"]
        click.echo(
            f"{_table(report)}: {count(states['committed'], 'file')} committed, {count(report['rows'], 'row')},"
            f" {states['in progress']:,} in progress, {states['quarantined']:,} quarantined"
        )
        click.echo(f"  {count(report['files'], 'Parquet file')}, {size(report['bytes'])}, at commit {report['sequence']}")
        for line in _waiting_lines(report):
            click.echo(line)
        usage = report["usage"]
        if usage["seconds_today"] or usage["fill"]:
            fill = "".join(f"; {name}: batches {share:.0%} full" for name, share in usage["fill"].items())
            price = f", {dollars(usage['usd_today'])} on Modal" if usage["usd_today"] is not None else ""
            click.echo(f"  today {usage['seconds_today']:,.1f} s of work{price}{fill}")
        if report["commits"]:
            table(
                ("commit", "at (UTC)", "planned", "committed", "rows", "failed", "deleted"),
                [
                    (c["sequence"], c["at"], c["planned"], c["committed"], c["rows"], c["failed"], c["deleted"])
                    for c in report["commits"]
                ],
                numbers=(0, 2, 3, 4, 5, 6),
            )
        for failure in report["failures"][:5]:
            click.echo(f"  quarantined: {printable(failure['key'])}: {visible(failure['reason'])}")
        if len(report["failures"]) > 5:
            click.echo(f"  ... and {len(report['failures']) - 5} more:  {pasted(target, 'quarantine list')}")
    return 0


def _table(report: dict[str, Any]) -> str:
    return f"{report['pipeline']}, generation {report['generation']}" if report["generation"] else str(report["pipeline"])


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
            {"key": q.key, "kind": q.kind, "reason": q.reason} for q in state.quarantine.values() if q.key not in state.wanted
        ],
    }


def _backlog(state: Any) -> dict[str, Any]:
    """Files that are known to wait: left by the last listing that said so, in open tasks, in quarantine until their next try.

    Times of upload are the store's. A backfill's files have their rows: they do not count as unprocessed.
    """
    left = state.backlog
    running = [
        task.inputs.modified_us[i]
        for task in state.tasks.values()
        for i, key in enumerate(task.inputs.keys)
        if not task.again and state.is_wanted(key, task.id)
    ]
    waits = sum(q.retry_at_ms > 0 and q.key not in state.wanted for q in state.quarantine.values())
    oldest = [us for us in (min(running, default=None), left.oldest_us if left else None) if us is not None]
    return {
        "files": left.files if left else 0,
        "bytes": left.size_bytes if left else 0,
        "complete": left.complete if left else True,
        "oldest_uploaded_at": _utc(left.oldest_us / 1e6) if left and left.oldest_us is not None else None,
        "as_of": _utc(left.at_ms / 1e3) if left else None,
        "oldest_unprocessed_at": _utc(min(oldest) / 1e6) if oldest else None,
        "tried_again_by_itself": waits,
    }


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _waiting_lines(report: dict[str, Any]) -> list[str]:
    b, lines = report["backlog"], []
    when = f" (as of the last listing, {b['as_of'].replace('T', ' ').removesuffix('+00:00')} UTC)" if b["as_of"] else ""
    if b["files"]:
        known = f"{'' if b['complete'] else 'at least '}{count(b['files'], 'file')}, {size(b['bytes'])}"
        lines.append(f"  backlog: {known}, the oldest uploaded {_ago(b['oldest_uploaded_at'])}{when}")
    elif not b["complete"]:
        lines.append(f"  backlog: not known, the listing was not read to its end{when}")
    if b["oldest_unprocessed_at"] and report["sources"]["in progress"]:
        lines.append(f"  the oldest file that waits or is in progress was uploaded {_ago(b['oldest_unprocessed_at'])}")
    if b["tried_again_by_itself"]:
        lines.append(f"  {count(b['tried_again_by_itself'], 'quarantined file')} to be tried again without a person")
    return lines


def _ago(moment: str) -> str:
    return f"{duration(max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()))} ago"


def _usage(opened: Any, state: Any) -> dict[str, Any]:
    """Seconds of work today (UTC), what they cost on Modal at list prices (None without a schedule), and how full batches were."""
    from pipeline.plan.cost import Prices
    from pipeline.runtime.runtime import WallClock
    from pipeline.state.usage import day_of

    today = state.usage.by_day.get(day_of(WallClock().now_ms()), {})
    is_deployed = opened.settings.deployment.schedule is not None
    fills = {t.name: state.usage.took(t.name).fill for t in opened.settings.transforms if t.batch_size}
    return {
        "seconds_today": sum(today.values()),
        "usd_today": Prices(opened.settings, opened.policy).spent_usd(today) if is_deployed else None,
        "fill": {name: fill for name, fill in fills.items() if fill is not None},
    }


@click.command("audit", epilog="Example:  tidemill audit pipeline.py --bucket ./bucket")
@on_bucket
def audit_command(target: Target) -> int:
    """Prove from the bucket that each object is in exactly one state, each output is whole, and no row is there twice.

    Reads every output file once. Exit code 1 and one line for each contradiction otherwise.
    """
    from pipeline.passes.audit import Audit
    from pipeline.tables.views import live_rows_by_source

    reports = []
    for p in target.pipelines:
        opened = runtime(target, p)
        wait(opened.store.check(opened.settings.source))
        audit = Audit(opened.store, opened.settings, opened.log(), partial(live_rows_by_source, opened))
        reports.append((p.name, wait(audit.run())))
    if target.as_json:
        as_json(
            [
                {
                    "pipeline": name,
                    "clean": r.clean,
                    "sequence": r.sequence,
                    "sources": dict(r.sources),
                    "files": r.files,
                    "rows": r.rows,
                    "orphans": r.orphans,
                    "problems": r.problems,
                }
                for name, r in reports
            ]
        )
    else:
        for name, r in reports:
            states = ", ".join(f"{n:,} {what}" for what, n in sorted(r.sources.items())) or "no sources"
            verdict = "clean" if r.clean else f"{count(len(r.problems), 'problem')}"
            click.echo(f"{name}: {verdict} at commit {r.sequence}: {states}; {count(r.files, 'file')}, {count(r.rows, 'row')}")
            if r.orphans:
                click.echo(f"  {count(r.orphans, 'file')} of attempts that never counted ({size(r.orphan_bytes)}), for the vacuum")
            for problem in r.problems:
                click.echo(f"  {problem}")
    return 0 if all(r.clean for _, r in reports) else EXIT_PROBLEMS
