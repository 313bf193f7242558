"""Directed tests of the log's rules that random histories seldom or never notice."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from pipeline.commit_log.checkpoints import write_checkpoint
from pipeline.commit_log.log import Log, Outdated
from pipeline.commit_log.looking_back import load_at
from pipeline.commit_log.vacuum import raise_floor
from pipeline.errors import CommitUnknown, SettingsError, StateInvalid, StoreUnavailable
from pipeline.model import keys
from pipeline.model.commit import FORMAT_VERSION, Commit
from pipeline.model.policy import Policy
from pipeline.runtime.system import RandomIds, WallClock
from pipeline.state import codec
from pipeline.state.ledger import Entry
from pipeline.state.state import State
from pipeline.testing.memory_store import MemoryStore


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


class Impatient(WallClock):
    """Waits for nothing."""

    async def sleep(self, seconds: float) -> None:
        return None


def log_on(store: Any) -> Log:
    return Log(store, "p", clock=Impatient(), policy=Policy(sends_max=3))


def commit_after(state: State, name: str) -> Commit:
    """A commit with something in it."""
    return Commit(
        format=FORMAT_VERSION,
        sequence=state.sequence + 1,
        id=name,
        previous=state.id,
        pipeline="p",
        generation=0,
        writer="test",
        written_ms=0,
        requeue=[name],
    )


async def grown(log: Log, n: int) -> State:
    state = await log.load()
    for i in range(n):
        assert await log.append(state, commit_after(state, f"c{state.sequence + 1}-{i}"))
    return state


def test_one_of_two_writers_wins_and_the_other_knows() -> None:
    async def work() -> None:
        log = log_on(MemoryStore())
        one, two = await grown(log, 3), await log.load()
        assert await log.append(one, commit_after(one, "mine"))
        assert not await log.append(two, commit_after(two, "theirs"))
        assert two.sequence == 3, "what did not happen is not applied"
        assert await log.catch_up(two)
        assert (two.sequence, two.id) == (4, "mine")
        assert await log.append(two, commit_after(two, "theirs again"))

    run(work())


class Lossy(MemoryStore):
    """Answers are lost: before the write takes effect, or after."""

    def __init__(self, losses: list[str]) -> None:
        super().__init__()
        self.losses = losses

    async def put(self, key: str, body: bytes, **options: Any) -> None:
        loss = self.losses.pop(0) if self.losses and "/log/" in key else ""
        if loss == "before":
            raise StoreUnavailable("lost")
        await super().put(key, body, **options)
        if loss == "after":
            raise StoreUnavailable("lost")


@pytest.mark.parametrize(
    "losses",
    [["before"], ["after"], ["before", "after"], ["after", "before"], ["before", "before"]],
)
def test_a_lost_answer_neither_loses_nor_doubles_the_commit(losses: list[str]) -> None:
    async def work() -> None:
        log = log_on(Lossy(list(losses)))
        state = await log.load()
        assert await log.append(state, commit_after(state, "mine"))
        again = await log.load()
        assert (again.sequence, again.id) == (1, "mine")

    run(work())


def test_no_answer_at_all_is_said_to_be_unknown() -> None:
    async def work() -> None:
        log = log_on(Lossy(["before"] * 9))
        state = await log.load()
        with pytest.raises(CommitUnknown):
            await log.append(state, commit_after(state, "mine"))
        assert state.sequence == 0

    run(work())


def test_an_entry_recreated_below_the_floor_did_not_happen() -> None:
    """A writer stalls; meanwhile the log grows, and is collected with the number the
    writer wants.
    """

    async def work() -> None:
        store = MemoryStore()
        log = log_on(store)
        stalled = await grown(log, 3)
        others = await log.load()
        for i in range(4):
            assert await log.append(others, commit_after(others, f"others{i}"))
        reader = await log.load()
        await raise_floor(store, log.home, 6)
        await store.delete([keys.log_entry(log.home, n) for n in range(1, 7)])
        assert not await log.append(stalled, commit_after(stalled, "too late")), (
            "its create-only write was let through"
        )
        assert (await store.get(keys.log_entry(log.home, 4))).body, "and the entry is there again"
        assert stalled.sequence == 3
        assert not await log.catch_up(stalled), "only loading again helps"
        assert await log.catch_up(reader)
        assert reader.id == "others3"

    run(work())


def test_a_reader_does_not_follow_an_entry_of_another_history() -> None:
    async def work() -> None:
        store = MemoryStore()
        log = log_on(store)
        reader = await grown(log, 3)
        stale = commit_after(reader, "stale")
        stale.previous = "somebody else's third entry"
        await store.put(keys.log_entry(log.home, 4), codec.encode(stale))
        assert not await log.catch_up(reader)
        assert reader.sequence == 3

    run(work())


def test_the_floor_only_rises_whoever_raises_it() -> None:
    async def work() -> None:
        store = MemoryStore()
        for wanted, found in ((5, 5), (3, 5), (9, 9), (9, 9)):
            await raise_floor(store, "h/", wanted)
            assert (await store.get("h/gc/floor")).body == str(found).encode()
        await asyncio.gather(*(raise_floor(store, "h/", n) for n in (20, 11, 30, 12)))
        assert (await store.get("h/gc/floor")).body == b"30"

    run(work())


def test_a_commit_that_does_not_follow_is_refused_by_the_fold() -> None:
    state = State("p")
    late = commit_after(state, "x")
    late.sequence = 5
    with pytest.raises(StateInvalid, match="does not follow"):
        state.apply(late, 0)


def test_a_state_takes_no_runs_that_lack_what_it_merged_into_its_own() -> None:
    """A run of its newest checkpoint is gone; an older checkpoint has all its runs, and lacks what
    was committed since.
    """

    async def work() -> None:
        log, state = log_on(MemoryStore()), State("p")
        for sequence, key in enumerate(("a", "b"), start=5):
            state.sequence, state.id = sequence, f"c{sequence}"
            state.overlay = {key: Entry("e", 1, 0, 1, 0, "t", "v", 0, "o", sequence)}
            await write_checkpoint(log, state, RandomIds())
        await log.store.delete([run.key for run in state.ledger.runs.runs])
        state.ledger.runs.held.clear()
        try:
            await log.look_up(state, ["b"])
        except Outdated:
            return
        assert state.entry("b") is not None

    run(work())


def test_nothing_is_not_taken_for_an_earlier_state_of_a_generation_that_is_gone() -> None:
    """A vacuum removed its log and its floor; then somebody who had not heard stored one more
    checkpoint.
    """
    store = MemoryStore()

    async def scenario() -> None:
        log = log_on(store)
        state = await grown(log, 3)
        for sequence in (1, 2, 3):
            await store.delete([keys.log_entry(log.home, sequence)])
        await write_checkpoint(log, state, RandomIds())
        with pytest.raises(SettingsError, match="commit 2 of p is not kept any more"):
            await load_at(log, 2)

    run(scenario())
