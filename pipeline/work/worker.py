"""One attempt: read each input at its planned version, call the user's code, write the outputs,
then the receipt, last.

The receipt is the only thing that can publish rows. Whatever dies before it leaves files that
nobody names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.errors import TidemillError
from pipeline.model.receipt import Receipt
from pipeline.model.task import Assignment, Inputs
from pipeline.ports import Clock, Outbox
from pipeline.work.attempt import Attempt, Means, call_for
from pipeline.work.seams import (
    AttemptLost,
    Calls,
    Code,
    CodeBroken,
    Contents,
    PlainCalls,
    Writer,
    Written,
)

__all__ = ["AttemptLost", "Calls", "Code", "CodeBroken", "Contents", "Worker", "Writer", "Written"]


class Worker:
    """Runs attempts of one pipeline in this process."""

    def __init__(
        self,
        *,
        store: Outbox,
        contents: Contents,
        home: str,
        code: Callable[[str], Code | None],
        make_writer: Callable[[Assignment], Writer],
        clock: Clock,
        budget_s: float,
        engine: str = "",
        calls: Calls | None = None,
    ) -> None:
        self._means = Means(
            store=store, contents=contents, home=home, calls=calls or PlainCalls(), engine=engine
        )
        self._code = code
        self._make_writer = make_writer
        self._clock = clock
        self._budget_s = budget_s

    def load(self, transform: str) -> None:
        """Load a transform's code before the first attempt asks for it. Raises CodeBroken."""
        self._code(transform)

    async def run(self, assignment: Assignment, starting: Callable[[int], None]) -> Receipt:
        """Run the attempt and write its receipt. `starting(i)` is called before input i.

        Raises AttemptLost or a StoreError where there is no receipt: the attempt counts as lost,
        its inputs do not; after StoreUnavailable not even the attempt. Raises CodeBroken if the
        transform cannot be loaded.
        """
        [result] = await self.run_together([assignment], starting)
        if isinstance(result, Exception):
            raise result
        return result

    async def run_together(
        self, assignments: Sequence[Assignment], starting: Callable[[int], None]
    ) -> list[Receipt | TidemillError]:
        """Run attempts of one transform as one, so that small tasks share its batches; a receipt,
        or the loss, for each.

        `starting(n)` is called before the n-th input, counted over all attempts. Raises CodeBroken.
        """
        attempts = [
            Attempt(self._means, assignment, self._make_writer(assignment))
            for assignment in assignments
        ]
        try:
            started_s = self._clock.monotonic_s()
            await self._work(attempts, starting)
            share_s = (self._clock.monotonic_s() - started_s) / max(
                sum(len(a.task.inputs) for a in attempts), 1
            )
            return [await attempt.end(share_s * len(attempt.task.inputs)) for attempt in attempts]
        except MemoryError:
            return [AttemptLost("ran out of memory") for _ in attempts]
        finally:
            for attempt in attempts:
                attempt.writer.close()

    async def _work(self, attempts: Sequence[Attempt], starting: Callable[[int], None]) -> None:
        name = attempts[0].task.transform
        code = self._code(name)
        if code is None:
            for attempt in attempts:
                attempt.lost = AttemptLost(f"no transform named {name!r} is declared here")
            return
        for attempt in attempts:
            attempt.safe_to_rerun = code.safe_to_rerun
        items = [(attempt, i) for attempt in attempts for i in range(len(attempt.task.inputs))]
        self._means.contents.expect(Inputs.joined([attempt.task.inputs for attempt in attempts]))
        await self._call_in_batches(code, items, starting)

    async def _call_in_batches(
        self, code: Code, items: list[tuple[Attempt, int]], starting: Callable[[int], None]
    ) -> None:
        """Call for all of them, until the budget of seconds is spent: the others are put off."""
        started_s, step = self._clock.monotonic_s(), code.batch_size or 1
        for first in range(0, len(items), step):
            if first and self._clock.monotonic_s() - started_s > self._budget_s:
                for attempt, i in items[first:]:
                    attempt.problem(i, "deferred")
                return
            await call_for(code, items[first : first + step], first, starting)
