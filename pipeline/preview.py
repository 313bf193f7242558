"""What a pass would do, without doing it: the same listing and the same comparison as a pass, and no commit."""

from __future__ import annotations

import msgspec

from pipeline.assembly import Runtime
from pipeline.discovery import Router, confirm_missing, judge
from pipeline.model import Page
from pipeline.state import State


class Route(msgspec.Struct):
    """Files that one transform would get."""

    transform: str
    new: int = 0
    changed: int = 0
    bytes: int = 0


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


async def preview(runtime: Runtime) -> Plan:
    """Compare the bucket with the state. Changes nothing."""
    await runtime.store.check(runtime.settings.source)
    state = await runtime.log().load()
    plan = Plan(pipeline=state.pipeline, in_progress=len(state.wanted))
    routes: dict[str, Route] = {}
    router, after = Router(runtime.settings), ""
    held: Page | None = None
    async for page in runtime.store.list(runtime.settings.source):
        if held is not None and held.keys:
            await _judge(runtime, state, router, held, after, held.keys[-1], plan, routes)
            after = held.keys[-1]
        held = page
    await _judge(runtime, state, router, held or Page(keys=[], etags=[], sizes=[], modified_us=[]), after, None, plan, routes)
    plan.routes = list(routes.values())
    return plan


async def _judge(  # noqa: PLR0917
    runtime: Runtime,
    state: State,
    router: Router,
    page: Page,
    after: str,
    upto: str | None,
    plan: Plan,
    routes: dict[str, Route],
) -> None:
    judged = judge(page, state, router, after, upto)
    plan.listed += judged.listed
    plan.listed_bytes += sum(page.sizes)
    plan.unmatched += judged.unmatched
    plan.unmatched_sample = (plan.unmatched_sample + judged.unmatched_sample)[:5]
    plan.deleted += len(await confirm_missing(runtime.store, judged.absent))
    for found in judged.found:
        route = routes.setdefault(found.transform, Route(found.transform))
        inputs = found.inputs
        for i, key in enumerate(inputs.keys):
            if _is_settled(state, key, inputs.etags[i]):
                continue
            route.bytes += inputs.sizes[i]
            if inputs.replaces[i] is None:
                route.new += 1
            else:
                route.changed += 1
    for name in [name for name, route in routes.items() if not route.new and not route.changed]:
        del routes[name]


def _is_settled(state: State, key: str, etag: str) -> bool:
    """Whether a pass would leave this version alone: it is in progress, or quarantined."""
    wanted, quarantined = state.wanted.get(key), state.quarantine.get(key)
    return (wanted is not None and wanted[1] == etag) or (quarantined is not None and quarantined.etag == etag)
