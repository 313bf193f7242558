"""What comes after the table in the simulated world: a stage that reads it, and a sink that keeps a
copy of it.
"""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec

from pipeline.commit_log.log import Log, Outdated
from pipeline.commit_log.looking_back import load_at
from pipeline.errors import (
    CommitConflict,
    ObjectNotFound,
    SettingsError,
    StateInvalid,
    TidemillError,
)
from pipeline.model import keys
from pipeline.model.snapshot import Output, Snapshot
from pipeline.model.task import Inputs
from pipeline.passes.audit import all_entries
from pipeline.passes.context import PassContext
from pipeline.passes.runner import Pass
from pipeline.passes.upkeep import vacuum
from pipeline.runtime.table_source import TableStore
from pipeline.testing.inline_executor import InlineExecutor
from pipeline.work.contents import BytesContent
from pipeline.work.worker import Code, Worker
from sinks.copies.change import Change, Mark
from sinks.copies.changes import changes_between

from . import scene
from .doubles import SimWriter, live_lines
from .kernel import Request, SimClock, Violation

if TYPE_CHECKING:
    from .world import World

STAGE = "q"
Pair = tuple[str, str]
"""Task and source key of a row."""


# -- the stage -------------------------------------------------------------------------------------


def upstream() -> Any:
    """What a stage needs to know of the pipeline whose table it reads."""
    return SimpleNamespace(name="p", prefix_of_rows="p:")


class StageContents:
    """One source's rows, as the stage's code gets them."""

    mounted = False

    def __init__(self, world: World, tables: TableStore) -> None:
        self.world, self.tables = world, tables

    def expect(self, inputs: Inputs) -> None:
        return None

    async def open(self, key: str, etag: str, size_bytes: int, modified_us: int) -> Any:
        content: Any = await self.tables.rows(key, etag)
        problem, place = content.problem(), content._place
        if problem is not None:
            return BytesContent(b"", problem)
        lines: list[Any] = []
        for file in place.files:
            stored = await self.world.store.get(file.key)
            lines += [
                line
                for line in json.loads(stored.body)
                if (line[0], line[4]) == (place.source, place.task)
            ]
        return BytesContent(json.dumps(lines).encode())


def stage_pass(world: World) -> Pass:
    """A pass of the stage, with its workers in the same process."""
    clock = SimClock(world.kernel, 0)
    tables = TableStore(world.store, upstream(), clock=clock, policy=world.policy)  # type: ignore[arg-type]
    settings = dataclasses.replace(
        scene.settings("v1"),
        name=STAGE,
        source="p:",
        output="stage/",
        aggregates=(),
        listing="whole",
    )
    worker = Worker(
        store=world.store,  # type: ignore[arg-type]
        contents=StageContents(world, tables),
        home=keys.home(STAGE),
        code={"t": Code(call=_first_row, batch_size=None)}.get,
        make_writer=lambda assignment: SimWriter(assignment, "stage/"),  # type: ignore[arg-type,return-value]
        clock=clock,
        budget_s=1000,
    )
    return Pass(
        PassContext(
            settings=settings,
            policy=world.policy,
            store=tables,
            executor=InlineExecutor(worker, owner=world.kernel.nonce()),
            clock=clock,
            ids=world.kernel,
            writer="sim",
            unify=lambda before, new: new,
        )
    )


def _first_row(obj: Any) -> list[str]:
    """The stage's function: the body of the one row that each source has, and who made it."""
    [line] = json.loads(obj.read())
    return [line[2], line[4]]


async def stage(world: World) -> None:
    """Somebody brings the stage up to date, and tidies it now and then."""
    try:
        running = stage_pass(world)
        await running.run()
        if world.kernel.rng.random() < 0.2:
            await vacuum(running)
        world.kernel.stats["stage passes"] += 1
    except (TidemillError, Outdated) as error:
        world.oracle.no_corruption(error)


async def check_stage(world: World) -> None:
    """At rest a stage has one row for each row of the live table, made of just that one."""
    above = await _rows(
        world, "p", world.oracle.state.generations.live if world.oracle.state.generations else 0
    )
    below = await _rows(world, STAGE, 0)
    expected = {f"p:{key}": [body, task] for key, (body, task) in above.items()}
    found = {key: [body, version] for key, (body, _, version) in below.items()}
    if found != expected:
        raise Violation(f"the stage has {found}, the table above it {expected}")


