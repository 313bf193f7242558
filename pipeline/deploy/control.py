"""The composition root for containers on Modal: what the deployed functions do, without a word of
Modal's own.

`Control` is for the few functions that commit: they reach the bucket by the S3 API.
`order_runner_for` is for workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pipeline.commit_log.log import Outdated
from pipeline.declare.pipeline import Pipeline
from pipeline.deploy.deployment import Deployment
from pipeline.discover.backfill_selection import Selection
from pipeline.discover.request import Request
from pipeline.discover.router import Router
from pipeline.errors import SettingsError
from pipeline.executors.modal import ModalExecutor, Way
from pipeline.model.pass_report import PassReport
from pipeline.model.policy import Policy, deployed_policy
from pipeline.model.settings import BackfillSettings, CostLimits
from pipeline.passes import upkeep
from pipeline.passes.aggregation import aggregate
from pipeline.passes.runner import Pass
from pipeline.plan.cost import Budget, Prices
from pipeline.ports import Executor, Store
from pipeline.runtime.bucket import Bucket
from pipeline.runtime.runtime import Runtime
from pipeline.runtime.system import WallClock
from pipeline.state.generations import kept_numbers
from pipeline.state.state import State
from pipeline.work.worker_pools import all_pools

T = TypeVar("T")

_AGAIN_MAX = 20

Next = Literal["aggregate", "publish"] | None
"""The function that has something to do now."""


def bucket_of(deployment: Deployment) -> Bucket:
    """The deployment's bucket, reached by the S3 API."""
    return Bucket(
        url=deployment.bucket, endpoint_url=deployment.endpoint_url, region=deployment.region
    )


def modal_executor(
    app: str,
    pipeline: Pipeline,
    store: Store,
    *,
    alone: bool,
    way: Way = "detached",
    ordered: bool = False,
    environment: str | None = None,
) -> ModalExecutor:
    """The deployed app's workers as an executor. environment: Modal's, by default the one its
    client is set to.
    """
    settings, policy = pipeline.settings(), deployed_policy()
    return ModalExecutor(
        app=app,
        pools=all_pools(pipeline.name, settings.transforms, policy, alone=alone),
        store=store,
        parallelism=max(policy.containers(t) for t in settings.transforms),
        way=way,
        ordered=ordered,
        environment=environment,
    )


def deployed_runtime(
    pipeline: Pipeline,
    store: Store,
    executor: Executor,
    policy: Policy | None = None,
    usd: float | None = None,
) -> Runtime:
    """The pipeline on a bucket, with workers on Modal and the pipeline's cost limits; `usd` is a
    further one for this run.
    """
    settings = pipeline.settings()
    bounds = policy or deployed_policy()
    runs = [limit for limit in (settings.cost.run_usd, usd) if limit is not None]
    limits = CostLimits(run_usd=min(runs, default=None), day_usd=settings.cost.day_usd)
    budget = Budget(limits, Prices(settings, bounds)) if limits != CostLimits() else None
    return Runtime(pipeline, settings, store, bounds, executor, budget=budget)


