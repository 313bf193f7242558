"""What work costs on containers on Modal, before and while it is done.

Pure: prices and earlier receipts in, dollars out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.model.modal_prices import Rates
from pipeline.model.policy import Policy
from pipeline.model.settings import CostLimits, PipelineSettings, TransformSettings
from pipeline.state.state import State
from pipeline.state.usage import Took, day_of

ASSUMED_S_PER_FILE = 0.2
ASSUMED_BYTES_PER_S = 20e6
"""What is assumed of code that never ran: so long for each file, and so many bytes a second
besides.
"""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What some files of one transform would take.

    `seconds` are container seconds of work, `wall_s` the time until all is done.
    """

    transform: str
    files: int
    bytes: int
    containers: int
    seconds: float
    wall_s: float
    usd: float
    basis: str
    fill: float | None = None
    """Share of a batch that was filled so far, for batch transforms."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Rates applied to a pipeline's transforms."""

    settings: PipelineSettings
    policy: Policy
    rates: Rates = field(default_factory=Rates)

    def usd_per_s(self, transform: TransformSettings) -> float:
        """One second of one container of this transform."""
        r = transform.resources
        return self.rates.usd_per_s(cpu=r.cpu, memory_mb=r.memory_mb_deployed, gpu=r.gpu)

    def estimate(
        self, transform: TransformSettings, took: Took, *, files: int, size_bytes: int
    ) -> Estimate:
        """Work, containers and dollars for so many files.

        Containers are paid while they idle before they end, too.
        """
        per_file, basis = seconds_per_file(took, size_bytes / files if files else 0.0)
        seconds = files * per_file
        tasks = max(1, math.ceil(seconds / self.policy.attempt_budget_s)) if files else 0
        containers = min(self.policy.containers(transform), tasks)
        idle_s = containers * transform.resources.scaledown_window_s
        return Estimate(
            transform=transform.name,
            files=files,
            bytes=size_bytes,
            containers=containers,
            seconds=seconds,
            wall_s=seconds / containers if containers else 0.0,
            usd=(seconds + idle_s) * self.usd_per_s(transform),
            basis=basis,
            fill=took.fill,
        )

    def spent_usd(self, by_transform: Mapping[str, float]) -> float:
        """Seconds by transform in dollars; a transform that is no longer declared counts at the
        cheapest rate.
        """
        known = {t.name: self.usd_per_s(t) for t in self.settings.transforms}
        cheapest = min(known.values(), default=0.0)
        return sum(seconds * known.get(name, cheapest) for name, seconds in by_transform.items())


def seconds_per_file(took: Took, mean_bytes: float) -> tuple[float, str]:
    """Container seconds a file, and in words where the figure is from."""
    measured = took.seconds_per_file
    if measured is not None:
        return measured, f"{took.files:,.0f} earlier files"
    per_file = ASSUMED_S_PER_FILE + mean_bytes / ASSUMED_BYTES_PER_S
    return (
        per_file,
        (
            f"assumed: {ASSUMED_S_PER_FILE:g} s a file and {ASSUMED_BYTES_PER_S / 1e6:g} MB/s;"
            " nothing ran yet"
        ),
    )


class Budget:
    """How much more may be dispatched.

    Counts what today's receipts took, and what open tasks and this run are estimated to.
    """

    def __init__(self, limits: CostLimits, prices: Prices) -> None:
        self._limits = limits
        self._prices = prices
        self._run_usd = 0.0

    def files_affordable(
        self, state: State, transform: TransformSettings, mean_bytes: float, now_ms: int
    ) -> int | None:
        """How many more files of this transform the limits allow now; None where
        there is no limit.
        """
        left = []
        if self._limits.run_usd is not None:
            left.append(self._limits.run_usd - self._run_usd)
        if self._limits.day_usd is not None:
            spent = self._prices.spent_usd(state.usage.by_day.get(day_of(now_ms), {}))
            left.append(self._limits.day_usd - spent - self._open_usd(state))
        if not left:
            return None
        return max(
            0, math.floor(min(left) / self._usd_per_file(state, transform, mean_bytes) + 1e-9)
        )

    def take(
        self, state: State, transform: TransformSettings, files: int, mean_bytes: float
    ) -> None:
        """Count files that this run dispatches."""
        self._run_usd += files * self._usd_per_file(state, transform, mean_bytes)

    def _open_usd(self, state: State) -> float:
        total = 0.0
        for task in state.tasks.values():
            transform = self._prices.settings.transform(task.transform)
            if transform is not None and len(task.inputs):
                mean = sum(task.inputs.sizes) / len(task.inputs)
                total += len(task.inputs) * self._usd_per_file(state, transform, mean)
        return total

    def _usd_per_file(self, state: State, transform: TransformSettings, mean_bytes: float) -> float:
        per_file, _ = seconds_per_file(state.usage.took(transform.name), mean_bytes)
        return max(per_file * self._prices.usd_per_s(transform), 1e-12)
