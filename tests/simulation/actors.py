"""Who acts in the simulated world: passes, workers, the committer, operators, readers, and the user
who uploads.

Each is a coroutine over the project's own code. To let another part of the product take part
(compaction, generations, another sink, another source of hints), write its coroutine here and name
it in ACTORS.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.commit_log.log import Log, Outdated
from pipeline.discover.request import Request as Wish
from pipeline.errors import TidemillError, is_outage
from pipeline.model import keys
from pipeline.model.loss import Loss
from pipeline.model.receipt import Receipt
from pipeline.model.task import Assignment
from pipeline.passes import upkeep
from pipeline.passes.audit import all_entries
from pipeline.passes.compaction import Compactor, Wanted
from pipeline.passes.runner import Pass
from pipeline.ports import Finished
from pipeline.state.generations import Change, filled
from pipeline.work.contents import FetchedContents
from pipeline.work.order_journal import OrderJournal
from pipeline.work.orders import Answer, Order
from pipeline.work.worker import Code, Worker

from . import downstream
from .doubles import SimExecutor, SimWriter, user_code
from .kernel import Request, SimClock
from .modal_workers import MountBox, MountedContents, StoreBox
from .scene import SOURCE

if TYPE_CHECKING:
    from .world import World


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who appears now and then: the chance at each step, and how many there may be at
    once.
    """

    start: Callable[[World], None]
    chance: float
    most: int = 3
    kind: str = "tick"


def _pass(world: World) -> None:
    world.start_tick()


def _named_pass(world: World) -> None:
    """A pass over hinted keys: some new, some known, some that never were."""
    rng = world.kernel.rng
    world.start_tick(
        wish=Wish(names=[f"{SOURCE}{rng.randrange(14):02d}" for _ in range(rng.randint(1, 4))])
    )


def _growing_pass(world: World) -> None:
    """A pass that lists from the last key on only, whatever the keys here do."""
    world.start_tick(wish=Wish(growing=True))


def _backfill(world: World) -> None:
    """Everything that was committed once more, or what other code made."""
    version = None if world.kernel.rng.random() < 0.5 else world.version
    world.start_tick(wish=Wish(again=lambda key, modified_us, before: before.version != version))


def _operator(world: World) -> None:
    world.kernel.start("tick", operate(world))


def _reader(world: World) -> None:
    world.kernel.start("reader", read(world, pauses=world.kernel.rng.choice([0, 0, 10, 25])))


def _deployment(world: World) -> None:
    """From now on new passes and containers run other code; some old machines do not know yet (see
    `World.start_tick`).
    """
    world.version = "v2"


def _compactor(world: World) -> None:
    executor = SimExecutor(world, attached=world.attached, version=world.version)
    world.owners[executor.owner] = world.kernel.start(
        "compactor", compact(world, executor), executor.owner
    )


def _publisher(world: World) -> None:
    world.kernel.start("publisher", publish(world))


def _stage(world: World) -> None:
    world.kernel.start("stage", downstream.stage(world))


def _sink(world: World) -> None:
    world.kernel.start("sink", downstream.publish(world))


def _historian(world: World) -> None:
    world.kernel.start("historian", look_back(world))


ACTORS = (
    Actor(_pass, 0.06),
    Actor(_reader, 0.02, most=4, kind="reader"),
    Actor(_named_pass, 0.006),
    Actor(_growing_pass, 0.006),
    Actor(_operator, 0.006),
    Actor(_backfill, 0.002),
    Actor(_compactor, 0.02, most=2, kind="compactor"),
    Actor(_publisher, 0.004, most=1, kind="publisher"),
    Actor(_stage, 0.006, most=2, kind="stage"),
    Actor(_sink, 0.01, most=2, kind="sink"),
    Actor(_historian, 0.01, kind="historian"),
    Actor(_deployment, 0.001),
)


def cast(rng: random.Random) -> list[tuple[Actor, float]]:
    """Who appears in one history, with what chance: most have much of what others have none."""
    always = (_pass, _reader)
    return [
        (actor, actor.chance * (1 if actor.start in always else rng.choice([0, 0, 1, 3])))
        for actor in ACTORS
    ]


