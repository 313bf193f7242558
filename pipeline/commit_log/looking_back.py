"""The state as it was: at an earlier commit, or at a moment."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from pipeline.commit_log.log import Log, Outdated
from pipeline.errors import SettingsError
from pipeline.model import keys
from pipeline.model.listing import Page
from pipeline.state.state import State


async def load_at(log: Log, sequence: int) -> State:
    """The state as it was at an earlier sequence.

    Raises SettingsError where that is not kept any more, or not there yet.

    Kept are a checkpoint from before the retention time, and all that came since (see
    `checkpoints.what_is_kept`).
    """
    newest = await log.load()
    if sequence > newest.sequence:
        raise SettingsError(
            f"{log.pipeline} has no commit {sequence} yet: the newest is {newest.sequence}"
        )
    if sequence == newest.sequence:
        return newest
    state = await _from_checkpoint(log, sequence)
    if state is not None:
        return state
    state = State(log.pipeline)
    if sequence > 0 and await _reaches(log, state, sequence):
        return state
    raise SettingsError(
        f"commit {sequence} of {log.pipeline} is not kept any more: {await _oldest_kept(log)}"
    )


async def _reaches(log: Log, state: State, sequence: int) -> bool:
    """Bring an old state up to an old sequence; whether all entries up to it are there, and
    none was re-created.
    """
    base = state.sequence
    try:
        return (
            await log.catch_up(state, upto=sequence)
            and state.sequence == sequence
            and await log.floor() <= base
        )
    except Outdated:
        return False


async def _oldest_kept(log: Log) -> str:
    floor = await log.floor()
    kept = [
        n
        for key in await log.checkpoint_keys()
        if (n := keys.checkpoint_sequence(key) or 0) >= floor
    ]
    return f"the oldest is {min(kept, default=floor + 1) if floor else 1}"


async def _from_checkpoint(log: Log, sequence: int) -> State | None:
    for base in [
        key
        for key in await log.checkpoint_keys()
        if (keys.checkpoint_sequence(key) or 0) <= sequence
    ]:
        state = await log.restored(base)
        if state is not None and await _reaches(log, state, sequence):
            return state
    return None


async def sequence_at(log: Log, moment_ms: int) -> int:
    """The last commit at or before a moment by the store's clock.

    Raises SettingsError where that is not known any more.
    """
    floor, found, oldest = await log.floor(), 0, None
    for prefix, number in (
        (keys.checkpoint_prefix(log.home), keys.checkpoint_sequence),
        (keys.log_prefix(log.home), keys.log_sequence),
    ):
        async for page in log.store.list(prefix):
            for sequence, at_ms in _numbered(page, number, floor):
                oldest = at_ms if oldest is None else min(oldest, at_ms)
                if at_ms <= moment_ms:
                    found = max(found, sequence)
    if not found:
        raise _nothing_at(log, moment_ms, oldest)
    return found


def _numbered(page: Page, number: Callable[[str], int | None], floor: int) -> list[tuple[int, int]]:
    """The sequences from the floor on, each with its time."""
    return [
        (sequence, modified_us // 1000)
        for key, modified_us in zip(page.keys, page.modified_us, strict=True)
        if (sequence := number(key)) is not None and sequence >= floor
    ]


def _nothing_at(log: Log, moment_ms: int, oldest: int | None) -> SettingsError:
    since = (
        "nothing is committed yet" if oldest is None else f"what is kept begins at {_utc(oldest)}"
    )
    return SettingsError(f"{log.pipeline} at {_utc(moment_ms)}: {since}")


def _utc(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
