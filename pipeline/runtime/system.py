"""This machine's clock and random numbers."""

from __future__ import annotations

import asyncio
import secrets
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
