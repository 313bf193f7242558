"""Keeping the state small: checkpoints, collection of the log, and vacuum.

Any number may run at once; none is needed for correctness, only for cost.

What may be deleted is decided by what is committed and by the store's own clock, never by a local
one, and never by the age of a file alone: a slow attempt's output must survive until its task has
ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.commit_log.checkpoints import Kept, write_checkpoint
from pipeline.commit_log.log import Log, parse_floor
from pipeline.errors import ObjectNotFound, PreconditionFailed
from pipeline.model import keys
from pipeline.model.settings import PipelineSettings
from pipeline.ports import Ids, Store
from pipeline.state.state import State

JOBS_KEPT_MS = 90 * 86_400_000


async def raise_floor(store: Store, home: str, sequence: int) -> None:
    """Declare that log entries at or below `sequence` may be gone.

    Only ever rises, whoever else raises it.
    """
    key = keys.floor(home)
    body = str(sequence).encode()
    while True:
        try:
            current = await store.get(key)
        except ObjectNotFound:
            current = None
        if current is not None and parse_floor(current, key) >= sequence:
            return
        try:
            if current is None:
                await store.put(key, body, create_only=True)
            else:
                await store.put(key, body, if_match=current.etag)
        except (PreconditionFailed, ObjectNotFound):
            continue
        return


@dataclass(slots=True)
class Vacuumed:
    """What one vacuum removed, and the ids of outputs to record as vacuumed in the next commit."""

    outputs: list[str] = field(default_factory=list)
    files: int = 0
    size_bytes: int = 0
    receipts: int = 0
    log_entries: int = 0
    checkpoints: int = 0


class Vacuum:
    """One run of the vacuum against one loaded state."""

    def __init__(
        self,
        log: Log,
        settings: PipelineSettings,
        state: State,
        *,
        kept: Kept | None = None,
        collected: Sequence[str] = (),
        dry_run: bool = False,
    ) -> None:
        self.log = log
        self.store: Store = log.store
        self.settings = settings
        self.state = state
        self.kept: Kept = kept or Kept()
        self.collected = collected
        self.dry_run = dry_run
        self.done: Vacuumed = Vacuumed()

    async def run(self, checkpoint: str) -> Vacuumed:
        """Delete what nobody can need any more.

        `checkpoint` was just written: the store's time of it is now.
        """
        now_ms = (await self.store.head(checkpoint)).modified_us // 1000
        due_ms = now_ms - int(1000 * self.settings.retention_s)
        await self._removed_outputs(due_ms)
        await self._orphans()
        await self._receipts()
        await self._jobs(now_ms)
        await self._log_and_checkpoints(checkpoint)
        await self._dropped()
        # after the checkpoint: neither it nor any later one names them
        await self._remove(list(self.collected))
        return self.done

    async def _removed_outputs(self, due_ms: int) -> None:
        """Files whose last live row went away longer ago than retention, by the store's clock."""
        for output, removed in self.state.removed.items():
            if removed.removed_ms < due_ms:
                await self._delete(
                    [file.key for file in removed.files],
                    [file.size_bytes for file in removed.files],
                )
                self.done.outputs.append(output)

    async def _orphans(self) -> None:
        """Files of attempts that ended without publishing: their task is over, and no commit names
        them.
        """
        for prefix in (
            keys.rows_prefix(self.settings.output),
            keys.rejected_prefix(self.settings.output),
        ):
            async for page in self.store.list(prefix):
                hits = [i for i, key in enumerate(page.keys) if self.is_orphan(key)]
                await self._delete([page.keys[i] for i in hits], [page.sizes[i] for i in hits])
        await self._orphan_aggregates()

    async def _orphan_aggregates(self) -> None:
        known = {file.key for file in self.state.aggregates.values()}
        known.update(file.key for removed in self.state.removed.values() for file in removed.files)
        async for page in self.store.list(keys.aggregate_prefix(self.settings.output)):
            hits = [
                i
                for i, key in enumerate(page.keys)
                if key not in known and self._is_past_aggregate(key)
            ]
            await self._delete([page.keys[i] for i in hits], [page.sizes[i] for i in hits])

    def is_orphan(self, key: str) -> bool:
        """Whether an output file belongs to no live or removed output, and its task can never
        publish it.
        """
        output, task = keys.output_of(key), keys.task_of(key)
        if (
            output is None
            or task is None
            or output in self.state.outputs
            or output in self.state.removed
        ):
            return False
        return self._is_over(task)

    def _is_over(self, task: str) -> bool:
        sequence = keys.task_sequence(task)
        return (
            sequence is not None
            and sequence <= self.state.sequence
            and task not in self.state.tasks
        )

    def _is_past_aggregate(self, key: str) -> bool:
        """An aggregate computed over snapshot n is committed at n+1 or never."""
        sequence = keys.aggregate_sequence(key)
        return sequence is not None and sequence < self.state.sequence

    async def _receipts(self) -> None:
        """Receipts, notes and stored orders of tasks that are over: what they said is in the log's
        fold.
        """
        for prefix in (keys.receipt_prefix(self.log.home), keys.assignment_prefix(self.log.home)):
            async for page in self.store.list(prefix + keys.TASKS):
                hits = [
                    key
                    for key in page.keys
                    if (task := keys.task_of(key)) is not None and self._is_over(task)
                ]
                await self._remove(hits)
                self.done.receipts += len(hits)

    async def _jobs(self, now_ms: int) -> None:
        """Records of jobs that are old by the store's clock: what became of their keys stays in the
        state.
        """
        async for page in self.store.list(keys.job_prefix(self.log.home)):
            times = zip(page.keys, page.modified_us, strict=True)
            await self._remove(
                [key for key, modified_us in times if modified_us // 1000 < now_ms - JOBS_KEPT_MS]
            )

    async def _log_and_checkpoints(self, checkpoint: str) -> None:
        """Log entries below the oldest checkpoint that is kept, and all checkpoints but those."""
        newest = keys.checkpoint_sequence(checkpoint) or 0
        reached = self.kept.floor
        if reached and not self.dry_run:
            await raise_floor(self.store, self.log.home, reached)
        async for page in self.store.list(keys.log_prefix(self.log.home)):
            old = [key for key in page.keys if (keys.log_sequence(key) or newest) <= reached]
            await self._remove(old)
            self.done.log_entries += len(old)
        await self._checkpoints_below(newest)

    async def _checkpoints_below(self, newest: int) -> None:
        hinted = await self.log.hinted_checkpoint()
        async for page in self.store.list(keys.checkpoint_prefix(self.log.home)):
            spared = {hinted, *self.kept.checkpoints}
            older = [
                key
                for key in page.keys
                if key not in spared and (keys.checkpoint_sequence(key) or newest) < newest
            ]
            await self._remove(older)
            self.done.checkpoints += len(older)

    async def _dropped(self) -> None:
        """Everything of generations that were dropped."""
        known = self.state.generations
        for number in known.dropped if known is not None else ():
            if number == 0:
                continue  # its rows are orphans by now; its log is the pipeline's
            home = keys.of_generation(self.log.home, number)
            for prefix in (
                keys.of_generation(self.settings.output, number),
                keys.receipt_prefix(home),
                keys.assignment_prefix(home),
                home,
            ):
                async for page in self.store.list(prefix):
                    await self._delete(page.keys, page.sizes)

    async def _delete(self, names: list[str], sizes: list[int]) -> None:
        if names:
            self.done.files += len(names)
            self.done.size_bytes += sum(sizes)
            await self._remove(names)

    async def _remove(self, names: list[str]) -> None:
        if names and not self.dry_run:
            await self.store.delete(names)


async def vacuum(
    log: Log,
    settings: PipelineSettings,
    state: State,
    ids: Ids,
    *,
    kept: Kept | None = None,
    collected: Sequence[str] = (),
    dry_run: bool = False,
) -> Vacuumed:
    """Write a checkpoint, then delete what is superseded, orphaned or collected.

    The caller commits `outputs` as vacuumed.

    `state` must have been loaded, and not proposed from a listing older than this call. A commit
    that it has applied must have given up the ledger runs `collected`. kept: what stays for looking
    back; without it the log stays whole. With `dry_run` nothing is deleted. Raises Outdated.
    """
    if state.sequence == 0:
        return Vacuumed()
    await log.load_outputs(state)
    checkpoint = await write_checkpoint(log, state, ids)
    return await Vacuum(log, settings, state, kept=kept, collected=collected, dry_run=dry_run).run(
        checkpoint
    )
