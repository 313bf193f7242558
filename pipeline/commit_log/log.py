"""The commit log: load the state, catch up with other writers, append one entry exactly once.

The only place that decides whether a commit happened. The rules (numbered create-only entries, the
chain of ids, the floor, reading back after any doubt) are explained in docs/ARCHITECTURE.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from pipeline.commit_log import run_reader
from pipeline.commit_log.run_reader import RunGone
from pipeline.errors import (
    CommitConflict,
    CommitUnknown,
    ObjectNotFound,
    PreconditionFailed,
    StateInvalid,
    StoreUnavailable,
)
from pipeline.model import keys
from pipeline.model.backoff import backoff
from pipeline.model.commit import Commit
from pipeline.model.listing import Stored
from pipeline.model.policy import Policy
from pipeline.ports import Clock, Store
from pipeline.state import codec, ledger, outputs, stored_state
from pipeline.state.checkpoint import Checkpoint
from pipeline.state.needs import Needs
from pipeline.state.sorted_runs import between, merge
from pipeline.state.state import State

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_MAX = 64
SEND_AGAIN_S = 0.1
"""Before the second try of a commit; twice as long before each further one."""
SEND_AGAIN_MAX_S = 2.0
T = TypeVar("T")


class Outdated(CommitConflict):
    """The log moved on so far that whoever holds this state must start again from a fresh one."""


class Log:
    """One pipeline's commit log in one store."""

    def __init__(
        self, store: Store, pipeline: str, *, clock: Clock, policy: Policy, generation: int = 0
    ) -> None:
        self.store = store
        self.pipeline = pipeline
        self.home: str = keys.of_generation(keys.home(pipeline), generation)
        self._clock = clock
        self.policy = policy

    async def load(self) -> State:
        """The newest state.

        Raises StateInvalid if it cannot be read, CommitConflict if it never holds still.
        """
        for _ in range(self.policy.loads_max):
            state = await self._from_checkpoint()
            if state is not None and await self.catch_up(state):
                return state
        raise CommitConflict(
            f"the log of {self.pipeline} kept being collected while it was read; run again"
        )

    async def catch_up(self, state: State, *, upto: int | None = None) -> bool:
        """Apply every entry after the state's sequence, those above `upto` excepted.

        False if the state is not a prefix of the log any more (entries it would need are collected,
        or were re-created by a writer that stalled for long): then only a new `load` helps.
        """
        batch = 1
        while upto is None or state.sequence < upto:
            batch = batch if upto is None else min(batch, upto - state.sequence)
            wanted = [keys.log_entry(self.home, state.sequence + 1 + i) for i in range(batch)]
            for key, stored in zip(wanted, await self.store.get_many(wanted), strict=True):
                if stored is None:
                    return await self.floor() <= state.sequence
                if not await self._follow(state, key, stored):
                    return False
            batch = min(2 * batch, _BATCH_MAX)
        return await self.floor() <= state.sequence

    async def _follow(self, state: State, key: str, stored: Stored) -> bool:
        entry = codec.decode(Commit, stored.body, key)
        if entry.previous != state.id or entry.sequence != state.sequence + 1:
            return False
        try:
            await self._prepare(state, entry)
        except Outdated:
            return False
        state.apply(entry, stored.modified_us // 1000)
        return True

    async def _prepare(self, state: State, commit: Commit) -> None:
        """Look up what applying the commit needs to know."""
        await self.learn(state, state.needed_for(commit))

    async def append(self, state: State, commit: Commit) -> bool:
        """Commit at the next sequence and apply it to `state`.

        False if another entry has that number, or the number is below the floor: it did not happen
        and never will; catch up and propose again. Raises CommitUnknown if the store did not say
        within `sends_max` tries, Outdated.
        """
        await self._prepare(state, commit)
        key, body = keys.log_entry(self.home, commit.sequence), codec.encode(commit)
        modified_us = await self._send(key, body, commit.id)
        if modified_us is None or await self.floor() >= commit.sequence:
            return False
        state.apply(commit, modified_us // 1000)
        return True

    async def _send(self, key: str, body: bytes, commit_id: str) -> int | None:
        """Put the entry; the store's time of it, or None if another entry is there."""
        why = ""
        waits_s = backoff(SEND_AGAIN_S, SEND_AGAIN_MAX_S)
        for attempt in range(self.policy.sends_max):
            if attempt:
                await self._clock.sleep(next(waits_s))
            try:
                await self._put_once(key, body)
                return await self._read_back(key, commit_id)
            except StoreUnavailable as error:
                why = str(error)
        raise CommitUnknown(
            f"it is not known whether {key} was committed ({why}); the next pass finds out"
        )

    async def _put_once(self, key: str, body: bytes) -> None:
        # the number is taken: by us, if an earlier send landed and its answer was lost
        with suppress(PreconditionFailed):
            await self.store.put(key, body, create_only=True)

    async def _read_back(self, key: str, commit_id: str) -> int | None:
        """What the store holds under the number, whatever it answered before: its time of our
        entry, None for another's.
        """
        try:
            current = await self.store.get(key)
        except ObjectNotFound:
            return None  # collected already: we are far behind
        return current.modified_us if codec.commit_id(current.body, key) == commit_id else None

    async def floor(self) -> int:
        """Entries at or below this number may be gone; none of them counts if it is re-created."""
        key = keys.floor(self.home)
        try:
            return parse_floor(await self.store.get(key), key)
        except ObjectNotFound:
            return 0

    # -- checkpoints -------------------------------------------------------------------------------

    async def _from_checkpoint(self) -> State | None:
        """The state of the newest checkpoint, an empty one where there is none at all; None if what
        was listed has vanished.
        """
        found = await self.checkpoint_keys()
        for key in found:
            state = await self.restored(key)
            if state is not None:
                return state
        return None if found else State(self.pipeline)

    async def restored(self, key: str) -> State | None:
        """The state that a checkpoint holds; None if it vanished."""
        checkpoint = await self._checkpoint(key)
        if checkpoint is None:
            return None
        state = stored_state.restored(checkpoint)
        if checkpoint.totals is None:
            await self._add_up(state)
        return state

    async def _checkpoint(self, key: str) -> Checkpoint | None:
        try:
            checkpoint = codec.decode(Checkpoint, (await self.store.get(key)).body, key)
        except ObjectNotFound:
            return None
        if checkpoint.pipeline != self.pipeline:
            raise StateInvalid(
                f"{key} belongs to pipeline {checkpoint.pipeline!r}, not {self.pipeline!r}"
            )
        return checkpoint

    async def _add_up(self, state: State) -> None:
        """What a checkpoint of format 1 does not say."""
        totals = state.totals
        for output in state.stored().values():
            totals.files += len(output.files)
            totals.size_bytes += sum(file.size_bytes for file in output.files)
        async for table in self.all_committed(state):
            totals.sources += table.num_rows
            totals.rows += sum(table.column("rows").to_pylist())

    async def checkpoint_keys(self) -> list[str]:
        """The keys of all checkpoints, newest first, by listing and by hint: the listing may be
        stale, and so may the hint.
        """
        found: set[str] = set()
        async for page in self.store.list(keys.checkpoint_prefix(self.home)):
            found.update(key for key in page.keys if keys.checkpoint_sequence(key) is not None)
        hinted = await self.hinted_checkpoint()
        return sorted(found | {hinted} if hinted else found, reverse=True)

    async def hinted_checkpoint(self) -> str | None:
        """The checkpoint that the hint names, if it names one."""
        try:
            named = (await self.store.get(keys.hint(self.home))).body.decode("utf-8", "replace")
        except ObjectNotFound:
            return None
        below = named.startswith(keys.checkpoint_prefix(self.home))
        return named if below and keys.checkpoint_sequence(named) is not None else None

    # -- what lies in the runs ---------------------------------------------------------------------

    async def learn(self, state: State, needs: Needs) -> None:
        """Make the state able to answer for all of this. Raises Outdated."""
        await self.look_up(state, [*needs.sources, *needs.holders])
        entries = [state.entry(key) for key in needs.holders]
        held = [entry.output for entry in entries if entry is not None]
        await self.look_up_outputs(state, [*needs.outputs, *held])

    async def look_up(self, state: State, names: Iterable[str]) -> None:
        """Make `state.entry` able to answer for these keys. Raises Outdated."""

        async def read() -> None:
            wanted = sorted(
                {
                    name
                    for name in names
                    if name not in state.overlay and not state.ledger.knows(name)
                }
            )
            if wanted:
                state.ledger.learn(
                    wanted,
                    await run_reader.rows(self.store, state.ledger.runs, wanted, ledger.schema()),
                )

        names = list(names)
        await self._reading(state, read)

    async def look_up_outputs(self, state: State, names: Iterable[str]) -> None:
        """Make `state.outputs` able to answer for these. Raises Outdated."""

        async def read() -> None:
            wanted = sorted({name for name in names if not state.outputs.knows(name)})
            if wanted:
                state.outputs.learn(
                    wanted,
                    await run_reader.rows(self.store, state.outputs.runs, wanted, outputs.schema()),
                )

        names = list(names)
        while names:  # from an output to the one that it was merged into, and so on
            await self._reading(state, read)
            found = [state.outputs.get(name) for name in names]
            names = [
                output.into for output in found if output is not None and output.into is not None
            ]

    async def load_outputs(self, state: State) -> None:
        """Make `state.outputs` able to answer for all. Raises Outdated."""

        async def read() -> None:
            if not state.outputs.is_whole:
                async for table in run_reader.everything(
                    self.store, state.outputs.runs, outputs.schema()
                ):
                    state.outputs.learn((), table)
                state.outputs.learn((), outputs.schema().empty_table(), whole=True)

        await self._reading(state, read)

    async def committed_between(
        self, state: State, after: str, upto: str | None
    ) -> pa.Table | None:
        """The ledger's rows with `after` < key <= `upto`, sorted, without the overlay's changes.

        Raises Outdated.
        """
        return await self._reading(
            state,
            lambda: run_reader.between(self.store, state.ledger.runs, after, upto, ledger.schema()),
        )

    async def all_committed(self, state: State) -> AsyncIterator[pa.Table]:
        """The whole ledger, range by range in order, with the overlay's changes.
        Raises Outdated.
        """
        fresh = ledger.table_of(state.overlay)
        after = ""
        for upto in (*state.ledger.runs.range_ends("", None), None):
            old = await self.committed_between(state, after, upto)
            table = merge(
                [t for t in (old, between(fresh, after, upto)) if t is not None],
                drop_tombstones=True,
            )
            if table.num_rows:
                yield table
            after = upto or ""

    async def _reading(self, state: State, read: Callable[[], Awaitable[T]]) -> T:
        """The result of `read`, which looks into the state's runs; where those were deleted, into a
        newer checkpoint's.
        """
        for _ in range(self.policy.loads_max):
            try:
                return await read()
            except RunGone as gone:
                if not await self.rebase(state, gone.run.key):
                    break
        raise Outdated(
            f"what {self.pipeline} had committed was moved while it was being read; run again"
        )

    async def rebase(self, state: State, without: str) -> bool:
        """Let the state use the runs of the newest checkpoint that it has reached, and that does
        not name the run `without`.
        """
        for key in await self.checkpoint_keys():
            if not state.base <= (keys.checkpoint_sequence(key) or 0) <= state.sequence:
                continue
            checkpoint = await self._checkpoint(key)
            if checkpoint is not None and all(
                run.key != without for run in (*checkpoint.runs, *checkpoint.output_runs)
            ):
                state.rebase(checkpoint)
                return True
        return False


def parse_floor(stored: Stored, key: str) -> int:
    """The number in the floor object. Raises StateInvalid if it is none."""
    text = stored.body.decode("ascii", "replace").strip()
    if not text.isdigit() or len(text) > 20:
        raise StateInvalid(f"{key} should hold a sequence number, not {text[:40]!r}")
    return int(text)
