"""Which deployed functions run a transform's orders, and how many containers each may have. Pure.

Modal fills a dynamic batch with whatever waits: tasks that are full batches already would then
follow one another in one container while others stay idle. So a transform that waits for company
(`batch_wait_ms`) has two functions: `work_...` for tasks that fill their batches by themselves, and
`batch_...`, under `@modal.batched`, for smaller ones. Together they keep within
`max_containers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.model.policy import Policy
from pipeline.model.settings import TransformSettings

BATCHED_SHARE = 4
"""One container in so many is for small tasks."""


@dataclass(frozen=True, slots=True)
class Pools:
    """The functions of one transform; a name is empty where there is no such function."""

    work: str
    batch: str
    work_containers: int
    batch_containers: int
    batch_size: int
    keeps_state: bool

    def function_for(self, inputs: int) -> str:
        """What a task of so many inputs is sent to: a function's name, or `class.method` where
        state is kept.
        """
        name = (
            self.batch if self.batch and (inputs < self.batch_size or not self.work) else self.work
        )
        return f"{name}.run" if self.keeps_state else name


def pools_of(pipeline: str, transform: TransformSettings, policy: Policy, *, alone: bool) -> Pools:
    """The functions of a transform: `work_parse`, or `work_flights_parse` where the file declares
    several pipelines.
    """
    name = transform.name if alone else f"{pipeline}_{transform.name}"
    containers = policy.containers(transform)
    shares = transform.batch_size is not None and transform.batch_wait_ms > 0
    batched = max(1, containers // BATCHED_SHARE) if shares else 0
    return Pools(
        work=f"work_{name}" if containers > batched else "",
        batch=f"batch_{name}" if shares else "",
        work_containers=containers - batched,
        batch_containers=batched,
        batch_size=transform.batch_size or 1,
        keeps_state=transform.keeps_state,
    )


def all_pools(
    pipeline: str, transforms: Sequence[TransformSettings], policy: Policy, *, alone: bool
) -> Mapping[str, Pools]:
    """Those of each transform, by its name."""
    return {t.name: pools_of(pipeline, t, policy, alone=alone) for t in transforms}
