"""The invariants: what must hold at every commit, for every reader, and once everything has come to
rest.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from pipeline.commit_log.log import Log
from pipeline.commit_log.looking_back import load_at
from pipeline.errors import ObjectNotFound, SettingsError
from pipeline.model import keys
from pipeline.model.commit import Commit
from pipeline.passes.audit import all_entries
from pipeline.state.ledger import Entry
from pipeline.state.state import State

from .doubles import Row, count_groups, live_rows
from .kernel import SimClock, Violation
from .scene import RETENTION_S, SOURCE

if TYPE_CHECKING:
    from .world import World


class Oracle:
    """Watches every object that reaches the store and knows what must hold."""

    def __init__(self, world: World, generation: int = 0, first: Oracle | None = None) -> None:
        self.world = world
        self.generation = generation
        self.home = keys.of_generation(keys.home("p"), generation)
        self.state = State("p")
        self.commits: dict[str, bytes] = {}
        self.present_since: dict[str, int] = {} if first is None else first.present_since
        self.versions: dict[str, str] = {} if first is None else first.versions
        self.decided_at: dict[str, int] = {}
        self.live_at: dict[int, dict[str, str]] = {}
        """For every sequence: the committed version of each source."""
        self.committed_at: dict[int, int] = {}

    @property
    def now(self) -> int:
        return self.world.kernel.now

    def on_put(self, key: str, body: bytes, existed: bool) -> None:
        if key.startswith(SOURCE) and self.generation == 0:
            self.versions[self.world.store.objects[key].etag] = body.decode()
            if not existed:
                self.present_since[key] = self.now
        sequence = keys.log_sequence(key)
        if sequence is None or not key.startswith(keys.log_prefix(self.home)) or self._is_dropped():
            # who has not heard that a generation was dropped may still write there: nobody reads it
            return
        if sequence <= self.state.sequence:
            self.world.kernel.stats["re-created below the floor"] += 1
            return
        self._commit(msgspec.json.decode(body, type=Commit))

    def on_delete(self, key: str) -> None:
        self.present_since.pop(key, None)

    def _commit(self, commit: Commit) -> None:
        for deleted in commit.deleted:
            since = self.present_since.get(deleted.key)
            if since is not None and since < self.decided_at.get(deleted.key, 0):
                raise Violation(f"rows of the present source {deleted.key} were removed")
        before = {
            k: self.state.entry(k)
            for s in commit.settle
            for k in self.state.tasks[s.task].inputs.keys
        }
        self.state.apply(commit, self.now * 1000)
        self.world.kernel.stats["commits"] += 1
        for key, old in before.items():
            new = self.state.entry(key)
            if old is not None and new is not None and int(new.etag[1:]) < int(old.etag[1:]):
                raise Violation(f"{key} went back from {old.etag} to {new.etag}")
        self.live_at[commit.sequence] = {
            k: e.etag for k, e in self.state.overlay.items() if e is not None
        }
        self.committed_at[commit.sequence] = self.now
        for key, sequence in self.state.touched.items():
            if sequence == commit.sequence:
                self.decided_at[key] = self.now

    def _log(self) -> Log:
        world = self.world
        return Log(
            world.store,
            "p",
            clock=SimClock(world.kernel, 0),
            policy=world.policy,
            generation=self.generation,
        )

    def _is_dropped(self) -> bool:
        if self.generation == 0:
            return False  # its rows go, its log stays
        known = self.world.oracle.state.generations
        return known is not None and self.generation in known.dropped

    def has_all(self) -> bool:
        """Whether the generation has rows of every object as it is now, but for those that no code
        can read.
        """
        bodies, objects = self.world.store.bodies, self.world.store.objects
        good = {
            k: objects[k].etag
            for k, body in bodies.items()
            if k.startswith(SOURCE) and body not in (b"dies", b"raises")
        }
        entries = {key: self.state.entry(key) for key in good}
        return all(entry is not None and entry.etag == good[key] for key, entry in entries.items())

    def no_corruption(self, error: Exception) -> None:
        if type(error).__name__ in ("StateInvalid", "InvariantViolated"):
            raise Violation(f"{type(error).__name__}: {error}")

    async def check_snapshot(self, state: State, entries: dict[str, Entry], started: int) -> None:
        """A reader sees every committed source once, at its committed version, and aggregates that
        follow from that.
        """
        snapshot = state.snapshot()
        try:
            rows = await live_rows(self.world, snapshot)
            stored = [await self.world.store.get(f.key) for f in snapshot.aggregates.values()]
        except ObjectNotFound as error:
            if self.now - started > RETENTION_S:
                self.world.kernel.stats["readers too slow"] += 1
                return
            if self._is_dropped():
                return
            raise Violation(f"a live file is missing: {error}") from None
        check_rows(rows, entries, self.versions)
        self._check_totals(state, rows)
        current = stored and not (
            snapshot.changes.added or snapshot.changes.gone or snapshot.changes.everything
        )
        if current and json.loads(stored[0].body) != count_groups(rows):
            raise Violation("the aggregate is not the recomputation")
        self.world.kernel.stats["reads"] += 1

    async def check_earlier(self, sequence: int) -> None:
        """What is read of an earlier sequence is what was committed then; it can be read while
        retention has not passed since.
        """
        log, began = self._log(), self.now
        try:
            state = await load_at(log, sequence)
            await log.load_outputs(state)
            rows = await live_rows(self.world, state.snapshot())
        except (SettingsError, ObjectNotFound) as error:
            if self._is_dropped():
                return
            until = self.committed_at.get(sequence + 1, self.now)
            if until + RETENTION_S > self.now and self.world.policy.log_entries_max >= 1000:
                raise Violation(
                    f"what was current {self.now - until} s ago cannot be read: {error}"
                ) from None
            self.world.kernel.stats["too early to look back"] += 1
            return
        found = {key: etag for key, etag, *_ in rows}
        if found != self.live_at[sequence] or len(found) != len(rows):
            raise Violation(
                f"at {sequence} {self.live_at[sequence]} was committed, and {found} is read"
                f" ({began})"
            )
        self.world.kernel.stats["looks back"] += 1

    def _check_totals(self, state: State, rows: list[Row]) -> None:
        files = [file for output in state.outputs.values() for file in output.files]
        found = (len(rows), len(files), sum(file.size_bytes for file in files))
        if (state.totals.sources, state.totals.files, state.totals.size_bytes) != found:
            raise Violation(f"{state.totals} is counted where {found} are live")

    def at_rest(self) -> bool:
        """Whether nothing is under way or waits for its time, but for what can never be done."""
        objects, state = self.world.store.objects, self.state
        poison = {k for k, b in self.world.store.bodies.items() if b == b"dies"}
        for key in (k for k in objects if k.startswith(SOURCE)):
            entry, etag, aside = state.entry(key), objects[key].etag, state.quarantine.get(key)
            handled = (entry is not None and entry.etag == etag) or (
                aside is not None and aside.etag == etag
            )
            if not handled and key not in state.wanted:
                return False
        if any(entry is not None and key not in objects for key, entry in state.overlay.items()):
            return False
        waiting = {q.key for q in self.state.quarantine.values() if q.kind == "lost"}
        return waiting <= poison and all(
            set(t.inputs.keys) <= poison for t in self.state.tasks.values()
        )

    def check_final(self) -> None:
        world = self.world
        log = self._log()
        state: State = world.kernel.run_alone(log.load())
        world.kernel.run_alone(log.load_outputs(state))
        entries = world.kernel.run_alone(all_entries(log, state))
        world.kernel.run_alone(self.check_snapshot(state, entries, self.now))
        if world.aggregates and state.outputs and not state.aggregates:
            raise Violation("no aggregate was ever committed")
        sources = {
            k: (world.store.objects[k].etag, b.decode())
            for k, b in world.store.bodies.items()
            if k.startswith(SOURCE)
        }
        for key, (etag, body) in sources.items():
            entry, quarantined = entries.get(key), state.quarantine.get(key)
            if body in ("dies", "raises"):
                open_now = state.wanted.get(key)
                if not (quarantined and quarantined.etag == etag) and not (
                    open_now and open_now[1] == etag
                ):
                    raise Violation(f"poison {key} is not in quarantine")
            elif entry is None or entry.etag != etag:
                raise Violation(f"lost: {key} at {etag} is not committed, but {entry}")
            elif quarantined is not None:
                raise Violation(f"{key} is committed and in quarantine")
        for key in entries:
            if key not in sources:
                raise Violation(f"rows of the deleted source {key} are live")
        self._check_holders(state, entries)
        self._check_bounds(state)

    def _check_holders(self, state: State, entries: dict[str, Entry]) -> None:
        """Each source is in one output, directly or by way of compactions, and all of them count
        right.
        """
        live: Counter[str] = Counter()
        for entry in entries.values():
            output: str | None = entry.output
            while output is not None:
                live[output] += 1
                output = state.outputs[output].into
        counted = {name: output.live for name, output in state.outputs.items()}
        if counted != dict(live):
            raise Violation(f"outputs count {counted}, the ledger {dict(live)}")

    def _check_bounds(self, state: State) -> None:
        """What is stored does not grow with history: at most what is live, retained, or since the
        last vacuum.
        """
        objects = self.world.store.objects
        for prefix, most in (("log/", 60), ("checkpoint/", 60), ("ledger/", 60), ("receipts/", 60)):
            count = sum(
                k.startswith(self.home + prefix) and k not in state.run_names for k in objects
            )
            if count > most:
                raise Violation(f"{count} objects under {prefix}")


def check_rows(rows: list[Row], entries: dict[str, Entry], versions: dict[str, str]) -> None:
    seen: dict[str, str] = {}
    for key, etag, body, version in rows:
        if versions[etag] != body:
            raise Violation(f"{key} at {etag} was {versions[etag]!r}, its row says {body!r}")
        if key in seen:
            raise Violation(f"{key} is read twice")
        seen[key] = etag
        entry = entries.get(key)
        if entry is None or entry.etag != etag:
            raise Violation(f"{key}: rows of {etag}, ledger {entry}")
        if entry.version != version:
            raise Violation(
                f"{key}: its rows were made by {version}, the ledger says {entry.version}"
            )
    live = set(entries)
    if live != set(seen):
        raise Violation(f"rows and ledger differ: {sorted(live ^ set(seen))}")
