"""Checkpoints: writing one, and which are kept for looking back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pipeline.commit_log.log import Log, Outdated
from pipeline.commit_log.run_reader import RunGone
from pipeline.commit_log.run_writer import Compaction
from pipeline.model import keys
from pipeline.model.snapshot import Output
from pipeline.ports import Ids
from pipeline.state import codec, ledger
from pipeline.state import outputs as output_rows
from pipeline.state.checkpoint import Checkpoint
from pipeline.state.outputs import Outputs
from pipeline.state.sorted_runs import SortedRuns
from pipeline.state.state import State
from pipeline.state.stored_state import checkpoint_of

if TYPE_CHECKING:
    import pyarrow as pa


COLLECTED_MAX = 1_000
"""Ledger runs that one commit gives up; the next vacuum goes on."""
KEPT_STEPS = 16
"""Checkpoints that are kept for looking back lie at least this part of the retention time, or of
the longest log, apart.
"""


async def write_checkpoint(log: Log, state: State, ids: Ids) -> str:
    """Store the state folded so far: new runs first, then the checkpoint, then the hint.

    Returns its key.

    It names no run that a commit up to here gave up: that is what makes it safe to delete them
    (docs/decisions/0030). The in-memory state keeps its meaning; its overlay is empty afterwards.
    Raises Outdated.
    """
    for _ in range(log.policy.loads_max):
        try:
            await _write_runs(log, state, ids)
            break
        except RunGone as gone:
            if not await log.rebase(state, gone.run.key):
                raise Outdated(
                    f"runs of {log.pipeline} were moved while a checkpoint was written; run again"
                ) from None
    key = keys.checkpoint(log.home, state.sequence, ids.nonce())
    await log.store.put(key, codec.encode(checkpoint_of(state)))
    await log.store.put(keys.hint(log.home), key.encode())
    return key


async def _write_runs(log: Log, state: State, ids: Ids) -> None:
    """Merge what changed into the runs.

    All of the state's runs are exchanged at once, or none: they belong to one sequence.
    """
    outputs, doomed = state.outputs, state.doomed & state.run_names
    spilled = _spilled(log, outputs)
    ledger_work = _compaction(log, state, ids, state.ledger.runs, ledger.schema())
    output_work = _compaction(log, state, ids, outputs.runs, output_rows.schema())
    if state.overlay or doomed:
        await ledger_work.run(ledger.table_of(state.overlay), doomed)
    if spilled or doomed:
        await output_work.run(output_rows.table_of(spilled), doomed)
    _replace_runs(state, ledger_work.runs, output_work.runs, spilled=bool(spilled))


def _spilled(log: Log, outputs: Outputs) -> Mapping[str, Output | None]:
    """The changed outputs that a checkpoint is not to hold itself."""
    return outputs.changed if len(outputs.changed) > log.policy.outputs_inline_max else {}


def _replace_runs(
    state: State, ledger_runs: SortedRuns, output_runs: SortedRuns, *, spilled: bool
) -> None:
    state.ledger.replace(ledger_runs, state.overlay)
    state.outputs.replace(output_runs, changed=spilled)
    # no checkpoint of before may replace these runs: it would lack the overlay
    state.overlay, state.base = {}, state.sequence
    state.doomed.clear()


def _compaction(
    log: Log, state: State, ids: Ids, runs: SortedRuns, schema: pa.Schema
) -> Compaction:
    policy = log.policy
    return Compaction(
        log.store,
        log.home,
        state.sequence,
        ids,
        runs,
        schema,
        policy.run_rows_max,
        policy.run_fanout,
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """What a vacuum leaves for looking back: older checkpoints, the runs that they name, and the
    log above `floor`.
    """

    checkpoints: frozenset[str] = frozenset()
    runs: frozenset[str] = frozenset()
    floor: int = 0


async def what_is_kept(log: Log, state: State, retention_s: float) -> Kept:
    """The newest checkpoint from before the retention time, from which every later state can be
    folded, and some younger ones, which take its place one day. By the store's times; where the log
    is longer than `log_entries_max`, what is too far back counts as old.
    """
    found = await _listed(log)
    if not found:
        return Kept()
    floor, entries_max = await log.floor(), log.policy.log_entries_max
    last_old = _last_old(found, floor, state.sequence - entries_max, retention_s)
    kept = _spread(found, floor, last_old, entries_max, retention_s)
    runs = await _runs_named(log, kept)
    reached = last_old.sequence if last_old is not None else 0
    return Kept(frozenset(one.key for one in kept), frozenset(runs), reached)


class _Listed(NamedTuple):
    sequence: int
    at_ms: int
    key: str


async def _listed(log: Log) -> list[_Listed]:
    """All checkpoints, the oldest first."""
    found: list[_Listed] = []
    async for page in log.store.list(keys.checkpoint_prefix(log.home)):
        rows = zip(page.keys, page.modified_us, strict=True)
        found += [
            _Listed(n, us // 1000, key)
            for key, us in rows
            if (n := keys.checkpoint_sequence(key)) is not None
        ]
    return sorted(found)


def _last_old(
    found: Sequence[_Listed], floor: int, first: int, retention_s: float
) -> _Listed | None:
    """The newest from before the retention time, or from before the entry `first`."""
    due_ms = max(one.at_ms for one in found) - int(1000 * retention_s)
    old = [
        one
        for one in found
        if one.sequence >= floor and (one.at_ms < due_ms or one.sequence < first)
    ]
    return old[-1] if old else None


def _spread(
    found: Sequence[_Listed],
    floor: int,
    last_old: _Listed | None,
    entries_max: int,
    retention_s: float,
) -> list[_Listed]:
    """The last old one, and younger ones that lie far enough apart."""
    kept = [last_old] if last_old is not None else []
    least = max(floor, last_old.sequence + 1 if last_old is not None else 0)
    for one in found:
        if one.sequence < least:
            continue
        last = kept[-1] if kept else _Listed(0, 0, "")
        if (
            one.sequence - last.sequence >= max(entries_max // KEPT_STEPS, 1)
            or one.at_ms - last.at_ms >= 1000 * retention_s / KEPT_STEPS
        ):
            kept.append(one)
    return kept


async def _runs_named(log: Log, kept: Sequence[_Listed]) -> set[str]:
    runs: set[str] = set()
    for stored in await log.store.get_many([one.key for one in kept]):
        if stored is not None:
            checkpoint = codec.decode(Checkpoint, stored.body, "a checkpoint")
            runs.update(run.key for run in (*checkpoint.runs, *checkpoint.output_runs))
    return runs


async def unnamed_runs(log: Log, state: State, kept: Kept) -> list[str]:
    """Runs that neither this state nor what is kept names, written before its sequence: at most
    COLLECTED_MAX of them.
    """
    named, last = state.run_names | kept.runs, keys.ledger_run(log.home, state.sequence, "")
    found: list[str] = []
    async for page in log.store.list(keys.ledger_prefix(log.home)):
        found += [key for key in page.keys if key not in named and key < last]
    return found[:COLLECTED_MAX]
