"""What must be known before a commit is proposed and applied. Pure."""

from __future__ import annotations

from pipeline.plan.evidence import Evidence
from pipeline.state.needs import Needs
from pipeline.state.state import State


def needs_of(state: State, evidence: Evidence) -> Needs:
    """What the rules of `planner` may ask for this evidence, and what applying it does."""
    needs = Needs(
        sources=list(evidence.requeue),
        holders=list(evidence.missing),
        outputs=list(evidence.merge),
    )
    for task_id in evidence.losses:
        if task_id in state.tasks:
            needs.sources += state.tasks[task_id].inputs.keys
    for task_id in evidence.receipts:
        if task_id in state.tasks:
            state.settling(state.tasks[task_id], needs)
    return needs