async def _rows(world: World, name: str, generation: int) -> dict[str, Any]:
    log = Log(
        world.store,
        name,
        clock=SimClock(world.kernel, 0),
        policy=world.policy,
        generation=generation,
    )
    state = await log.load()
    await log.load_outputs(state)
    entries = await all_entries(log, state)
    lines = [
        line
        for n, output in state.snapshot().outputs.items()
        for line in await live_lines(world, n, output)
    ]
    if len(lines) != len(entries):
        raise Violation(f"{name} has {len(lines)} rows of {len(entries)} sources")
    if name == "p":
        return {line[0]: (line[2], line[4]) for line in lines}
    return {line[0]: (line[2], line[4], line[3]) for line in lines}


# -- the sink --------------------------------------------------------------------------------------


class SimSink:
    """A target with transactions: its rows and its mark change together, or not at all."""

    def __init__(self) -> None:
        self.mark: Mark | None = None
        self.rows: dict[Pair, str] = {}

    def publish(self, change: Change, came: dict[Pair, str], went: set[Pair]) -> bool:
        """One transaction."""
        if self.mark != change.over:
            return False
        kept = (
            {}
            if change.whole
            else {pair: body for pair, body in self.rows.items() if pair not in went}
        )
        self.rows, self.mark = kept | came, change.mark
        return True


async def publish(world: World) -> None:
    """A publisher brings the sink to the newest commit of the live generation; it may die at any
    request of its own.
    """
    sink = world.sink
    try:
        held = sink.mark
        log, new = await _live(world)
        old = (
            await _earlier(log, held)
            if held is not None and held.generation == new.generation
            else None
        )
        if held is not None and held.generation == new.generation and held.sequence > new.sequence:
            raise Violation(f"the sink holds {held}, the table is at {new.sequence}")
        change = changes_between(old, new, {}, held)
        went: set[Pair] = set(change.gone)
        try:
            for name, output in change.vanished.items():
                went |= set(await _pairs(world, name, output))
        except ObjectNotFound:  # retention let go of what the sink still holds: everything again
            change, went = changes_between(None, new, {}, held), set()
        came: dict[Pair, str] = {}
        for name, output in change.added.items():
            came |= await _pairs(world, name, output)
        await Request("pause")
        if sink.publish(change, came, went - came.keys()):
            world.kernel.stats["sink: rebuilt" if change.whole else "sink: brought up to date"] += 1
            check_sink(world)
    except (TidemillError, Outdated) as error:
        world.oracle.no_corruption(error)


async def _live(world: World) -> tuple[Log, Snapshot]:
    clock = SimClock(world.kernel, 0)
    root = await Log(world.store, "p", clock=clock, policy=world.policy).load()
    number = root.generations.live if root.generations is not None else 0
    log = Log(world.store, "p", clock=clock, policy=world.policy, generation=number)
    state = await log.load()
    await log.load_outputs(state)
    return log, _plain(state.snapshot(), number)


async def _earlier(log: Log, held: Mark) -> Snapshot | None:
    try:
        state = await load_at(log, held.sequence)
        await log.load_outputs(state)
    except (SettingsError, CommitConflict, ObjectNotFound, StateInvalid):
        return None
    return _plain(state.snapshot(), held.generation)


def _plain(snapshot: Snapshot, generation: int) -> Snapshot:
    """Without the schema, which is none in this world."""
    return msgspec.structs.replace(snapshot, schema=None, generation=generation)


async def _pairs(world: World, name: str, output: Output) -> dict[Pair, str]:
    return {(line[4], line[0]): line[2] for line in await live_lines(world, name, output)}


def check_sink(world: World) -> None:
    """The sink's rows are those of the commit that its mark names: each source once, at its
    version.
    """
    mark = world.sink.mark
    if mark is None or mark.sequence == 0:
        return
    live = world.oracles[mark.generation].live_at.get(mark.sequence)
    found = {key: body for (_, key), body in world.sink.rows.items()}
    expected = (
        None if live is None else {key: world.oracle.versions[etag] for key, etag in live.items()}
    )
    if expected is not None and (found != expected or len(found) != len(world.sink.rows)):
        raise Violation(f"at {mark} the sink has {world.sink.rows}, the table had {expected}")