ACTORS_AT_REST = (_compactor, _historian, _publisher, _sink)
"""Who still acts when nothing fails any more."""


async def tick(
    world: World, executor: SimExecutor, skew_s: int, vacuum: bool, wish: Wish | None
) -> None:
    """One pass of a runner, and sometimes a vacuum after it."""
    try:
        running = Pass(world.context(executor, skew_s, executor.version))
        await running.open()
        for number in filled(running.state.generations, running.settings.versions):
            one = (
                Pass(world.context(executor, skew_s, executor.version, number))
                if number
                else running
            )
            await one.run(wish)
            if vacuum:
                await upkeep.vacuum(one)
        if vacuum and running.state.generations is not None:
            await upkeep.vacuum(running)
    except (TidemillError, Outdated) as error:
        world.gave_up(error)


async def compact(world: World, executor: SimExecutor) -> None:
    """Somebody merges outputs, some or all of those with superseded rows among them."""
    rng = world.kernel.rng
    wanted = Wanted(
        target_bytes=rng.choice([1, 1_000, 10_000]),
        few=rng.random() < 0.8,
        purge=rng.random() < 0.5,
    )
    try:
        number = rng.choice(list(world.oracles))
        done = await Compactor(
            Pass(world.context(executor, world.skew(), executor.version, number)), wanted
        ).run()
        world.kernel.stats["outputs merged"] += done.outputs
    except (TidemillError, Outdated) as error:
        world.gave_up(error)


async def publish(world: World) -> None:
    """A person begins a generation, publishes it once it has all there is, rolls back, or drops
    one.
    """
    rng, running = world.kernel.rng, world.plain_pass(world.skew())
    versions = running.settings.versions
    try:
        await running.open()
        known = running.state.generations
        if known is None or (known.candidate is None and rng.random() < 0.6):
            wanted = Change(
                kind="begin", versions=versions, uploads=rng.choice(["both", "both", "new"])
            )
        elif known.candidate is not None and rng.random() < 0.7:
            if known.candidate not in world.oracles or not world.oracles[known.candidate].has_all():
                return
            wanted = Change(kind="publish")
        elif known.previous is not None and rng.random() < 0.5:
            wanted = Change(kind="rollback")
        else:
            spare = [one.number for one in known.kept if one.number != known.live]
            if not spare:
                return
            wanted = Change(kind="drop", number=rng.choice(spare))
        await running.change_generations(wanted)
        world.kernel.stats[f"generations: {wanted.kind}"] += 1
    except (TidemillError, Outdated) as error:
        world.gave_up(error)


async def look_back(world: World) -> None:
    """A query of an earlier state."""
    try:
        oracle = world.kernel.rng.choice(list(world.oracles.values()))
        newest = oracle.state.sequence
        if newest:
            await oracle.check_earlier(world.kernel.rng.randint(max(1, newest - 12), newest))
    except TidemillError as error:
        world.oracle.no_corruption(error)


async def settle(world: World, tasks: list[str], skew_s: int) -> None:
    """The committer: settles some tasks, and dispatches nothing."""
    try:
        for number in list(world.oracles):
            await world.plain_pass(skew_s, number).settle(tasks)
    except (TidemillError, Outdated) as error:
        world.gave_up(error)


async def operate(world: World) -> None:
    """A person: releases quarantined files, or cancels what is under way."""
    rng = world.kernel.rng
    running = world.plain_pass(world.skew(), rng.choice(list(world.oracles)))
    try:
        await running.open()
        known, tasks = sorted(running.state.quarantine), sorted(running.state.tasks)
        if known and rng.random() < 0.7:
            await running.requeue(rng.sample(known, rng.randint(1, len(known))))
        elif tasks:
            await running.cancel([rng.choice(tasks)], "not wanted any more")
    except (TidemillError, Outdated) as error:
        world.gave_up(error)


