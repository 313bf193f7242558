"""The deployed functions of one pipeline: containers, and calls of `pipeline.deploy`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modal

from infra.builder import AppBuilder
from infra.image import image_of, installed
from pipeline.declare.pipeline import Pipeline
from pipeline.deploy.container import order_runner_for
from pipeline.deploy.control import Control
from pipeline.deploy.deployment import Deployment, mounts_of
from pipeline.model.policy import deployed_policy
from pipeline.model.settings import Resources, TransformSettings
from pipeline.work.order_runner import OrderRunner
from pipeline.work.worker_pools import pools_of

COMMIT_IDLE_S = 30
COMMIT_TOGETHER = 200
COMMIT_WAIT_MS = 1_000
MODAL_BATCH_MAX = 1_000
STARTUP_S = 120.0
"""Added to the time of an attempt: an interpreter starts and the user's code is loaded."""


class PipelineFunctions:
    """The functions of one pipeline."""

    def __init__(self, builder: AppBuilder, pipeline: Pipeline) -> None:
        self.b = builder
        self.pipeline = pipeline
        self.settings = pipeline.settings()
        self.control = Control(builder.deployment, pipeline, builder.alone)

    def add_all(self) -> None:
        """Declare all of them."""
        self._add_passes()
        self._add_backfills()
        self._add_commit()
        self._add_aggregates()
        self._add_sinks()
        self._add_upkeep()
        self._add_jobs()
        for transform in self.settings.transforms:
            self._add_worker(transform)

    def _name(self, what: str) -> str:
        return self.b.name(what, self.pipeline)

    def _schedule(self, wanted: str | float) -> modal.schedule.Schedule:
        if isinstance(wanted, str):
            return modal.Cron(wanted, timezone=self.settings.deployment.timezone)
        return modal.Period(seconds=wanted)

    def _add_passes(self) -> None:
        deployment = self.settings.deployment
        lists = deployment.sweep is None

        def tick(names: list[str] | None = None) -> None:
            self._then(self._with_rights().tick(names, lists=lists))

        def sweep() -> None:
            self._then(self._with_rights().tick())

        if deployment.schedule is not None:
            self._add_scheduled("tick", tick, deployment.schedule)
        if deployment.sweep is not None:
            self._add_scheduled("sweep", sweep, deployment.sweep)

    def _add_backfills(self) -> None:
        for wanted in self.settings.deployment.backfills:

            def backfill(wanted: Any = wanted) -> None:
                self._then(self._with_rights().backfill(wanted))

            self._add_scheduled(f"backfill_{wanted.name}", backfill, wanted.schedule)

    def _add_scheduled(
        self, what: str, function: Callable[..., None], schedule: str | float
    ) -> None:
        settings = self.b.control(schedule=self._schedule(schedule))
        self.b.add(self._name(what), function, **settings)

    def _add_commit(self) -> None:
        def commit(tasks: list[list[str]]) -> list[int]:
            wanted = [task for some in tasks for task in some]
            self._then(self._with_rights().settle(wanted))
            return [len(some) for some in tasks]

        together = modal.batched(max_batch_size=COMMIT_TOGETHER, wait_ms=COMMIT_WAIT_MS)
        self.b.add(
            self._name("commit"),
            commit,
            together,
            **self.b.control(max_containers=1, scaledown_window=COMMIT_IDLE_S),
        )

    def _add_aggregates(self) -> None:
        def aggregate() -> None:
            self._with_rights().aggregate()
            self._then("publish" if self.pipeline.sinks else None)

        if self.settings.aggregates:
            self.b.add(
                self._name("aggregate"), aggregate, **self.b.control(max_containers=1, memory=4096)
            )

    def _add_sinks(self) -> None:
        def publish() -> None:
            self._with_rights().publish()

        if self.pipeline.sinks:
            self.b.add(
                self._name("publish"),
                publish,
                **self.b.control(max_containers=1, memory=4096, **self._for_sinks()),
            )

    def _add_upkeep(self) -> None:
        def maintain() -> None:
            self._with_rights().maintain()
            self._then("publish" if self.pipeline.sinks else None)  # if only to catch up

        self.b.add(
            self._name("maintain"), maintain, **self.b.control(schedule=modal.Cron("47 3 * * *"))
        )

    def _for_sinks(self) -> dict[str, Any]:
        """The drivers of the targets, at the versions installed here, and what they
        need to know.
        """
        targets = self.pipeline.sinks.values()
        packages = (
            {installed(name) for t in targets for name in t.needs} if modal.is_local() else ()
        )
        secrets = [
            modal.Secret.from_name(t.modal_secret) for t in targets if t.modal_secret is not None
        ]
        return {
            "image": image_of(self.b.deployment, self.b.pipelines, pip=tuple(sorted(packages))),
            "secrets": [*self.b.secrets, *secrets],
        }

    def _add_jobs(self) -> None:
        def submit(job: str, names: list[str], again: bool = False) -> str:
            self._with_rights().submit(job, names, again=again)
            return job

        self.b.add(self._name("submit"), submit, **self.b.control())

    def _with_rights(self) -> Control:
        _assume_role(self.b.deployment)
        return self.control

    def _then(self, function: str | None) -> None:
        if function is not None:
            self.b.spawn(self._name(function))

    # -- workers -----------------------------------------------------------------------------------

    def _add_worker(self, transform: TransformSettings) -> None:
        pools = pools_of(self.pipeline.name, transform, deployed_policy(), alone=self.b.alone)
        add = self._add_class if transform.keeps_state else self._add_function
        if pools.work:
            add(pools.work, transform, pools.work_containers, None)
        if pools.batch:
            size = min(pools.batch_size, MODAL_BATCH_MAX)
            together = modal.batched(max_batch_size=size, wait_ms=transform.batch_wait_ms)
            add(pools.batch, transform, pools.batch_containers, together)

    def _add_function(
        self,
        name: str,
        transform: TransformSettings,
        containers: int,
        together: Callable[[Any], Any] | None,
    ) -> None:
        runners: list[OrderRunner] = []

        def order_runner() -> OrderRunner:
            if not runners:
                runners.append(self._order_runner(transform))
            return runners[0]

        def work_one(order: str) -> str:
            return order_runner().run([order])[0]

        def work_many(orders: list[str]) -> list[str]:
            return order_runner().run(orders)

        settings = self._machine(transform, containers)
        if together is None:
            self.b.add(name, work_one, **settings)
        else:
            self.b.add(name, work_many, together, **settings)

    def _add_class(
        self,
        name: str,
        transform: TransformSettings,
        containers: int,
        together: Callable[[Any], Any] | None,
    ) -> None:
        make = self._order_runner

        def load(self: Any) -> None:
            self.order_runner = make(transform)

        methods = {
            "load": modal.enter(snap=transform.resources.memory_snapshot)(load),
            "run": _run_method(together),
            "__module__": self.b.namespace["__name__"],
            "__qualname__": name,
        }
        settings = self._machine(transform, containers)
        settings["enable_memory_snapshot"] = transform.resources.memory_snapshot
        self.b.namespace[name] = self.b.app.cls(**settings)(type(name, (), methods))

    def _order_runner(self, transform: TransformSettings) -> OrderRunner:
        if self.settings.deployment.access == "api":
            _assume_role(self.b.deployment)
        commit = self._name("commit")
        return order_runner_for(
            self.b.deployment,
            self.pipeline,
            transform.name,
            settled=lambda tasks: self.b.spawn(commit, tasks),
        )

    def _machine(self, transform: TransformSettings, containers: int) -> dict[str, Any]:
        """A worker's container, every setting explicit."""
        r = transform.resources
        seconds = deployed_policy().attempt_budget_s + transform.timeout_s + STARTUP_S
        return {
            "image": image_of(self.b.deployment, self.b.pipelines, r.pip, r.apt),
            "cpu": r.cpu,
            "memory": r.memory_mb_deployed,
            "gpu": list(r.gpu) or None,
            "timeout": min(int(seconds), 86_400),
            "retries": modal.Retries(max_retries=r.retries, initial_delay=1.0),
            "min_containers": min(r.min_containers, containers),
            "max_containers": containers,
            "scaledown_window": r.scaledown_window_s,
            "region": list(r.region) or None,
            **self._reached(r),
        }

    def _reached(self, resources: Resources) -> dict[str, Any]:
        """Secrets and volumes of a worker's container: its own, and how it reaches the bucket."""
        secrets = [modal.Secret.from_name(name) for name in resources.secrets]
        volumes: dict[str, Any] = {
            path: modal.Volume.from_name(name) for path, name in resources.volumes.items()
        }
        if self.settings.deployment.access == "api":
            return {"secrets": secrets + self.b.secrets, "volumes": volumes}
        return {"secrets": secrets, "volumes": volumes | self._mounts()}

    def _mounts(self) -> dict[str, modal.CloudBucketMount]:
        d = self.b.deployment
        return {
            mount.path: modal.CloudBucketMount(
                d.bucket_name,
                bucket_endpoint_url=d.endpoint_url,
                key_prefix=d.bucket_prefix + mount.prefix,
                secret=self.b.secrets[0] if self.b.secrets else None,
                oidc_auth_role_arn=d.oidc_role_arn,
                read_only=mount.read_only,
                force_path_style=d.endpoint_url is not None,
            )
            for mount in mounts_of(self.settings, d.mount_root)
        }


def _run_method(together: Callable[[Any], Any] | None) -> Any:
    """A class's method that runs one order, or many that came together."""

    def run_one(self: Any, order: str) -> str:
        answers: list[str] = self.order_runner.run([order])
        return answers[0]

    def run_many(self: Any, orders: list[str]) -> list[str]:
        answers: list[str] = self.order_runner.run(orders)
        return answers

    run = run_one if together is None else run_many
    run.__name__ = "run"
    return modal.method()(run) if together is None else together(run)


def _assume_role(deployment: Deployment) -> None:
    """With an OIDC role: let boto3 trade the container's identity for short-lived keys."""
    token = os.environ.get("MODAL_IDENTITY_TOKEN")
    if not deployment.oidc_role_arn or not token:
        return
    file = Path(tempfile.gettempdir(), "tidemill-identity")
    file.write_text(token)
    file.chmod(0o600)
    os.environ["AWS_ROLE_ARN"] = deployment.oidc_role_arn
    os.environ["AWS_WEB_IDENTITY_TOKEN_FILE"] = str(file)
