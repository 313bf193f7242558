"""`tidemill plan`: what a run would do, and what it would cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click
import msgspec

from pipeline.cli.options import Target, on_bucket, root_runtime, runtime, wait
from pipeline.cli.pasted_commands import pasted
from pipeline.cli.render import as_json, dollars
from pipeline.runtime.missing_sources import empty_source
from pipeline.wording import count, duration, printable, size

if TYPE_CHECKING:
    from pipeline.model.modal_prices import Rates
    from pipeline.runtime.plan_preview import Plan, PlanCost, Route, RouteCost
    from pipeline.runtime.runtime import Runtime


@click.command("plan", epilog="Example:  tidemill plan flows.py --bucket ./bucket")
@on_bucket
@click.option(
    "--engine",
    type=click.Choice(["local", "modal"]),
    default="local",
    show_default=True,
    help="modal: also containers, time and estimated dollars",
)
def plan_command(target: Target, engine: str) -> int:
    """Say what a run would do: new and changed files by transform, deleted ones, and what no
    transform takes.

    With --engine modal also what it would take there, at the rates of your workspace if Modal says
    them, else at list prices.
    """
    from pipeline.deploy.workspace_rates import workspace_rates

    plans = _plans(target, wait(workspace_rates()) if engine == "modal" else None)
    if target.as_json:
        as_json([msgspec.to_builtins(plan) for plan in plans])
        return 0
    for plan in plans:
        _show_plan(target, plan)
    return 0


def _plans(target: Target, rates: Rates | None) -> list[Plan]:
    from pipeline.runtime.plan_preview import preview
    from pipeline.runtime.system import WallClock

    warnings = {p.name: wait(_foreseen(root_runtime(target, p))) for p in target.pipelines}
    plans = [
        wait(preview(runtime(target, p), WallClock().now_ms(), rates)) for p in target.pipelines
    ]
    for plan, p in zip(plans, target.pipelines, strict=True):
        plan.warnings = [
            *warnings[p.name],
            *([] if plan.listed or p.upstream else [wait(empty_source(runtime(target, p)))]),
        ]
    return plans


def _show_plan(target: Target, plan: Plan) -> None:
    click.echo(f"{plan.pipeline}: {count(plan.listed, 'object')} listed, {size(plan.listed_bytes)}")
    for route in plan.routes:
        _show_route(route)
    _show_other_files(target, plan)
    if plan.cost:
        if plan.routes:
            click.echo(f"  on Modal: {_work(plan.cost)}; {plan.cost.rates}")
        click.echo(f"  {_limits(plan.cost)}")
    for warning in plan.warnings:
        click.echo(f"  {warning}")


def _show_route(route: Route) -> None:
    click.echo(
        f"  {route.transform}: {count(route.new, 'new file')}, {route.changed:,} changed,"
        f" {size(route.bytes)}"
    )
    if route.cost:
        click.echo(f"    {_work(route.cost)}; {route.cost.basis}")


def _show_other_files(target: Target, plan: Plan) -> None:
    """Those that no transform gets, and what is to be said of the listing."""
    if plan.deleted:
        click.echo(f"  {count(plan.deleted, 'file')} deleted in the bucket: their rows would go")
    _show_outdated(target, plan.behind)
    if plan.in_progress:
        click.echo(f"  {count(plan.in_progress, 'file')} in open tasks of other or earlier runs")
    if plan.unmatched:
        click.echo(
            f"  {count(plan.unmatched, 'file')} matched by no transform, such as"
            f" {printable(plan.unmatched_sample[0])}"
        )
    _show_listing(plan)
    if not plan.routes and not plan.deleted and not plan.in_progress:
        click.echo("  nothing to do")


def _show_listing(plan: Plan) -> None:
    from pipeline.state.key_growth import LISTED_MIN

    if plan.listing and (plan.listed >= LISTED_MIN or "listing=" in plan.listing):
        click.echo(f"  {plan.listing}")


def _show_outdated(target: Target, behind: Mapping[str, int]) -> None:
    for transform, n in behind.items():
        command = pasted(target, "backfill", options="--outdated")
        click.echo(
            f"  {transform}: the rows of {count(n, 'file')} were made by other code; to make them"
            f" again:  {command}"
        )


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


async def _foreseen(root: Runtime) -> list[str]:
    """What is to be warned of. Raises SettingsError where a run would be refused."""
    from pipeline.runtime.feasibility import foreseen

    await root.store.check(root.settings.source)
    found = await foreseen(root)
    found.require()
    return found.warnings
