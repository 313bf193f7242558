"""What a pass would do, without doing it: the same listing and the same comparison as a pass, and
no commit.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from pipeline.discover.compare import Judged
from pipeline.discover.listing import Finder
from pipeline.discover.request import Request
from pipeline.model.modal_prices import Rates
from pipeline.model.policy import deployed_policy
from pipeline.plan.cost import Budget, Estimate, Prices
from pipeline.runtime.runtime import Runtime
from pipeline.state.key_growth import explained
from pipeline.state.state import State
from pipeline.state.usage import day_of


class RouteCost(msgspec.Struct, kw_only=True):
    """What a route would take on containers on Modal."""

    containers: int
    container_s: float
    wall_s: float
    usd: float
    basis: str
    """Where the seconds a file are from."""
    files_allowed: int
    """Files that the cost limits let a run begin now."""


class PlanCost(msgspec.Struct, kw_only=True):
    """What a plan would take on containers on Modal, and what its limits allow.

    Transforms run side by side.
    """

    containers: int = 0
    container_s: float = 0.0
    wall_s: float = 0.0
    usd: float = 0.0
    files: int = 0
    files_allowed: int = 0
    max_cost_usd: float | None = None
    max_cost_usd_per_day: float | None = None
    spent_today_usd: float = 0.0
    """By today's receipts (UTC), wherever they are from."""
    rates: str = ""


class Route(msgspec.Struct):
    """Files that one transform would get."""

    transform: str
    new: int = 0
    changed: int = 0
    bytes: int = 0
    cost: RouteCost | UnsetType = UNSET


class Plan(msgspec.Struct):
    """One pipeline's next pass."""

    pipeline: str
    listed: int = 0
    listed_bytes: int = 0
    routes: list[Route] = []
    deleted: int = 0
    in_progress: int = 0
    unmatched: int = 0
    unmatched_sample: list[str] = []
    behind: dict[str, int] = {}
    """Transform -> files whose rows other code made: a backfill would make them again."""
    listing: str = ""
    """What a watching run, or the ticks between two sweeps, would list, and why."""
    cost: PlanCost | UnsetType = UNSET
    warnings: list[str] = []
    """What may not work as it is declared, or is not as it looks."""


async def preview(runtime: Runtime, now_ms: int, rates: Rates | None = None) -> Plan:
    """Compare the bucket with the state as a pass would at `now_ms`. Changes nothing.

    With rates, also what it would cost to use containers on Modal for it.
    """
    await runtime.store.check(runtime.settings.source)
    state = await runtime.log().load()
    plan = Plan(pipeline=state.pipeline, in_progress=len(state.wanted))
    routes: dict[str, Route] = {}
    finder = Finder(runtime.log(), state, runtime.settings, Request())
    async for look in finder.looks():
        plan.deleted += len(look.missing)
        _note(look.judged, state, now_ms, plan, routes)
    plan.routes = list(routes.values())
    plan.behind = await _behind(runtime, state)
    plan.listing = (
        explained(finder.growth, runtime.settings.listing) if finder.growth is not None else ""
    )
    if rates is not None:
        add_cost(plan, state, Prices(runtime.settings, deployed_policy(), rates), now_ms)
    return plan


async def _behind(runtime: Runtime, state: State) -> dict[str, int]:
    """Committed files by transform whose rows were made by other code than is declared now."""
    import pyarrow as pa
    import pyarrow.compute as pc

    behind: dict[str, int] = {}
    async for some in runtime.log().all_committed(state):
        for name, version in runtime.settings.versions.items():
            mine = pc.equal(some.column("transform"), name)
            other = pc.and_(mine, pc.not_equal(some.column("version"), pa.scalar(version)))
            n = pc.sum(other).as_py() or 0
            if n:
                behind[name] = behind.get(name, 0) + n
    return behind


def add_cost(plan: Plan, state: State, prices: Prices, now_ms: int) -> None:
    """Reckon each route and the whole plan, and what the cost limits would let a run begin now.

    Pure.
    """
    limits = prices.settings.cost
    total = plan.cost = PlanCost(
        max_cost_usd=limits.run_usd,
        max_cost_usd_per_day=limits.day_usd,
        spent_today_usd=prices.spent_usd(state.usage.by_day.get(day_of(now_ms), {})),
        rates=prices.rates.source,
    )
    budget = Budget(limits, prices)
    for route in plan.routes:
        cost = _route_cost(route, state, budget, prices, now_ms)
        if cost is not None:
            route.cost = cost
            _add(total, cost, route.new + route.changed)


def _route_cost(
    route: Route, state: State, budget: Budget, prices: Prices, now_ms: int
) -> RouteCost | None:
    """What it takes, out of the budget too; None for a route without files."""
    transform, files = prices.settings.transform(route.transform), route.new + route.changed
    if transform is None or not files:
        return None
    room = budget.files_affordable(state, transform, route.bytes / files, now_ms)
    allowed = files if room is None else min(files, room)
    budget.take(state, transform, allowed, route.bytes / files)
    took = state.usage.took(transform.name)
    return _as_cost(prices.estimate(transform, took, files=files, size_bytes=route.bytes), allowed)


def _as_cost(e: Estimate, allowed: int) -> RouteCost:
    return RouteCost(
        containers=e.containers,
        container_s=e.seconds,
        wall_s=e.wall_s,
        usd=e.usd,
        basis=e.basis,
        files_allowed=allowed,
    )


def _add(total: PlanCost, cost: RouteCost, files: int) -> None:
    total.containers += cost.containers
    total.container_s += cost.container_s
    total.wall_s = max(total.wall_s, cost.wall_s)
    total.usd += cost.usd
    total.files += files
    total.files_allowed += cost.files_allowed


def _note(judged: Judged, state: State, now_ms: int, plan: Plan, routes: dict[str, Route]) -> None:
    plan.listed += judged.listed
    plan.listed_bytes += judged.listed_bytes
    plan.unmatched += judged.unmatched
    plan.unmatched_sample = (plan.unmatched_sample + judged.unmatched_sample)[:5]
    for found in judged.found:
        route = routes.setdefault(found.transform, Route(found.transform))
        inputs = found.inputs
        for i, key in enumerate(inputs.keys):
            if not state.is_due(key, inputs.etags[i], now_ms):
                continue
            route.bytes += inputs.sizes[i]
            if inputs.replaces[i] is None:
                route.new += 1
            else:
                route.changed += 1
    for name in [name for name, route in routes.items() if not route.new and not route.changed]:
        del routes[name]
