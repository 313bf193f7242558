"""python -m tests.faults.committer ENDPOINT BUCKET PIPELINE NAME COUNT: one of several writers of
one log, in a process of its own.

Appends COUNT entries, each until it is surely in the log once, and prints what it was told of each
as JSON. An append of which the store did not say whether it took place (CommitUnknown) may have,
may do so later, when a request that was delayed arrives, or never: but only at its own number. So
the writer catches up; where that number is taken, what is there is the answer; where it is not, the
writer proposes for the same number again, and one of the two proposals gets it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from pipeline.commit_log.log import Log
from pipeline.errors import CommitUnknown, StoreUnavailable
from pipeline.model.commit import FORMAT_VERSION, Commit
from pipeline.model.policy import Policy
from pipeline.runtime.system import WallClock
from pipeline.state.state import State
from pipeline.stores import open_store

OUTAGES_MAX = 200


class Writer:
    """Appends entries to a log that others append to."""

    def __init__(self, log: Log, name: str) -> None:
        self.log = log
        self.name = name
        self.reported: list[str] = []
        self.counts = {"unknown": 0, "unknown but committed": 0, "lost races": 0, "outages": 0}
        self.pending: set[str] = set()
        """Ids proposed for the entry at hand of which it is not known whether they are in the log.
        """

    async def run(self, count: int) -> None:
        state = await self._patiently(self.log.load)
        for i in range(count):
            state = await self._append(state, i)

    async def _append(self, state: State, i: int) -> State:
        attempt = 0
        self.pending.clear()
        while True:
            if self.pending:
                state, settled = await self._found(state)
                if settled:
                    return state
            attempt += 1
            commit = self._commit(state, f"{self.name}-{i}-{attempt}")
            try:
                if await self.log.append(state, commit):
                    self.reported.append(commit.id)
                    return state
                self.counts["lost races"] += 1
                self.pending.add("")  # another entry has the number: read it
            except (CommitUnknown, StoreUnavailable) as error:
                self.counts["unknown" if isinstance(error, CommitUnknown) else "outages"] += 1
                self.pending.add(commit.id)

    async def _found(self, state: State) -> tuple[State, bool]:
        """The state as the log is now, and whether one of the pending ids is in it."""
        sequence = state.sequence
        if not await self._patiently(lambda: self.log.catch_up(state)):
            raise AssertionError("nobody collects this log")
        for number in range(sequence + 1, state.sequence + 1):
            found = await self._patiently(lambda number=number: self._id_at(number))
            if found in self.pending:
                self.counts["unknown but committed"] += 1
                self.reported.append(found)
                return state, True
        return state, False

    async def _id_at(self, sequence: int) -> str:
        from pipeline.model import keys
        from pipeline.state import codec

        key = keys.log_entry(self.log.home, sequence)
        return codec.decode(Commit, (await self.log.store.get(key)).body, key).id

    async def _patiently(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        for _ in range(OUTAGES_MAX):
            try:
                return await ask()
            except StoreUnavailable:
                self.counts["outages"] += 1
        raise AssertionError("the store is gone")

    def _commit(self, state: State, commit_id: str) -> Commit:
        return Commit(
            format=FORMAT_VERSION,
            sequence=state.sequence + 1,
            id=commit_id,
            previous=state.id,
            pipeline=self.log.pipeline,
            generation=0,
            writer=self.name,
            written_ms=0,
            requeue=[commit_id],
        )


def main(endpoint: str, bucket: str, pipeline: str, name: str, count: str) -> None:
    """Write, then say what was told."""
    store = open_store(f"s3://{bucket}", endpoint_url=endpoint, region="us-east-1")
    writer = Writer(Log(store, pipeline, clock=WallClock(), policy=Policy(sends_max=4)), name)

    async def work() -> None:
        try:
            await writer.run(int(count))
        finally:
            await store.close()

    asyncio.run(work())
    print(json.dumps({"reported": writer.reported, **writer.counts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    # as the commands end: now and then obstore's own threads abort a process that is taking itself
    # apart
    os._exit(0)
