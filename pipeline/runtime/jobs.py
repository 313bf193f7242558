"""Jobs in the bucket: submit keys by name, look at what became of them, cancel them.

The record outlives any engine's memory.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from pipeline.discover.compare import Known
from pipeline.discover.request import Request
from pipeline.discover.router import Router
from pipeline.errors import ObjectNotFound, SettingsError, StateInvalid
from pipeline.model import keys
from pipeline.model.commit import FORMAT_VERSION
from pipeline.model.listing import Head
from pipeline.model.pass_report import PassReport
from pipeline.model.settings import PipelineSettings
from pipeline.passes.runner import Pass
from pipeline.runtime.runtime import Runtime
from pipeline.runtime.system import WallClock
from pipeline.state import codec
from pipeline.state.jobs import Job, Outcome, outcome
from pipeline.state.state import State

KEYS_MAX = 10_000


def new_job() -> str:
    """An id that nobody else has."""
    return f"job-{secrets.token_hex(8)}"


async def record(runtime: Runtime, job: str, names: list[str], *, again: bool) -> Job:
    """Write the job down before anything is done about it.

    Raises SettingsError for keys the pipeline does not read.
    """
    if not 0 < len(names) <= KEYS_MAX:
        raise SettingsError(f"a job has 1 to {KEYS_MAX:,} keys, not {len(names):,}")
    router = Router(runtime.settings)
    for name in names:
        _require_source(name, runtime.settings, router)
    made = Job(
        format=FORMAT_VERSION,
        id=job,
        pipeline=runtime.settings.name,
        keys=names,
        etags=[],
        submitted_ms=WallClock().now_ms(),
        again=again,
    )
    await _write(runtime, made)
    return made


def _require_source(name: str, settings: PipelineSettings, router: Router) -> None:
    if name.encode("utf-8", "replace").decode() != name:
        raise SettingsError(f"{name!r} is not valid UTF-8, so it cannot be an object key")
    if not name.startswith(settings.source):
        raise SettingsError(
            f"{name!r} is not below {settings.source!r}, the source of pipeline {settings.name}"
        )
    if not router.includes(name) or router.route(name) is None:
        raise SettingsError(f"{name!r} is taken by no transform of pipeline {settings.name}")


async def run(runtime: Runtime, job: Job) -> tuple[PassReport, State]:
    """Commit tasks for the job's keys at their present versions and dispatch them; then complete
    the job's record.

    With an attached executor this returns when the work is done, with a detached one when it is
    handed over.
    """
    heads = await runtime.store.head_many(job.keys)
    before = await runtime.log().load()
    if job.cancelled:
        return PassReport(), before
    if job.again:
        before = await _without_quarantine(runtime, job, before)
    versions = _versions(heads)
    await _note_planned(runtime, job, versions, before.sequence)
    report, state = await runtime.run(
        before, request=Request(names=list(versions), again=_always if job.again else None)
    )
    await note_calls(runtime, job, state)
    return report, state


async def _note_planned(runtime: Runtime, job: Job, versions: Mapping[str, str], base: int) -> None:
    job.etags = [versions.get(key, "") for key in job.keys]
    job.base, job.planned = base, True
    await _write(runtime, job)


def _versions(heads: Sequence[Head | None]) -> dict[str, str]:
    return {
        head.key: head.etag
        for head in heads
        if head is not None and not keys.is_folder_marker(head.key, head.size_bytes)
    }


async def _without_quarantine(runtime: Runtime, job: Job, state: State) -> State:
    """The state after the job's quarantined keys were let go: who asks for a file again means those
    too.
    """
    set_aside = [key for key in job.keys if key in state.quarantine]
    if not set_aside:
        return state
    passing = Pass(runtime.context(), state)
    await passing.requeue(set_aside)
    return passing.state


async def cancel(runtime: Runtime, job: Job) -> int:
    """End the job's tasks, or keep it from ever being planned; how many tasks were ended."""
    if not job.planned:
        job.cancelled = True
        await _write(runtime, job)
        return 0
    passing = Pass(runtime.context())
    await passing.open()
    # A local run notes a job's tasks only once they are done.
    return await passing.cancel(
        [*job.tasks, *open_tasks(job, passing.state)], f"cancelled with {job.id}"
    )


