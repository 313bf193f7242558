"""Publishing to the declared sinks: what each holds is compared with the newest snapshot, and what
is missing is handed over.

Nothing about sinks is in the pipeline's own state: a target's mark says what it holds. So
publishing may be left out, repeated, or killed at any moment, and the next one goes on from what
the target holds. Where the snapshot that a target holds cannot be read any more (the log was
collected), or the change cannot be made as it is, the target gets everything again in one
transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import msgspec

from pipeline.commit_log.looking_back import load_at
from pipeline.declare.pipeline import Pipeline
from pipeline.errors import (
    CommitConflict,
    ObjectNotFound,
    SettingsError,
    StateInvalid,
    TidemillError,
    nearest,
)
from pipeline.model import events
from pipeline.model.events import Listener
from pipeline.model.snapshot import Snapshot
from pipeline.runtime.runtime import Runtime
from pipeline.tracebacks import visible
from sinks.aggregates.compute import definitions
from sinks.copies.change import Change, Mark
from sinks.copies.change_rows import Declared, Rows
from sinks.copies.changes import changes_between, mark_of
from sinks.copies.port import Sink, SinkFailed
from sinks.query.dimensions import Dimension, look_up
from sinks.query.object_files import files_of
from sinks.targets import Target

TRIES = 8
"""Times a change is computed from scratch because somebody else published meanwhile."""

SnapshotAt = Callable[[int], Awaitable[Snapshot | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """How one sink stands beside its table. problem: why it could not be asked or brought up to
    date, in one line.
    """

    sink: str
    mark: Mark | None = None
    generation: int = 0
    """The live one."""
    sequence: int = 0
    """The table's newest commit; 0 before the first rows: there is nothing to hold yet."""
    done: bool = False
    """This call moved the mark."""
    rebuilt: bool = False
    problem: str = ""

    @property
    def is_behind(self) -> bool:
        """Whether the table has commits that the sink lacks."""
        if self.mark is None or self.mark.generation != self.generation:
            return self.sequence > 0
        return self.mark.sequence < self.sequence


class Publisher:
    """The sinks of one pipeline on one bucket. snapshot_at: the snapshot at a sequence, None where
    it is not kept.
    """

    def __init__(self, runtime: Runtime, snapshot_at: SnapshotAt | None = None) -> None:
        self._runtime = runtime
        self._snapshot_at = snapshot_at or self._earlier
        self._aggregates = runtime.settings.aggregates
        self._dimensions: Sequence[Dimension] = ()

    @property
    def _pipeline(self) -> Pipeline:
        return self._runtime.pipeline

    async def publish_all(self) -> list[Published]:
        """Bring every sink up to date. One that fails does not hold up the others."""
        return [await self.publish(name) for name in self._pipeline.sinks]

    async def publish(self, name: str, *, rebuild: bool = False) -> Published:
        """Bring one sink up to date; with `rebuild`, all its rows again.

        Raises SettingsError for a name that is not declared.
        """
        sink = self._open(name)
        try:
            return await self._bring(name, sink, rebuild=rebuild)
        except _expected() as error:
            newest, generation = await self._seen()
            return Published(
                sink=name,
                generation=generation,
                sequence=newest,
                problem=str(error) or type(error).__name__,
            )
        finally:
            await sink.close()

    async def look(self, name: str) -> Published:
        """What a sink holds, beside the table's newest commit."""
        self._runtime = await self._runtime.live()
        sink, state = self._open(name), await self._runtime.log().load()
        newest = state.sequence if state.schema is not None else 0
        try:
            return Published(
                sink=name,
                mark=await sink.mark(self._pipeline.name),
                generation=self._generation,
                sequence=newest,
            )
        except _expected() as error:
            problem = str(error) or type(error).__name__
            return Published(
                sink=name, generation=self._generation, sequence=newest, problem=problem
            )
        finally:
            await sink.close()

    async def _seen(self) -> tuple[int, int]:
        """The table's newest commit and live generation, however the sink fares; zeros where the
        table cannot be asked either.
        """
        with suppress(TidemillError):
            self._runtime = await self._runtime.live()
            state = await self._runtime.log().load()
            return (state.sequence if state.schema is not None else 0), self._generation
        return 0, self._generation

    def _open(self, name: str) -> Sink:
        if name not in self._pipeline.sinks:
            raise SettingsError(
                f"pipeline {self._pipeline.name} has no sink"
                f" {name!r}{nearest(name, list(self._pipeline.sinks))}"
            )
        return cast(Target, self._pipeline.sinks[name]).open(self._runtime.store)

    # -- one sink ----------------------------------------------------------------------------------

    async def _bring(self, name: str, sink: Sink, *, rebuild: bool) -> Published:
        for _ in range(TRIES):
            held = await sink.mark(self._pipeline.name)
            # after the mark: so it cannot be older than what anybody published before
            new = await self._newest()
            if new.schema is None and held is None:
                return Published(sink=name)
            target = mark_of(new)
            if held == target and not rebuild:
                return Published(
                    sink=name, mark=held, generation=self._generation, sequence=new.sequence
                )
            if not rebuild:
                _refuse_newer(name, held, target)
            old = await self._old(held, target) if not rebuild else None
            change = await self._possible(sink, old, new, held)
            with self._rows(change, old, new) as rows:
                if await sink.publish(change, rows):
                    return Published(
                        sink=name,
                        mark=target,
                        generation=self._generation,
                        sequence=new.sequence,
                        done=True,
                        rebuilt=change.whole,
                    )
        raise SinkFailed(f"others were faster {TRIES} times; publish again")

    def _rows(self, change: Change, old: Snapshot | None, new: Snapshot) -> Rows:
        declared = Declared(
            self._aggregates if new.schema is not None else (),
            self._definitions(new),
            self._dimensions,
        )
        return Rows(files_of(self._runtime.store), change, old, new, declared)

    @property
    def _generation(self) -> int:
        return self._runtime.settings.generation

    async def _newest(self) -> Snapshot:
        """What readers see now, of the generation that is live."""
        self._runtime = await self._runtime.live()
        log = self._runtime.log()
        state = await log.load()
        await log.load_outputs(state)
        self._dimensions = await look_up(self._runtime.store, self._runtime.settings.dimensions)
        return msgspec.structs.replace(state.snapshot(), generation=self._generation)

    async def _earlier(self, sequence: int) -> Snapshot | None:
        """What the live generation was at a sequence; None where that is not kept."""
        log = self._runtime.log()
        with suppress(CommitConflict, ObjectNotFound, SettingsError, StateInvalid):
            state = await load_at(log, sequence)
            await log.load_outputs(state)
            return msgspec.structs.replace(state.snapshot(), generation=self._generation)
        return None

    async def _old(self, held: Mark | None, target: Mark) -> Snapshot | None:
        """What the target holds, where that can be known."""
        if held is None or held.generation != target.generation:
            return None
        return await self._snapshot_at(held.sequence)

    async def _possible(
        self, sink: Sink, old: Snapshot | None, new: Snapshot, held: Mark | None
    ) -> Change:
        change = changes_between(old, new, self._definitions(new), held)
        if change.whole or (await self._are_kept(change) and await sink.follows(change)):
            return change
        return changes_between(None, new, self._definitions(new), held)

    async def _are_kept(self, change: Change) -> bool:
        """Whether the files of outputs that went are still there: which rows go is
        read from them.
        """
        wanted = [file.key for output in change.vanished.values() for file in output.files]
        return all(head is not None for head in await self._runtime.store.head_many(wanted))

    def _definitions(self, snapshot: Snapshot) -> Mapping[str, str]:
        """None before the first rows: there is nothing to compute aggregates from."""
        versions = {dimension.name: dimension.version for dimension in self._dimensions}
        return definitions(self._aggregates, versions) if snapshot.schema is not None else {}


