"""What a worker's container on Modal does with an order."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pipeline.declare.pipeline import Pipeline
from pipeline.deploy.control import bucket_of
from pipeline.deploy.deployment import Deployment, mounts_of
from pipeline.errors import ObjectNotFound, SettingsError
from pipeline.model.policy import deployed_policy
from pipeline.ports import Store
from pipeline.runtime.system import RandomIds, WallClock
from pipeline.runtime.worker_process import LocalAttempts, WorkerSpec
from pipeline.work.order_journal import Box, OrderJournal
from pipeline.work.order_runner import InChildProcess, InThisProcess, OrderRunner

if TYPE_CHECKING:
    from pipeline.executors.local.executor import LocalExecutor

# -- workers ---------------------------------------------------------------------------------------


class StoreBox:
    """A store as the box of an order journal."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def put(
        self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None
    ) -> None:
        """See `Store.put`."""
        await self._store.put(key, body, create_only=create_only, if_match=if_match)

    async def put_file(self, key: str, path: Path) -> None:
        """See `Store.put_file`."""
        await self._store.put_file(key, path)

    async def fetch(self, key: str) -> bytes | None:
        """A small object's bytes, None where there is none."""
        try:
            return (await self._store.get(key)).body
        except ObjectNotFound:
            return None


def order_runner_for(
    deployment: Deployment,
    pipeline: Pipeline,
    transform: str,
    *,
    settled: Callable[[list[str]], None] = lambda tasks: None,
) -> OrderRunner:
    """What one container of `work_<transform>` needs to take orders.

    For classes, the code is loaded before this returns.

    Raises SettingsError (CodeBroken) where that fails.
    """
    declared = pipeline.settings().transform(transform)
    if declared is None:
        raise SettingsError(f"pipeline {pipeline.name} declares no transform {transform!r}")
    journal = OrderJournal(
        pipeline.name, _box(deployment, pipeline), WallClock(), RandomIds(), declared.version
    )
    spec = _worker_spec(deployment, pipeline)
    if not declared.keeps_state:
        return OrderRunner(journal, InChildProcess(lambda: _child(spec, pipeline)), settled)
    attempts = LocalAttempts(spec)
    attempts.load(pipeline.name, transform)
    return OrderRunner(
        journal, InThisProcess(attempts, journal, timeout_s=declared.timeout_s), settled
    )


def _box(deployment: Deployment, pipeline: Pipeline) -> Box:
    from pipeline.stores.mount import MountOutbox, Mounts

    settings = pipeline.settings()
    if settings.deployment.access == "api":
        return StoreBox(bucket_of(deployment).open())
    return MountOutbox(
        Mounts({m.prefix: m.path for m in mounts_of(settings, deployment.mount_root)})
    )


def _worker_spec(deployment: Deployment, pipeline: Pipeline) -> WorkerSpec:
    settings = pipeline.settings()
    mounts = {m.prefix: m.path for m in mounts_of(settings, deployment.mount_root)}
    return WorkerSpec(
        file=deployment.file,
        bucket=bucket_of(deployment),
        budget_s=deployed_policy().attempt_budget_s,
        scratch=tempfile.mkdtemp(prefix="tidemill-"),
        mounts=mounts if settings.deployment.access == "mount" else None,
        engine=f"modal:{os.environ.get('MODAL_TASK_ID', '')}",
    )


def _child(spec: WorkerSpec, pipeline: Pipeline) -> LocalExecutor:
    """One worker process, as a new interpreter: this one has threads."""
    from pipeline.executors.local.executor import Limits, LocalExecutor

    return LocalExecutor(
        entry="pipeline.runtime.worker_process:local_attempts",
        spec=msgspec.json.encode(spec),
        workers=1,
        limits={
            f"{pipeline.name}/{t.settings.name}": Limits(
                timeout_s=t.settings.timeout_s, memory_mb=t.settings.memory_mb
            )
            for t in pipeline.transforms
        },
        fork=False,
        folder=spec.scratch,
    )
