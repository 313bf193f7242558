"""A table as it was: which generation's log a commit's number or a moment is about, and the state
that it leads to.

Each generation has a log of its own, whose numbers begin at 1. So once another one was published, a
number alone may mean several commits: it is answered where only one of them can be meant, and
refused else. What was answered for it once is never another answer later: logs only grow, and where
one is gone nobody can tell what its numbers were.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pipeline.commit_log.looking_back import load_at, sequence_at
from pipeline.errors import SettingsError
from pipeline.model import keys
from pipeline.model.commit import Commit, Generations
from pipeline.model.listing import Stored
from pipeline.runtime.runtime import Runtime
from pipeline.state import codec
from pipeline.state.state import State
from pipeline.tables.points_in_time import Numbered, When


async def state_at(
    runtime: Runtime, at: When | None = None, *, sources: Sequence[str] | None = None
) -> tuple[Runtime, State]:
    """The state now, or as it was at a commit or moment; and the runtime on its generation: at a
    moment that is the one which was live then. With all its outputs, or with those of `sources`.
    Raises SettingsError where that is not kept, or is not one.
    """
    runtime, state = await _loaded(runtime, at)
    log = runtime.log()
    if sources is None:
        await log.load_outputs(state)
    else:
        await log.look_up(state, sources)
        await log.look_up_outputs(
            state, [entry.output for key in sources if (entry := state.entry(key)) is not None]
        )
    return runtime, state


async def _loaded(runtime: Runtime, at: When | None) -> tuple[Runtime, State]:
    if at is None:
        return runtime, await runtime.log().load()
    if isinstance(at, datetime):
        return await _at_moment(runtime, int(at.timestamp() * 1000))
    if isinstance(at, Numbered):
        runtime = await _of_generation(runtime, at)
        return runtime, await load_at(runtime.log(), at.sequence)
    runtime = await _holder(runtime, at)
    return runtime, await load_at(runtime.log(), at)


async def _at_moment(runtime: Runtime, moment_ms: int) -> tuple[Runtime, State]:
    if await runtime.generations() is not None:
        root = runtime.of_generation(0).log()
        then = (await load_at(root, await sequence_at(root, moment_ms))).generations
        runtime = runtime.of_generation(then.live if then is not None else 0)
    log = runtime.log()
    return runtime, await load_at(log, await sequence_at(log, moment_ms))


async def _of_generation(runtime: Runtime, at: Numbered) -> Runtime:
    """The generation that is named.

    Raises SettingsError where there is none of that number (any more).
    """
    known, name = await _generations(runtime), runtime.settings.name
    if known is None and at.generation:
        raise SettingsError(f"{name} has no generation {at.generation}: its table has but one, g0")
    if known is not None and known.get(at.generation) is None:
        raise SettingsError(_absent(known, at.generation, name))
    return runtime.of_generation(at.generation)


def _absent(known: Generations, number: int, name: str) -> str:
    gone = "was dropped" if number in known.dropped else "does not exist"
    there = ", ".join(f"g{one.number}" for one in known.kept)
    return f"generation {number} of {name} {gone}; there are: {there}"


async def _holder(runtime: Runtime, sequence: int) -> Runtime:
    """The generation that a number alone is about.

    Raises SettingsError where it may be more than one.
    """
    known = await _generations(runtime)
    if known is None:
        return runtime
    if not await _was_published(runtime, known):
        return runtime.of_generation(0)
    having = await _having(runtime, known, sequence)
    if len(having) <= 1 and not known.dropped:
        return runtime.of_generation(having[0] if having else known.live)
    raise SettingsError(
        f"several generations of {runtime.settings.name} have a commit {sequence} each, in logs of"
        " their own: say which one is meant:"
        f" {_ways(sequence, having or [known.live], known.live)}"
    )


def _ways(sequence: int, generations: Sequence[int], live: int) -> str:
    """How to name the commit of this number in each of the generations."""
    return ", ".join(f"g{n}:{sequence}{' (live)' if n == live else ''}" for n in generations)


async def _having(runtime: Runtime, known: Generations, sequence: int) -> list[int]:
    """The generations that readers could see and that have a commit of this number."""
    seen = [one.number for one in known.kept if one.number != known.candidate]
    return [
        number
        for number in seen
        if (await runtime.of_generation(number).log().load()).sequence >= sequence
    ]


async def _generations(runtime: Runtime) -> Generations | None:
    """Those there were, also where nothing is left of them in the bucket."""
    return (await runtime.of_generation(0).log().load()).generations


async def _was_published(runtime: Runtime, known: Generations) -> bool:
    """Whether readers ever saw another generation than the first: before that every number is one
    of its log.
    """
    if known.live or known.previous is not None:
        return True
    if not known.dropped:
        return False
    log = runtime.of_generation(0).log()
    async for page in log.store.list(keys.log_prefix(log.home)):
        entries = zip(page.keys, await log.store.get_many(page.keys), strict=True)
        if any(_tells_of_another(key, stored) for key, stored in entries):
            return True
    return False


def _tells_of_another(key: str, stored: Stored | None) -> bool:
    """Whether by this entry of the log another generation than the first was live."""
    if stored is None or keys.log_sequence(key) is None:
        return False
    then = codec.decode(Commit, stored.body, key).generations
    return then is not None and bool(then.live)
