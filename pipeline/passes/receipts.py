"""What detached attempts left in the bucket: receipts, notes that they began, notes that they are
lost.

A receipt of an attempt that worked through mounts is only believed after the store itself was
asked: mounts know no versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from pipeline.errors import StateInvalid
from pipeline.model import keys
from pipeline.model.listing import Head, Page
from pipeline.model.receipt import LossNote, Receipt, SourceProblem
from pipeline.model.task import Inputs, Task
from pipeline.plan.evidence import LostAttempt, fits
from pipeline.ports import Store
from pipeline.state import codec
from pipeline.state.state import State


@dataclass(slots=True)
class Gathered:
    """Evidence about open tasks, by task."""

    receipts: dict[str, Receipt] = field(default_factory=dict)
    losses: dict[str, LostAttempt] = field(default_factory=dict)
    began: set[tuple[str, int]] = field(default_factory=set)


async def gather(
    store: Store, home: str, state: State, output: str, tasks: Iterable[str] | None = None
) -> Gathered:
    """All that lies under the receipts prefix about open tasks; of those named in `tasks` alone
    where given.

    `output` is the prefix that their files must lie below.
    """
    found = Gathered()
    names: list[str] = []
    if not state.tasks:
        return found
    below = keys.receipt_prefix(home)
    for prefix in [below + keys.TASKS] if tasks is None else [f"{below}{t}." for t in tasks]:
        async for page in store.list(prefix):
            names += _worth_reading(page, state, found)
    for key, stored in zip(names, await store.get_many(names), strict=True):
        if stored is not None:
            await _note(store, state, found, key, stored.body, output=output)
    return found


def _worth_reading(page: Page, state: State, found: Gathered) -> Iterator[str]:
    """Keys of receipts and notes of open tasks; what began is known by its key alone."""
    for key, size in zip(page.keys, page.sizes, strict=True):
        began = keys.began_dispatch(key)
        kind = LossNote if keys.is_loss_note(key) else Receipt
        if began is not None:
            found.began.add(began)
        elif keys.task_of(key) in state.tasks and codec.may_be(kind, size):
            yield key


async def _note(
    store: Store, state: State, found: Gathered, key: str, body: bytes, *, output: str
) -> None:
    try:
        if keys.is_loss_note(key):
            note = codec.decode(LossNote, body, key)
            task = state.tasks.get(note.task)
            if task is not None and task.dispatch == note.dispatch:
                found.losses[task.id] = LostAttempt(task.attempt, task.owner, note, note.dispatch)
            return
        receipt = codec.decode(Receipt, body, key) if keys.is_receipt(key) else None
    except StateInvalid:
        # damaged, cut off or foreign: as if it did not exist, so its task expires and runs again
        return
    task = state.tasks.get(receipt.task) if receipt is not None else None
    if (
        receipt is None
        or task is None
        or receipt.task in found.receipts
        or not fits(receipt, task, output)
    ):
        return
    checked = await verified(store, task, receipt)
    if checked is not None:
        found.receipts[task.id] = checked


async def verified(store: Store, task: Task, receipt: Receipt) -> Receipt | None:
    """The receipt as it may be settled: sources that are not at their planned version any more are
    `stale` or `gone`.

    None if an output is not there at the size that was recorded: a mount publishes what a killed
    writer had written so far.
    """
    if not receipt.mounted or len(receipt.rows) != len(task.inputs):
        return receipt
    heads = await store.head_many([file.key for file in receipt.files])
    if any(
        head is None or head.size_bytes != file.size_bytes
        for head, file in zip(heads, receipt.files, strict=True)
    ):
        return None
    problems = receipt.problems + await _went_meanwhile(store, task, receipt)
    return msgspec.structs.replace(
        receipt, problems=sorted(problems, key=lambda p: p.index), unverified=[]
    )


async def _went_meanwhile(store: Store, task: Task, receipt: Receipt) -> list[SourceProblem]:
    """Sources that could not be verified when they were read, and are not what was planned."""
    ailing = {p.index for p in receipt.problems}
    doubtful = [i for i in receipt.unverified if 0 <= i < len(task.inputs) and i not in ailing]
    heads = await store.head_many([task.inputs.keys[i] for i in doubtful])
    found = []
    for i, head in zip(doubtful, heads, strict=True):
        if head is None:
            found.append(SourceProblem(index=i, status="gone"))
        elif not _is_as_planned(head, task.inputs, i):
            found.append(SourceProblem(index=i, status="stale"))
    return found


def _is_as_planned(head: Head, inputs: Inputs, i: int) -> bool:
    same_second = head.modified_us // 1_000_000 == inputs.modified_us[i] // 1_000_000
    return head.etag == inputs.etags[i] and same_second
