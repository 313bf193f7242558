"""Where work runs.

One port, so that `run`, `backfill` and `submit` are the same code on this machine's processes and
on Modal.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Literal, Protocol

from pipeline.declare.pipeline import Pipeline
from pipeline.model.policy import Policy
from pipeline.ports import Store
from pipeline.runtime.bucket import Bucket
from pipeline.runtime.runtime import Runtime
from pipeline.runtime.worker_process import local_executor

EngineName = Literal["local", "modal"]
ENGINES: tuple[EngineName, ...] = ("local", "modal")


class Engine(Protocol):
    """Makes runtimes whose passes dispatch to one place."""

    detached: bool
    """Whether a pass ends before the work it handed over does."""
    knows_costs: bool
    """Whether dollars can be a limit."""

    def runtime(self, pipeline: Pipeline, store: Store, usd: float | None = None) -> Runtime:
        """The pipeline on the store, with this engine's workers. usd: estimated dollars after which
        nothing more is dispatched.
        """
        ...

    @property
    def under_way(self) -> int:
        """Inputs that running attempts are done with, as far as that is known: for progress,
        nothing else.
        """
        ...

    async def close(self) -> None:
        """End the workers, or stop waiting for them."""
        ...


class LocalEngine:
    """Worker processes on this machine. Make it before anything in this process starts a thread."""

    detached = False
    knows_costs = False

    def __init__(
        self, file: str, pipelines: Sequence[Pipeline], bucket: Bucket, workers: int | None
    ) -> None:
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
        """Those of this process go when it ends, even if it is killed.

        For a process that does nothing else.
        """
        tempfile.tempdir = self._executor.scratch
