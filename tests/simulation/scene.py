"""What the simulated pipeline is: its settings, and bounds so small that everything happens within
a thousand requests.
"""

from __future__ import annotations

import random

from pipeline.model.policy import Policy
from pipeline.model.settings import AggregateSettings, PipelineSettings, TransformSettings

RETENTION_S = 400
SOURCE = "src/"


def settings(version: str, generation: int = 0) -> PipelineSettings:
    """The pipeline as somebody declared it at one version of the code, and one generation of its
    table.
    """
    declared = PipelineSettings(
        name="p",
        source=SOURCE,
        include=("**",),
        exclude=(),
        output="out/",
        partition_by=(),
        widen="none",
        transforms=(
            TransformSettings(
                name="t", version=version, match=("**",), timeout_s=0, max_attempts=3
            ),
        ),
        aggregates=(AggregateSettings(name="a", by={"g": "g"}, sql=""),),
        retention_s=RETENTION_S,
        listing="growing",
    )
    return declared.of_generation(generation)


def policy(rng: random.Random) -> Policy:
    """Small bounds, some of them drawn."""
    return Policy(
        task_files_max=rng.choice([1, 2, 4]),
        attempt_budget_s=rng.choice([20, 1000]),
        lease_margin_s=rng.choice([40, 80, 150]) - 20,
        lost_backoff_s=60,
        lost_backoff_max_s=3600,
        losses_max=4,
        innocent_losses_max=rng.choice([1, 3]),
        checkpoint_every=rng.choice([1, 4, 64]),
        settle_sources_min=rng.choice([1, 4]),
        outstanding_sources_max=rng.choice([2, 100]),
        log_entries_max=rng.choice([3, 20, 1000]),
        overlay_max=rng.choice([1, 1000]),
        run_rows_max=rng.choice([1, 2, 4]),
        run_fanout=2,
        outputs_inline_max=rng.choice([0, 2, 1000]),
    )