def _expected() -> tuple[type[Exception], ...]:
    """What publishing may raise: errors of ours, and while rows are read those of files that went
    meanwhile, or of a full disk.
    """
    import duckdb
    import pyarrow as pa

    return TidemillError, OSError, duckdb.Error, pa.ArrowException


def _refuse_newer(name: str, held: Mark | None, target: Mark) -> None:
    """Raises SinkFailed where a sink holds a commit that the table does not have yet."""
    if (
        held is not None
        and held.generation == target.generation
        and held.sequence > target.sequence
    ):
        raise SinkFailed(
            f"it holds commit {held.sequence}, and the table is at {target.sequence}: is it"
            f" another bucket's? `tidemill sinks --rebuild {name}` replaces what it holds"
        )


def failure(one: Published) -> str:
    """One line about a sink that did not follow."""
    return f"sink {one.sink}: {visible(' '.join(one.problem.split()))}"


class AfterPasses:
    """Publishes after passes: at first, after each that committed, and again while a sink fails."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._waiting: dict[str, bool] = {}
        self._said: dict[str, str] = {}

    async def publish(self, runtime: Runtime, *, committed: bool) -> bool:
        """Whether every sink holds the newest commit now.

        What is wrong is said once, until it is something else.
        """
        pipeline = runtime.pipeline
        if not pipeline.sinks or not (committed or self._waiting.get(pipeline.name, True)):
            return True
        good = True
        for one in await Publisher(runtime).publish_all():
            text = failure(one) if one.problem else ""
            self._say(pipeline.name, one, text)
            good = good and not text
        self._waiting[pipeline.name] = not good
        return good

    def _say(self, pipeline: str, one: Published, text: str) -> None:
        if text and self._said.get(one.sink) != text:
            self._listener(
                events.Refused(pipeline=pipeline, what="sink", name=one.sink, reason=one.problem)
            )
            self._listener(events.Remark(text=f"{text}; the next run tries again"))
        elif one.done:
            self._listener(
                events.Published(
                    pipeline=pipeline,
                    generation=one.generation,
                    sink=one.sink,
                    sequence=one.sequence,
                    rebuilt=one.rebuilt,
                )
            )
        self._said[one.sink] = text
