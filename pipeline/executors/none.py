"""No executor: for commands that read, plan or repair, and never run the user's code."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import InvariantViolated
from pipeline.executors.local.process_owner import has_ended
from pipeline.model.task import Assignment
from pipeline.ports import Finished


class NoExecutor:
    """Dispatches nothing.

    With an owner's name, knows which others of this machine have ended; else takes none for dead.
    """

    owner: str = ""
    detached = False
    outstanding = 0
    parallelism = 1

    def __init__(self, owner: str | None = None) -> None:
        if owner is not None:
            self.owner = owner

    async def dispatch(self, assignments: Sequence[Assignment]) -> None:
        raise InvariantViolated("a command that runs no work tried to dispatch some")

    async def finished(self) -> list[Finished]:
        return []

    def is_gone(self, owner: str) -> bool:
        return bool(self.owner) and owner != self.owner and has_ended(owner, seen_from=self.owner)

    async def close(self) -> None:
        return None
