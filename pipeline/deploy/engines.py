"""Where work runs: on this machine's processes, or on a deployed app's containers.

One port, so that `run`, `backfill` and
`submit` are the same code on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.declare.load_file import load_pipelines
from pipeline.declare.pipeline import Pipeline
from pipeline.errors import SettingsError
from pipeline.model.policy import deployed_policy
from pipeline.ports import Store
from pipeline.runtime.bucket import Bucket
from pipeline.runtime.runtime import Runtime


class ModalEngine:
    """The containers of a deployed app. `wait`: gather all answers; otherwise hand
    over and leave.
    """

    under_way = 0
    knows_costs = True

    def __init__(
        self,
        file: str,
        bucket: Bucket,
        *,
        app: str | None = None,
        wait: bool = False,
        ordered: bool = False,
        jobs: bool = False,
    ) -> None:
        from pipeline.executors.modal import ModalExecutor, Way

        if not bucket.url.startswith("s3://"):
            raise SettingsError(
                f"--engine modal: {bucket.url!r} cannot be reached from Modal, and work that is"
                " handed over needs a place that lasts for its rows: use an s3:// bucket"
            )
        self.detached: bool = not wait
        self._declared = load_pipelines(file.partition(":")[0])
        self._app = app or app_name(self._declared)
        self._way: Way = "gather" if wait else "jobs" if jobs else "detached"
        self._ordered = ordered
        self._executors: list[ModalExecutor] = []

    def runtime(self, pipeline: Pipeline, store: Store, usd: float | None = None) -> Runtime:
        """The pipeline on the store, with the app's containers; its cost limits hold, and so does
        `usd`.
        """
        from pipeline.deploy.control import deployed_runtime, modal_executor

        alone = len(self._declared) == 1
        executor = modal_executor(
            self._app, pipeline, store, alone=alone, way=self._way, ordered=self._ordered
        )
        self._executors.append(executor)
        policy = deployed_policy()
        if not self.detached:
            # the client keeps within its limits
            policy = replace(policy, open_tasks_max=None, outstanding_sources_max=200_000)
        runtime = deployed_runtime(pipeline, store, executor, policy, usd)
        runtime.aggregates = not self.detached
        return runtime

    async def close(self) -> None:
        """Stop waiting; what was handed over goes on."""
        for executor in self._executors:
            await executor.close()


def app_name(declared: Sequence[Pipeline]) -> str:
    """What the app of a file is called, unless somebody says otherwise."""
    return f"tidemill-{declared[0].name}"
