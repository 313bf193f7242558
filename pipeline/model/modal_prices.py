"""What Modal's machines are called and what a second of them costs, in one table. Pure.

Public list prices as of July 2026, in US dollars. A workspace may have others: `Rates` takes them,
and `tidemill plan` says which it used. Update the table here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GPU_USD_PER_S: dict[str, float] = {
    "T4": 0.000164,
    "L4": 0.000222,
    "A10": 0.000306,
    "L40S": 0.000542,
    "A100-40GB": 0.000583,
    "A100-80GB": 0.000694,
    "RTX-PRO-6000": 0.000842,
    "H100": 0.001097,
    "H200": 0.001261,
    "B200": 0.001736,
}
GPU_ALIASES = {"A100": "A100-40GB", "A10G": "A10", "H100!": "H100"}
"""Other names that Modal takes: `A100` may be given a larger card at the same price; `H100!`
refuses an upgrade.
"""
GPUS_MAX = {"A10": 4}
GPUS_MAX_DEFAULT = 8

CPU_USD_PER_CORE_S = 0.0000131
MEMORY_USD_PER_GIB_S = 0.00000222
CPU_MIN = 0.125
"""Cores that are charged at least."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices to reckon with, and where they are from."""

    gpu_usd_per_s: Mapping[str, float] = field(default_factory=lambda: GPU_USD_PER_S)
    cpu_usd_per_core_s: float = CPU_USD_PER_CORE_S
    memory_usd_per_gib_s: float = MEMORY_USD_PER_GIB_S
    source: str = "list prices of July 2026"

    def usd_per_s(self, *, cpu: float, memory_mb: int, gpu: tuple[str, ...]) -> float:
        """One container for one second.

        For a list of GPUs the dearest counts: which one is given is not known before.
        """
        cards = max((self._cards(name) for name in gpu), default=0.0)
        return (
            max(cpu, CPU_MIN) * self.cpu_usd_per_core_s
            + memory_mb / 1024 * self.memory_usd_per_gib_s
            + cards
        )

    def _cards(self, name: str) -> float:
        card, count = split_gpu(name)
        return self.gpu_usd_per_s[card] * count


def split_gpu(name: str) -> tuple[str, int]:
    """`H100:2` as a known card's name and a count.

    Raises ValueError, saying what is wrong, for anything Modal has not.
    """
    card, colon, count = name.partition(":")
    known = card.upper()
    known = GPU_ALIASES.get(known, known)
    if known not in GPU_USD_PER_S:
        raise ValueError(f"{name!r} is no GPU of Modal's; there is {', '.join(GPU_USD_PER_S)}")
    most = GPUS_MAX.get(known, GPUS_MAX_DEFAULT)
    if colon and not (count.isascii() and count.isdigit() and 1 <= int(count) <= most):
        raise ValueError(f"{name!r}: a container can have 1 to {most} of {known}")
    return known, int(count) if colon else 1
