"""Where work runs: on this machine's processes, or on a deployed app's containers. One port, so that `run`, `backfill` and
`submit` are the same code on both."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol

from pipeline.declare.load_file import load_pipelines
from pipeline.declare.pipeline import Pipeline
from pipeline.errors import SettingsError
from pipeline.model.settings import Policy, rented_policy
from pipeline.ports import Store
from pipeline.runtime.runtime import Bucket, Runtime, local_executor

EngineName = Literal["local", "modal"]
ENGINES: tuple[EngineName, ...] = ("local", "modal")


class Engine(Protocol):
    """Makes runtimes whose passes dispatch to one place."""

    detached: bool
    """Whether a pass ends before the work it handed over does."""
    knows_costs: bool
    """Whether dollars can be a limit."""

    def runtime(self, pipeline: Pipeline, store: Store, usd: float | None = None) -> Runtime:
        """The pipeline on the store, with this engine's workers. usd: estimated dollars after which nothing more is dispatched."""
        ...

    @property
    def under_way(self) -> int:
        """Inputs that running attempts are done with, as far as that is known: for progress, nothing else."""
        ...

    async def close(self) -> None:
        """End the workers, or stop waiting for them."""
        ...


class LocalEngine:
    """Worker processes on this machine. Make it before anything in this process starts a thread."""

    detached = False
    knows_costs = False

    def __init__(self, file: str, pipelines: Sequence[Pipeline], bucket: Bucket, workers: int | None) -> None:
        self._policy = Policy()
        self._executor = local_executor(file, pipelines, bucket, workers, self._policy)

    def runtime(self, pipeline: Pipeline, store: Store, usd: float | None = None) -> Runtime:
        """The pipeline on the store, with local processes, which cost nothing that is known."""
        return Runtime(pipeline, pipeline.settings(), store, self._policy, self._executor)

    @property
    def under_way(self) -> int:
        """See Engine."""
        return self._executor.under_way

    async def close(self) -> None:
        """End the processes."""
        if tempfile.tempdir == self._executor.scratch:
            tempfile.tempdir = None
        await self._executor.close()

    def take_temporary_files(self) -> None:
        """Those of this process go when it ends, even if it is killed. For a process that does nothing else."""
        tempfile.tempdir = self._executor.scratch


class ModalEngine:
    """The containers of a deployed app. `wait`: gather all answers; otherwise hand over and leave."""

    under_way = 0
    knows_costs = True

    def __init__(
        self, file: str, bucket: Bucket, *, app: str | None = None, wait: bool = False, ordered: bool = False, jobs: bool = False
    ) -> None:
        from pipeline.executors.modal import ModalExecutor, Way

        if not bucket.url.startswith("s3://"):
            raise SettingsError(
                f"--engine modal: {bucket.url!r} cannot be reached from Modal, and work that is handed over needs a place"
                " that lasts for its rows: use an s3:// bucket"
            )
        self.detached = not wait
        self._declared = load_pipelines(file.partition(":")[0])
        self._app = app or app_name(self._declared)
        self._way: Way = "gather" if wait else "jobs" if jobs else "detached"
        self._ordered = ordered
        self._executors: list[ModalExecutor] = []

    def runtime(self, pipeline: Pipeline, store: Store, usd: float | None = None) -> Runtime:
        """The pipeline on the store, with the app's containers; its cost limits hold, and so does `usd`."""
        from pipeline.deploy.control import modal_executor, rented_runtime

        alone = len(self._declared) == 1
        executor = modal_executor(self._app, pipeline, store, alone=alone, way=self._way, ordered=self._ordered)
        self._executors.append(executor)
        policy = rented_policy()
        if not self.detached:
            policy = replace(policy, open_tasks_max=None, outstanding_sources_max=200_000)  # the client keeps within its limits
        runtime = rented_runtime(pipeline, store, executor, policy, usd)
        runtime.aggregates = not self.detached
        return runtime

    async def close(self) -> None:
        """Stop waiting; what was handed over goes on."""
        for executor in self._executors:
            await executor.close()


def app_name(declared: Sequence[Pipeline]) -> str:
    """What the app of a file is called, unless somebody says otherwise."""
    return f"tidemill-{declared[0].name}"