async def submit(runtime: Runtime, job: str, names: Sequence[str], *, again: bool) -> None:
    """Record and run. Doing it twice under one id does no harm."""
    known = await read(runtime, job)
    await run(runtime, known or await record(runtime, job, list(dict.fromkeys(names)), again=again))


def open_tasks(job: Job, state: State) -> list[str]:
    """Tasks under way that were planned since the job's beginning and hold nothing but its keys."""
    wanted = set(job.keys)
    fresh = [
        t
        for t in state.tasks.values()
        if job.planned and (keys.task_sequence(t.id) or 0) > job.base
    ]
    return [t.id for t in fresh if wanted.issuperset(t.inputs.keys)]


async def note_calls(runtime: Runtime, job: Job, state: State) -> None:
    """Remember which tasks are the job's alone, and which calls run them, so that it can be
    cancelled.
    """
    mine = open_tasks(job, state)
    calls: dict[str, str] = getattr(runtime.executor, "calls", {})
    job.tasks = list(dict.fromkeys([*job.tasks, *mine]))
    job.calls = list(dict.fromkeys([*job.calls, *(calls[task] for task in mine if task in calls)]))
    await _write(runtime, job)


def _always(key: str, modified_us: int, known: Known) -> bool:
    return True


async def _write(runtime: Runtime, job: Job) -> None:
    await runtime.store.put(keys.job(keys.home(job.pipeline), job.id), codec.encode(job))


async def read(runtime: Runtime, job: str) -> Job | None:
    """The job's record, None where this pipeline has none."""
    key = keys.job(keys.home(runtime.settings.name), job)
    try:
        return codec.decode(Job, (await runtime.store.get(key)).body, key)
    except ObjectNotFound:
        return None


async def outcomes(runtime: Runtime, job: Job) -> list[Outcome]:
    """What became of each key, by the state as it is now, and by the bucket for keys of which the
    state knows nothing.
    """
    state = await _looked_up(runtime, job.keys)
    found = [_by_state(job, i, state) for i in range(len(job.keys))]
    unknown = [i for i, one in enumerate(found) if one.status == "waiting" and job.planned]
    for i, head in zip(
        unknown, await runtime.store.head_many([job.keys[i] for i in unknown]), strict=True
    ):
        found[i] = _by_bucket(job, i, head) or found[i]
    return found


async def _looked_up(runtime: Runtime, names: Sequence[str]) -> State:
    """The state as it is now, with what it says of these keys at hand."""
    log = runtime.log()
    state = await log.load()
    await log.look_up(state, names)
    return state


def _by_state(job: Job, i: int, state: State) -> Outcome:
    key = job.keys[i]
    return outcome(
        job,
        i,
        entry=state.entry(key),
        quarantined=state.quarantine.get(key),
        wanted=state.wanted.get(key),
    )


def _by_bucket(job: Job, i: int, head: Head | None) -> Outcome | None:
    """What became of the object meanwhile; None where it is as it was."""
    if head is None:
        return Outcome(key=job.keys[i], status="missing", reason="the object was deleted")
    if head.etag == job.etags[i]:
        return None
    return Outcome(
        key=job.keys[i],
        status="superseded",
        reason="the object was overwritten; a later pass takes it",
    )


async def listed(runtime: Runtime, *, last: int) -> list[Job]:
    """The newest jobs, oldest first."""
    found: list[Job] = []
    async for page in runtime.store.list(keys.job_prefix(keys.home(runtime.settings.name))):
        for key, stored in zip(page.keys, await runtime.store.get_many(page.keys), strict=True):
            with suppress(StateInvalid):  # damaged or foreign: no reason to hide the others
                if stored is not None:
                    found.append(codec.decode(Job, stored.body, key))
    return sorted(found, key=lambda job: job.submitted_ms)[-last:]


def as_builtins(job: Job, found: list[Outcome]) -> dict[str, object]:
    """A job for JSON."""
    return {
        "id": job.id,
        "pipeline": job.pipeline,
        "submitted_ms": job.submitted_ms,
        "files": msgspec.to_builtins(found),
    }
