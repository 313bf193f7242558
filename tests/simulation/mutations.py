"""The rules of the protocol, each with a way to break it. A rule whose mutation no history notices would be no rule.

Each mutation replaces one method of the code under test, and nothing of the simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from pipeline import keys, maintenance, runner
from pipeline.errors import ObjectNotFound
from pipeline.log import Log
from pipeline.maintenance import Vacuum
from pipeline.model import Assignment, Commit, Stored
from pipeline.runner import Pass
from pipeline.state import Checkpoint, State

from .store import SimStore

ALL: dict[str, tuple[str, Callable[[], Any]]] = {}
"""Name -> (the rule that is removed, a context manager that removes it)."""


def removes(rule: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def register(mutation: Callable[[], Any]) -> Callable[[], Any]:
        ALL[mutation.__name__.replace("_", "-")] = (rule, mutation)
        return mutation

    return register


@contextmanager
def applied(name: str | None) -> Iterator[None]:
    """The code under test with one rule removed."""
    if name is None:
        yield
        return
    with ALL[name][1]():
        yield


@removes("`wanted` decides which task may publish a key")
def any_task_publishes() -> Any:
    return patch.object(State, "is_wanted", lambda self, key, task_id: key in self.wanted)


@removes("a checkpoint remembers which inputs of open tasks are superseded")
def forget_superseded() -> Any:
    real = State.restore.__func__  # type: ignore[attr-defined]

    def restore(cls: type[State], checkpoint: Checkpoint, ledger: Any) -> State:
        checkpoint.superseded = {}
        return real(cls, checkpoint, ledger)  # type: ignore[no-any-return]

    return patch.object(State, "restore", classmethod(restore))


@removes("outputs have a nonce for each attempt")
def fixed_output_names() -> Any:
    return patch.object(keys, "output_id", lambda task, nonce: f"{task}.x")


@removes("read at the planned etag")
def read_any_version() -> Any:
    real = SimStore.do_get

    def do_get(self: SimStore, key: str, if_match: str | None) -> Stored:
        return real(self, key, None)

    return patch.object(SimStore, "do_get", do_get)


@removes("vacuum deletes only what is retired or removed long enough")
def vacuum_open_tasks() -> Any:
    return patch.object(Vacuum, "_is_over", lambda self, task: True)


@removes("retention before removed files are deleted")
def vacuum_at_once() -> Any:
    real = Vacuum._removed_outputs

    async def removed_outputs(self: Vacuum, due_ms: int) -> None:
        await real(self, due_ms + 10**12)

    return patch.object(Vacuum, "_removed_outputs", removed_outputs)


@removes("retention by the store's own time")
def local_clock() -> Any:
    def follow(self: Log, state: State, key: str, stored: Stored) -> bool:
        return real(self, state, key, Stored(body=stored.body, etag="", size_bytes=0, modified_us=_written(stored) * 1000))

    def _written(stored: Stored) -> int:
        import msgspec

        return msgspec.json.decode(stored.body, type=Commit).written_ms

    real = Log._follow
    return patch.object(Log, "_follow", follow)


@removes("HEAD before 'deleted'")
def trust_listings() -> Any:
    async def confirm(store: Any, absent: Iterable[str]) -> list[str]:
        return list(absent)

    return patch.object(runner, "confirm_missing", confirm)


@removes("a listing must not judge keys decided after it began")
def no_base_sequence() -> Any:
    return patch.object(State, "decided_since", lambda self, key, base: False)


@removes("the floor")
def no_floor() -> Any:
    async def floor(self: Log) -> int:
        return 0

    return patch.object(Log, "floor", floor)


@removes("the id chain")
def no_id_chain() -> Any:
    def follow(self: Log, state: State, key: str, stored: Stored) -> bool:
        import msgspec

        commit = msgspec.json.decode(stored.body, type=Commit)
        commit.previous = state.id
        state.apply(commit, stored.modified_us // 1000)
        return True

    return patch.object(Log, "_follow", follow)


@removes("a number that is taken is somebody else's unless it is read back as ours")
def taken_means_ours() -> Any:
    async def read_back(self: Log, key: str, commit_id: str) -> int | None:
        try:
            return (await self.store.get(key)).modified_us
        except ObjectNotFound:
            return None

    return patch.object(Log, "_read_back", read_back)


@removes("a vacuum's checkpoint shares no ledger run with another")
def vacuum_shares_runs() -> Any:
    real = maintenance.write_checkpoint

    async def write(log: Any, state: Any, ids: Any, *, whole: bool = False) -> str:
        return await real(log, state, ids)

    return patch.object(maintenance, "write_checkpoint", write)


@removes("aggregates are committed right after the snapshot they were computed over, or not at all")
def late_aggregates() -> Any:
    async def aggregate(self: Pass) -> None:
        aggregator = self.parts.aggregator
        if aggregator is None or not aggregator.is_behind(self.state.snapshot()):
            return
        files = await aggregator.compute(self.state.snapshot(), self.parts.ids.nonce())
        for _ in range(8):
            commit = self.proposer.blank(self.state, now_ms=0, commit_id=self.parts.ids.nonce())
            commit.aggregates = files
            if await self.log.append(self.state, commit):
                return
            await self._catch_up()

    return patch.object(Pass, "aggregate", aggregate)


@removes("only what the user's own code raised is final")
def lost_is_final() -> Any:
    from pipeline.planner import _Draft

    real = _Draft._quarantine_lost

    def quarantine(self: Any, task: Any, i: int, loss: Any) -> None:
        real(self, task, i, loss)
        import msgspec

        self.commit.quarantine[-1] = msgspec.structs.replace(self.commit.quarantine[-1], retry_at_ms=0)

    return patch.object(_Draft, "_quarantine_lost", quarantine)


@removes("readers use the snapshot's file list and its dead keys")
def readers_ignore_dead_keys() -> Any:
    from pipeline.snapshot import Snapshot

    real = State.snapshot

    def snapshot(self: State) -> Snapshot:
        import msgspec

        whole = real(self)
        outputs = {k: msgspec.structs.replace(o, dead=[]) for k, o in whole.outputs.items()}
        return msgspec.structs.replace(whole, outputs=outputs)

    return patch.object(State, "snapshot", snapshot)


@removes("what was read through a mount is settled only after the store was asked")
def trust_mounts() -> Any:
    from pipeline import gathering

    async def verified(store: Any, task: Any, receipt: Any) -> Any:
        return receipt

    return patch.object(gathering, "verified", verified)


@removes("each execution of an order takes a nonce of its own")
def one_nonce_an_order() -> Any:
    from pipeline.desk import Desk

    real = Desk.begin

    async def begin(self: Any, order: Any) -> Any:
        found = await real(self, order)
        return order.assignment if isinstance(found, Assignment) and order.assignment is not None else found

    return patch.object(Desk, "begin", begin)
