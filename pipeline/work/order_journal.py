"""Around each execution of an order: find its assignment, note that it began, leave a note where it
is lost.

An engine may run an order twice, long after its time, or once more after a death. So each execution
takes a nonce of its own, and looks first whether there is anything left to do.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import msgspec

from pipeline.errors import StoreError, TidemillError
from pipeline.model import keys
from pipeline.model.commit import FORMAT_VERSION
from pipeline.model.loss import Loss
from pipeline.model.receipt import LossNote, Receipt
from pipeline.model.task import Assignment, Task
from pipeline.ports import Clock, Finished, Ids, Outbox
from pipeline.state import codec
from pipeline.work.orders import Answer, Order, decode_assignment


class Box(Outbox, Protocol):
    """Where orders' assignments are read and notes are written."""

    async def fetch(self, key: str) -> bytes | None:
        """A small object's bytes, None where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class OrderJournal:
    """Takes orders for one pipeline."""

    pipeline: str
    box: Box
    clock: Clock
    ids: Ids
    version: str | None = None
    """The version of the transform's code here; None: not known, and not looked at."""

    async def begin(self, order: Order) -> Assignment | Answer:
        """The assignment under a new nonce, noted as begun; or why there is nothing to run."""
        try:
            assignment = await self._assignment(order)
            answer = await self._nothing_to_run(assignment)
            if answer is not None:
                return answer
            task = assignment.task
            await self.box.put(keys.began(self._home(task), task.id, task.dispatch), b"began\n")
        except TidemillError as error:
            return _innocent(order.task, str(error))
        return msgspec.structs.replace(assignment, nonce=self.ids.nonce())

    def _of_other_code(self, assignment: Assignment) -> Finished:
        """Rows must not be made by other code than they say: a pass that knows this code plans the
        files again.
        """
        task = assignment.task
        why = (
            f"planned for version {task.version} of {task.transform}, the deployed code is"
            f" {self.version}: deploy again"
        )
        loss = Loss(reason=why, innocent=True)
        return Finished(task=task.id, nonce=assignment.nonce, loss=loss, broken=True)

    async def _assignment(self, order: Order) -> Assignment:
        if order.assignment is not None:
            return order.assignment
        body = await self.box.fetch(order.stored)
        if body is None:
            raise StoreError(f"{order.stored} is not there: the task is over")
        return decode_assignment(body, order.stored)

    async def _nothing_to_run(self, assignment: Assignment) -> Answer | None:
        """The answer where the task is late, ran before, or is for other code."""
        task = assignment.task
        if self.clock.now_ms() > task.deadline_ms:
            return _innocent(task.id, "it came after its deadline: others have the task by now")
        noted = await self._noted(task)
        if noted is not None:  # it ran before, and that ended with the container's death
            return _as_answer(noted)
        if self.version not in (None, task.version):
            return await self.end(assignment, self._of_other_code(assignment))
        return None

    async def _noted(self, task: Task) -> LossNote | None:
        key = keys.loss_note(self._home(task), task.id, task.dispatch)
        body = await self.box.fetch(key)
        return codec.decode(LossNote, body, key) if body is not None else None

    async def end(self, assignment: Assignment, finished: Finished) -> Answer:
        """What to answer; a note in the bucket where there is no receipt."""
        task, receipt = assignment.task, finished.receipt
        if receipt is not None:
            return _done(task, receipt)
        note = _note(task, finished.loss or Loss(reason="no answer"))
        with suppress(TidemillError):  # without the note the deadline says the same, later
            await self.box.put(
                keys.loss_note(self._home(task), task.id, task.dispatch), codec.encode(note)
            )
        return msgspec.structs.replace(_as_answer(note), broken=finished.broken)

    def _home(self, task: Task) -> str:
        return keys.of_generation(keys.home(self.pipeline), task.generation)


def _done(task: Task, receipt: Receipt) -> Answer:
    return Answer(
        task=task.id,
        nonce=receipt.nonce,
        sources=len(receipt.rows),
        rows=sum(receipt.rows),
        failed=sum(p.status == "failed" for p in receipt.problems),
        seconds=receipt.seconds,
    )


def _note(task: Task, loss: Loss) -> LossNote:
    return LossNote(
        format=FORMAT_VERSION,
        task=task.id,
        dispatch=task.dispatch,
        **msgspec.structs.asdict(loss),
    )


def _innocent(task: str, reason: str) -> Answer:
    return Answer(task=task, loss=Loss(reason=reason, innocent=True))


def _as_answer(note: LossNote) -> Answer:
    loss = {name: getattr(note, name) for name in Loss.__struct_fields__}
    return Answer(task=note.task, loss=Loss(**loss))
