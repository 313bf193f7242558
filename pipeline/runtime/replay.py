"""One object through its transform, here and now, as a worker would do it, with nothing committed
and no limits.

The attempt is a worker's own (`Worker`, the real writer, the table's schema as committed); only its
outputs go to a temporary directory. So what cannot be stored in a run cannot be stored here.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.discover.router import Router
from pipeline.errors import ObjectNotFound, SettingsError
from pipeline.model import keys
from pipeline.model.commit import Quarantined
from pipeline.model.listing import Head
from pipeline.model.receipt import MAIN_TABLE, REJECTED_TABLE, Receipt
from pipeline.model.task import Assignment, Inputs, Task
from pipeline.ports import Content, Store
from pipeline.runtime.replay_watch import (
    Debug,
    KeptOutputs,
    Subject,
    Watch,
    Watched,
    WatchedContents,
)
from pipeline.runtime.runtime import Runtime
from pipeline.runtime.system import RandomIds, WallClock
from pipeline.runtime.worker_process import loaded_on_use, table_spec
from pipeline.sql.connection import connect_without_threads
from pipeline.state.state import State
from pipeline.work.user_code import UserCode
from pipeline.work.worker import AttemptLost, Code, CodeBroken, Worker, Writer


@dataclass(slots=True, kw_only=True)
class Replayed:
    """How it went. `failed`: the code, or what it returned, is at fault.

    `stale`, `gone`: the object changed meanwhile.

    `lost`: this machine could not do it.
    """

    status: str
    reason: str = ""
    detail: str = ""
    rows: int = 0
    rejected: int = 0
    sample: list[dict[str, Any]] = field(default_factory=list)
    """The first rows as they would be stored."""
    rejected_sample: list[tuple[str, str]] = field(default_factory=list)
    """The first rejected rows, each with its reason."""


async def choose(opened: Runtime, state: State, key: str, *, current: bool) -> Subject:
    """The version to replay: the quarantined one; with `current`, or where nothing is quarantined,
    the present one.

    Raises SettingsError, with one line, where there is no such object, or the quarantined version
    cannot be read any more.
    """
    entry = _entry(state, key)
    head = await _head(opened.store, key)
    is_present = entry is None or current
    notes = [await _about_present(opened, state, key, head, entry)] if is_present else []
    transform = _transform(opened, key, entry, notes)
    if entry is not None:
        notes += _about(opened, entry, transform)
    chosen, opener = await _version(opened.store, key, entry, head, current=current, notes=notes)
    return Subject(head=chosen, open=opener, transform=transform, entry=entry, notes=notes)


def _entry(state: State, key: str) -> Quarantined | None:
    entry = state.quarantine.get(key)
    if entry is not None and entry.kind == "key":
        raise SettingsError(
            f"{key!r} can be no object key, so no code has seen it: rename the file"
        )
    return entry


async def _head(store: Store, key: str) -> Head | None:
    try:
        return await store.head(key)
    except ObjectNotFound:
        return None


def _no_object(key: str) -> SettingsError:
    return SettingsError(f"there is no object {key!r} in the bucket")


async def _about_present(
    opened: Runtime, state: State, key: str, head: Head | None, entry: Quarantined | None
) -> str:
    if head is None:
        raise _no_object(key)
    await opened.log().look_up(state, [key])
    return _present(state, key, head, entry)


async def _version(
    store: Store,
    key: str,
    entry: Quarantined | None,
    head: Head | None,
    *,
    current: bool,
    notes: list[str],
) -> tuple[Head, Callable[[], Content]]:
    """The present version (`head`) where that is wanted, else the quarantined one, if the bucket
    keeps it.
    """
    if head is not None and (entry is None or current or head.etag == entry.etag):
        return head, _opener(store, head)
    if entry is None:
        raise _no_object(key)
    older = await _older(store, key, entry.etag)
    if older is None:
        raise SettingsError(_gone(key, entry, head))
    now = "is deleted" if head is None else f"is at version {head.etag} now"
    notes.append(
        f"{key!r} {now}; replaying the quarantined version {entry.etag}, which the bucket keeps"
    )
    return older


async def replay(
    opened: Runtime, state: State, subject: Subject, *, shown: int = 0, debug: Debug | None = None
) -> Replayed:
    """Run the attempt in this process.

    `shown`: rows to return. `debug` is called where the user's code raises.

    Raises CodeBroken if the transform cannot be loaded, StoreError if the object cannot be read.
    """
    watch, calls = Watch(debug), UserCode()
    code = _load(opened, subject.transform, watch, calls)
    with tempfile.TemporaryDirectory(prefix="tidemill-replay-") as folder:
        outputs = KeptOutputs(opened.store, Path(folder))
        worker = Worker(
            store=outputs,
            contents=WatchedContents(subject),
            home=keys.home(state.pipeline),
            code=lambda name: replace(code, call=watch.calling(code.call)),
            make_writer=lambda assignment: Watched(
                _writer(opened, assignment, Path(folder)), watch
            ),
            clock=WallClock(),
            budget_s=math.inf,
            engine="replay",
            calls=calls,
        )
        try:
            receipt = await worker.run(_assignment(opened, state, subject), lambda index: None)
        except AttemptLost as error:
            return Replayed(status="lost", reason=str(error))
        return _replayed(receipt, outputs, shown)


# -- the version -----------------------------------------------------------------------------------


def _present(state: State, key: str, head: Head, entry: Quarantined | None) -> str:
    if entry is not None:
        same = (
            "which is the quarantined one"
            if head.etag == entry.etag
            else f"not the quarantined {entry.etag}"
        )
        return f"replaying the present version {head.etag} of {key!r}, {same}"
    committed = state.entry(key)
    which = (
        "the committed version"
        if committed is not None and committed.etag == head.etag
        else "the new version"
    )
    return f"{key!r} is not quarantined; replaying {which} {head.etag}"


def _gone(key: str, entry: Quarantined, head: Head | None) -> str:
    if head is None:
        return (
            f"{key!r} is deleted, and its quarantined version {entry.etag} with it: there is"
            " nothing to replay"
        )
    return (
        f"the quarantined version {entry.etag} of {key!r} is gone: it is at version {head.etag}"
        " now; replay that one with --current"
    )


def _opener(store: Store, head: Head) -> Callable[[], Content]:
    return lambda: store.open_content(head.key, head.etag, head.size_bytes)


async def _older(store: Store, key: str, etag: str) -> tuple[Head, Callable[[], Content]] | None:
    """A version that the bucket keeps beside the present one."""
    find = store.traits.old_version
    found = await find(key, etag) if find is not None else None
    return (found.head, found.content) if found is not None else None


# -- the code --------------------------------------------------------------------------------------


def _transform(opened: Runtime, key: str, entry: Quarantined | None, notes: list[str]) -> str:
    """The transform that failed; where it is not declared any more, or never was, the one that
    takes the key now.
    """
    name = opened.settings.name
    router = Router(opened.settings)
    routed = router.route(key) if router.includes(key) else None
    was = entry.transform if entry is not None else ""
    if was and opened.settings.transform(was) is not None:
        if routed != was:
            notes.append(
                f"{was} does not take this key any more: a run gives it to"
                f" {routed or 'no transform'}"
            )
        return was
    if routed is None:
        raise SettingsError(
            f"no transform of {name} takes {key!r}: see match=, include= and exclude="
        )
    if was:
        notes.append(f"transform {was} is not declared any more; replaying with {routed}")
    return routed


def _about(opened: Runtime, entry: Quarantined, transform: str) -> list[str]:
    notes = []
    declared = opened.settings.transform(transform)
    if declared is not None and entry.transform == transform and declared.version != entry.version:
        notes.append(
            f"the code has changed: it failed at version {entry.version} of {transform}, which is"
            f" {declared.version} now"
        )
    if entry.kind == "lost" and " limit" in entry.reason:
        notes.append(
            f"it was quarantined for a limit ({entry.reason}); a replay has none, in time or memory"
        )
    return notes


def _load(opened: Runtime, transform: str, watch: Watch, calls: UserCode) -> Code:
    try:
        code = loaded_on_use(opened.pipeline, calls)(transform)
    except CodeBroken as error:
        watch.note(error.__cause__ or error)
        raise
    if code is None:
        raise SettingsError(f"transform {transform} is not declared by {opened.settings.name}")
    return code


def _writer(opened: Runtime, assignment: Assignment, folder: Path) -> Writer:
    from sinks.parquet.writer import AttemptWriter

    task = assignment.task
    table = table_spec(opened.pipeline)
    return AttemptWriter(
        table, schema=assignment.schema, task=task.id, nonce=assignment.nonce, scratch=folder
    )


def _assignment(opened: Runtime, state: State, subject: Subject) -> Assignment:
    head = subject.head
    declared = opened.settings.transform(subject.transform)
    task = Task(
        id=keys.task_id(state.sequence + 1, 0),
        transform=subject.transform,
        version=declared.version if declared is not None else "",
        generation=0,
        inputs=Inputs(
            keys=[head.key],
            etags=[head.etag],
            sizes=[head.size_bytes],
            modified_us=[head.modified_us],
            replaces=[None],
        ),
        attempt=1,
        losses=0,
        deadline_ms=0,
        owner="replay",
    )
    return Assignment(
        pipeline=state.pipeline, task=task, nonce=RandomIds().nonce(), schema=state.schema
    )


def _replayed(receipt: Receipt, outputs: KeptOutputs, shown: int) -> Replayed:
    if receipt.problems:
        problem = receipt.problems[0]
        return Replayed(status=problem.status, reason=problem.reason, detail=problem.detail)
    done = Replayed(status="ok", rows=receipt.rows[0], rejected=receipt.rejected[0])
    _add_samples(done, receipt, outputs, shown)
    return done


def _add_samples(done: Replayed, receipt: Receipt, outputs: KeptOutputs, shown: int) -> None:
    for file in receipt.files:
        if file.table == MAIN_TABLE:
            done.sample += _first(outputs.path(file.key), shown - len(done.sample))
        elif file.table == REJECTED_TABLE:
            rows = _first(outputs.path(file.key), shown - len(done.rejected_sample))
            done.rejected_sample += [(row["row"], row["reason"]) for row in rows]


def _first(path: Path, count: int) -> list[dict[str, Any]]:
    """The first rows of a Parquet file, without their provenance: every value as `sql --format
    json` has it.
    """
    from pipeline.sql import quoting
    from sinks.results.exact_text import rows_of
    from sinks.values.schema import PROVENANCE

    if count <= 0:
        return []
    with connect_without_threads() as connection:
        read = (
            f"SELECT * FROM read_parquet({quoting.texts([str(path)])}, hive_partitioning = false)"
            f" LIMIT {count}"
        )
        return [
            {k: v for k, v in row.items() if k not in PROVENANCE}
            for row in rows_of(connection.sql(read))
        ]