async def release(world: World) -> None:
    """What a person set aside is wanted again."""
    for number in world.filled:
        running = world.plain_pass(0, number)
        await running.open()
        await running.requeue(
            [q.key for q in running.state.quarantine.values() if q.kind == "cancelled"]
        )


def _worker(world: World, store: StoreBox | object, contents: object, version: str) -> Worker:
    return Worker(
        store=store,  # type: ignore[arg-type]
        contents=contents,  # type: ignore[arg-type]
        home=keys.home("p"),
        code={"t": Code(call=user_code(version), batch_size=None)}.get,
        make_writer=SimWriter,
        clock=SimClock(world.kernel, 0),
        budget_s=world.policy.attempt_budget_s,
    )


async def execute(world: World, order: Order) -> None:
    """One execution of an order in a container on Modal, which runs the code that was
    deployed last.
    """
    version = world.version
    box = (MountBox if world.mounted else StoreBox)(world.store)
    journal = OrderJournal("p", box, SimClock(world.kernel, 0), world.kernel, version)
    found = await journal.begin(order)
    if isinstance(found, Answer):
        world.kernel.stats["orders refused"] += 1
        return
    contents = MountedContents(world.store) if world.mounted else FetchedContents(world.store)
    worker = _worker(world, box, contents, version)
    [result] = await worker.run_together([found], lambda i: None)
    await journal.end(found, _finished(found, result))


async def work(
    world: World, assignment: Assignment, version: str, executor: SimExecutor | None = None
) -> None:
    """One attempt in a worker process of a runner."""
    worker = _worker(world, world.store, FetchedContents(world.store), version)
    result: Receipt | Exception
    try:
        result = await worker.run(assignment, lambda i: None)
    except TidemillError as error:
        result = error
    if executor is not None:
        executor.ended.append(_finished(assignment, result))


def _finished(assignment: Assignment, result: Receipt | Exception) -> Finished:
    """What the executors say of an attempt."""
    task, nonce = assignment.task.id, assignment.nonce
    if isinstance(result, Exception):
        loss = Loss(reason=str(result), innocent=is_outage(result))
        return Finished(task=task, nonce=nonce, loss=loss)
    return Finished(task=task, nonce=nonce, receipt=result)


async def read(world: World, pauses: int = 0) -> None:
    """A query: find the live generation, load its state, be slow, read every file of
    the snapshot.
    """
    started = world.kernel.now
    try:
        clock, number = SimClock(world.kernel, 0), 0
        state = await Log(world.store, "p", clock=clock, policy=world.policy).load()
        if state.generations is not None:
            number = state.generations.live
        log = Log(world.store, "p", clock=clock, policy=world.policy, generation=number)
        state = await log.load()
        await log.load_outputs(state)
        entries = await all_entries(log, state)
        for _ in range(pauses):
            await Request("pause")
        await world.oracles[number].check_snapshot(state, entries, started)
    except TidemillError as error:
        world.oracle.no_corruption(error)


async def change(world: World) -> None:
    """Some objects are overwritten and deleted once more, while everything else works
    as it should.
    """
    rng = world.kernel.rng
    present = sorted(key for key in world.store.objects if key.startswith(SOURCE))
    for key in rng.sample(present, min(len(present), 3)):
        for _ in range(rng.choice([0, 10, 40])):
            await Request("pause")
        if rng.random() < 0.2:
            await Request("delete", key)
        else:
            await Request("put", key, f"late {key}".encode(), False, None)


async def live_in(world: World) -> None:
    """The user's side: upload, overwrite, delete."""
    rng = world.kernel.rng
    names = rng.choice([3, 6, 14])
    for i in range(rng.randint(4, 30)):
        key = f"{SOURCE}{rng.randrange(names):02d}"
        body = rng.choice([f"v{i}"] * 12 + ["dies", "raises"])
        draw = rng.random()
        if draw < 0.75:
            await Request("put", key, body.encode(), False, None)
        elif draw < 0.9:
            await Request("delete", key)
        for _ in range(rng.choice([0, 1, 5, 20, 60])):
            await Request("pause")
