"""Attempts in this process, one after the other: for tests, notebooks and debuggers.

A crash of the code is a crash here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from pipeline.errors import StoreError, is_outage
from pipeline.model.loss import Loss
from pipeline.model.task import Assignment
from pipeline.ports import Finished
from pipeline.work.worker import AttemptLost, Worker


class InlineExecutor:
    """Runs each assignment when its end is asked for."""

    detached = False

    def __init__(self, worker: Worker, *, owner: str = "inline") -> None:
        self.owner = owner
        self._worker = worker
        self._queue: deque[Assignment] = deque()

    @property
    def outstanding(self) -> int:
        """Assignments that wait."""
        return len(self._queue)

    @property
    def parallelism(self) -> int:
        """One."""
        return 1

    async def dispatch(self, assignments: Sequence[Assignment]) -> None:
        """Queue the attempts."""
        self._queue.extend(assignments)

    async def finished(self) -> list[Finished]:
        """Run the next attempt."""
        if not self._queue:
            return []
        assignment = self._queue.popleft()
        try:
            receipt = await self._worker.run(assignment, lambda index: None)
        except (AttemptLost, StoreError) as error:
            loss = Loss(reason=str(error), innocent=is_outage(error))
            return [Finished(task=assignment.task.id, nonce=assignment.nonce, loss=loss)]
        return [Finished(task=assignment.task.id, nonce=assignment.nonce, receipt=receipt)]

    def is_gone(self, owner: str) -> bool:
        """Nobody can tell."""
        return False

    async def close(self) -> None:
        """Forget what waits."""
        self._queue.clear()
