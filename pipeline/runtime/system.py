"""This machine's clock and random numbers."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time


class WallClock:
    """This machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class RandomIds:
    """96 random bits: never the same twice."""

    def nonce(self) -> str:
        return secrets.token_hex(12)


def keep_arrow_light() -> None:
    """For processes that see no data of the user's: pyarrow without pandas, and with the system's
    allocator.

    With its first array pyarrow imports pandas where that is installed: half a second and 60 MB,
    for nothing here. Its own allocator keeps 30 MB more than it hands out. Do not call this in a
    process that runs transforms, or that forks the ones that do: their results may be pandas
    frames.
    """
    loaded = "pandas" in sys.modules
    if not loaded:
        sys.meta_path.insert(0, _Absent)
    try:
        import pyarrow as pa

        pa.set_memory_pool(pa.system_memory_pool())
        pa.array([0])
    finally:
        if not loaded:
            sys.meta_path.remove(_Absent)


class _Absent:
    """An importer for which there is no pandas."""

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)
