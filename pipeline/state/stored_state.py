"""A state as its checkpoint holds it, and back. Pure."""

from __future__ import annotations

from pipeline.errors import InvariantViolated
from pipeline.model.commit import FORMAT_VERSION
from pipeline.state.checkpoint import Checkpoint, Totals
from pipeline.state.ledger import Ledger
from pipeline.state.outputs import Outputs
from pipeline.state.state import State


def checkpoint_of(state: State) -> Checkpoint:
    """The state as it is stored. The overlay must be in the runs by now."""
    if state.id is None or state.overlay:
        raise InvariantViolated(
            "a checkpoint of an empty log, or without what changed since the last"
        )
    return Checkpoint(
        format=FORMAT_VERSION,
        pipeline=state.pipeline,
        sequence=state.sequence,
        id=state.id,
        schema=state.schema,
        tasks=state.tasks,
        outputs=state.outputs.live(),
        outputs_gone=state.outputs.gone(),
        output_runs=state.outputs.runs.runs,
        removed=state.removed,
        quarantine=state.quarantine,
        aggregates=state.aggregates,
        changes=state.changes,
        runs=state.ledger.runs.runs,
        totals=state.totals,
        growth=state.growth,
        usage=state.usage,
        backlog=state.backlog,
        generations=state.generations,
        superseded=_superseded(state),
    )


def _superseded(state: State) -> dict[str, list[int]]:
    """The positions of each open task's sources that it may not publish any more."""
    return {
        task.id: lost
        for task in state.tasks.values()
        if (
            lost := [
                i for i, key in enumerate(task.inputs.keys) if not state.is_wanted(key, task.id)
            ]
        )
    }


def restored(checkpoint: Checkpoint) -> State:
    """The state a checkpoint holds.

    Its values are taken over, not copied; nothing is looked up in its runs yet.
    """
    state = State(checkpoint.pipeline)
    state.sequence, state.id, state.schema = (
        checkpoint.sequence,
        checkpoint.id,
        checkpoint.schema,
    )
    state.tasks, state.removed, state.base = (
        checkpoint.tasks,
        checkpoint.removed,
        checkpoint.sequence,
    )
    state.outputs = Outputs(checkpoint.outputs, checkpoint.outputs_gone, checkpoint.output_runs)
    state.quarantine, state.aggregates = checkpoint.quarantine, checkpoint.aggregates
    state.changes, state.ledger, state.usage = (
        checkpoint.changes,
        Ledger(checkpoint.runs),
        checkpoint.usage,
    )
    state.totals, state.growth, state.backlog = (
        checkpoint.totals or Totals(),
        checkpoint.growth,
        checkpoint.backlog,
    )
    state.generations = checkpoint.generations
    for task in state.tasks.values():
        lost = set(checkpoint.superseded.get(task.id, ()))
        for i, key in enumerate(task.inputs.keys):
            if i not in lost:
                state.wanted[key] = (task.id, task.inputs.etags[i])
    return state
