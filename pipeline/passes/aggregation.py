"""Aggregates and the log: computed over a snapshot, committed right after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pipeline.errors import ObjectNotFound
from pipeline.model.commit import Commit
from pipeline.model.events import Aggregated
from pipeline.model.snapshot import Changes

if TYPE_CHECKING:
    from pipeline.passes.runner import Pass


async def aggregate(running: Pass) -> None:
    """Bring the aggregates up to the snapshot.

    They are committed right after the snapshot they were computed over, or not at all; where
    other writers never leave room for that, readers compute what is missing.
    """
    aggregator, from_scratch = running.context.aggregator, False
    if aggregator is not None:
        await aggregator.prepare()
    for _ in range(running.context.policy.proposals_max):
        if aggregator is None or not aggregator.is_behind(running.state):
            return
        await running.log.load_outputs(running.state)
        snapshot = running.state.snapshot()
        if from_scratch:
            snapshot = msgspec.structs.replace(snapshot, changes=Changes(everything=True))
        try:
            files = await aggregator.compute(snapshot, running.context.ids.nonce())
        except ObjectNotFound:
            # another run's vacuum removed a file, or somebody deleted it though it counts
            before = running.state.sequence
            await running.catch_up()
            from_scratch = running.state.sequence == before
            continue
        commit = running.proposer.blank(
            running.state,
            now_ms=running.context.clock.now_ms(),
            commit_id=running.context.ids.nonce(),
        )
        commit.aggregates = files
        if await running.log.append(running.state, commit):
            _note(running, commit)
            return
        await running.catch_up()


def _note(running: Pass, commit: Commit) -> None:
    running.report.commits += 1
    running.report.aggregates += len(commit.aggregates)
    running.context.listener(
        Aggregated(
            pipeline=commit.pipeline,
            generation=commit.generation,
            sequence=commit.sequence,
            names=tuple(file.name for file in commit.aggregates),
        )
    )
