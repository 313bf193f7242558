"""No executor: for commands that read, plan or repair, and never run the user's code."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import InvariantViolated
from pipeline.model import Assignment
from pipeline.ports import Finished


class NoExecutor:
    """Dispatches nothing; owns nothing; takes no other runner for dead."""

    owner = ""
    outstanding = 0
    parallelism = 1

    async def dispatch(self, assignments: Sequence[Assignment]) -> None:
        raise InvariantViolated("a command that runs no work tried to dispatch some")

    async def finished(self) -> list[Finished]:
        return []

    def is_gone(self, owner: str) -> bool:
        return False

    async def close(self) -> None:
        return None