@dataclass(frozen=True, slots=True)
class Control:
    """The deployed control functions of one pipeline.

    Each may run at any time, several at once, and be ended in the middle.
    """

    deployment: Deployment
    pipeline: Pipeline
    alone: bool
    """Whether the file declares this pipeline only."""

    def tick(self, names: Sequence[str] | None = None, *, lists: bool = True) -> Next:
        """One pass: settle, find what is new, commit, hand over.

        New is what lies in the bucket, or among `names`; without `lists` only what grew at the end
        of prefixes that do.
        """
        return self._run(
            lambda runtime: self._pass(runtime, Request(names=names, growing=not lists))
        )

    def backfill(self, wanted: BackfillSettings) -> Next:
        """Process again what a declared backfill selects."""
        settings = self.pipeline.settings()
        since_us = (
            None
            if wanted.since_s is None
            else WallClock().now_ms() * 1000 - int(wanted.since_s * 1e6)
        )
        chosen = Selection(
            settings=settings,
            prefix=settings.source + wanted.prefix,
            since_us=since_us,
            outdated=wanted.outdated,
        )
        request = Request(again=chosen.again(Router(settings)))
        return self._run(lambda runtime: self._pass(runtime, request))

    async def _pass(self, runtime: Runtime, request: Request) -> Next:
        report, state = await runtime.run(request=request)
        due = self._next(runtime, state, report)
        print(summary(runtime.label, report), flush=True)  # noqa: T201 - the function's log on Modal
        for one in runtime.filled(state.generations):
            if one.settings.generation:
                await one.open()
                report, state = await one.run(request=request)
                due = first_of(due, self._next(one, state, report))
                print(summary(one.label, report), flush=True)  # noqa: T201
        return due

    def _next(self, runtime: Runtime, state: State, report: PassReport) -> Next:
        """Aggregates first: whoever brings them up to date publishes afterwards."""
        behind = runtime.aggregates_are_behind(state)
        return (
            "aggregate" if behind else "publish" if report.commits and self.pipeline.sinks else None
        )

    def settle(self, tasks: Iterable[str]) -> Next:
        """Commit the receipts of these tasks, in one append."""

        async def work(runtime: Runtime) -> Next:
            due: Next = None
            # tasks of two generations may have one name: each looks for its own receipts
            for one in await self._kept(runtime):
                passing = await again_while_outdated(one, lambda p: p.settle(list(tasks)))
                due = first_of(due, self._next(one, passing.state, passing.report))
            return due

        return self._run(work)

    def aggregate(self) -> None:
        """Bring the aggregates up to date."""

        async def work(runtime: Runtime) -> None:
            async def bring(passing: Pass) -> None:
                await passing.open()
                await aggregate(passing)

            for one in await self._kept(runtime):
                await again_while_outdated(one, bring)

        self._run(work, aggregates=True)

    def publish(self) -> None:
        """Bring the sinks up to date.

        Raises SinkFailed where one did not follow, after all had their turn.
        """
        from pipeline.runtime.publish import Publisher
        from sinks.copies.port import SinkFailed

        async def work(runtime: Runtime) -> None:
            problems = [
                f"sink {one.sink}: {one.problem}"
                for one in await Publisher(runtime).publish_all()
                if one.problem
            ]
            if problems:
                raise SinkFailed("; ".join(problems))

        self._run(work)

    def maintain(self) -> None:
        """Merge small files; delete what retention lets go."""

        async def work(runtime: Runtime) -> None:
            for one in await self._kept(runtime):
                await again_while_outdated(one, upkeep.compact)
                await again_while_outdated(one, upkeep.vacuum)

        self._run(work)

    def submit(self, job: str, names: Sequence[str], *, again: bool = False) -> None:
        """Plan a job's keys now and hand them over, each call's id kept in the job's record."""
        from pipeline.runtime.jobs import submit

        async def work(runtime: Runtime) -> None:
            await submit(runtime.filled(await runtime.generations())[0], job, names, again=again)

        self._run(work, way="jobs")

    async def _kept(self, runtime: Runtime) -> list[Runtime]:
        """All generations there are."""
        known = await runtime.generations()
        return (
            [runtime] if known is None else [runtime.of_generation(n) for n in kept_numbers(known)]
        )

    def _run(
        self,
        work: Callable[[Runtime], Coroutine[Any, Any, T]],
        *,
        way: Way = "detached",
        aggregates: bool = False,
    ) -> T:
        async def opened() -> T:
            store = bucket_of(self.deployment).open()
            try:
                d = self.deployment
                executor = modal_executor(
                    d.app,
                    self.pipeline,
                    store,
                    alone=self.alone,
                    way=way,
                    environment=d.environment,
                )
                runtime = deployed_runtime(self.pipeline, store, executor)
                runtime.aggregates = aggregates
                await runtime.open()
                return await work(runtime)
            finally:
                await store.close()

        return asyncio.run(opened())


def first_of(one: Next, other: Next) -> Next:
    """What comes first of two things to be done: aggregates, since whoever computes them publishes
    afterwards.
    """
    return "aggregate" if "aggregate" in (one, other) else one or other


async def again_while_outdated(
    runtime: Runtime, work: Callable[[Pass], Coroutine[Any, Any, object]]
) -> Pass:
    """Do something with a fresh pass, and again where the log was collected underneath."""
    for _ in range(_AGAIN_MAX):
        passing = Pass(runtime.context())
        try:
            await work(passing)
        except Outdated:
            continue
        return passing
    raise SettingsError(
        f"the log of {runtime.settings.name} is being collected faster than it can be read; run"
        " again"
    )


def summary(name: str, report: PassReport) -> str:
    """A pass in one line, for logs."""
    text = (
        f"{name}: {report.listed} listed, {report.planned} planned, {report.committed} committed,"
        f" {report.rows} rows"
    )
    for n, what in (
        (report.quarantined, "quarantined"),
        (report.deleted, "deleted"),
        (report.respawned, "dispatched again"),
        (report.elsewhere, "in progress"),
        (report.unread, f"put off ({report.unread_reason})"),
        (report.over_budget, "held back: the cost limit is reached"),
        (report.left, "left for later"),
    ):
        text += f", {n} {what}" if n else ""
    return text + (", more next time: as many tasks are open as may be" if report.held_back else "")
