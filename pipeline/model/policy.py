"""Bounds of the protocol: how many, how long, how often. Not for users to set."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.model.settings import DAY_S, TransformSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Bounds of the protocol. The defaults serve one machine; the simulation shrinks them."""

    task_bytes_max: int = 16 * 2**20
    task_files_max: int = 2_000
    task_bytes_min: int = 256 * 2**10
    task_files_min: int = 32
    """Tasks do not shrink below these towards the end of a listing."""
    file_weight_bytes: int = 2048
    """What a file costs besides its bytes when tasks are sized."""
    attempt_budget_s: float = 30.0
    """An attempt starts no further input after this long; the rest is planned again."""
    lease_margin_s: float = 60.0
    """Added to an attempt's longest regular time to give its deadline."""
    losses_max: int = 20
    """Dispatches whose runner vanished, before they count as failed attempts."""
    innocent_losses_max: int = 3
    """Dispatches of a task that the store or the deployment made impossible, before it is given
    back: a later pass plans it.
    """
    lost_backoff_s: float = 60.0
    lost_backoff_max_s: float = DAY_S
    lost_tries_max: int = 12
    """Tries of a source whose attempts end without an answer, before it waits for a person."""
    proposals_max: int = 16
    """Lost races for a sequence number before a commit gives up."""
    sends_max: int = 6
    """Times one log entry is sent while the store does not answer."""
    loads_max: int = 20
    """Times a state is loaded again because the log moved underneath."""
    outstanding_sources_max: int = 20_000
    """Sources dispatched and not settled before listing goes on."""
    settle_sources_min: int = 4_000
    """Sources whose receipts are gathered before they are committed, while attempts are
    outstanding.
    """
    checkpoint_every: int = 64
    """Commits between checkpoints."""
    overlay_max: int = 20_000
    """Changed ledger entries held in memory before they are written out."""
    run_rows_max: int = 32_768
    """Rows of a sorted run, and of level 0 as a whole."""
    run_fanout: int = 8
    """How many times more rows each level may have than the one before."""
    outputs_inline_max: int = 1_000
    """Outputs that a checkpoint holds itself; with more they go into runs."""
    vacuum_every: int = 512
    """Commits after which a pass ends with a vacuum."""
    log_entries_max: int = 20_000
    """Log entries that a vacuum leaves, however young they are: what they said is in the
    checkpoint.
    """
    open_tasks_max: int | None = None
    """Open tasks above which nothing more is planned; the next pass goes on. None: no bound."""
    again_share: float = 0.75
    """Of `open_tasks_max`: what tasks of objects that are processed once more (a backfill) may
    take. The rest is for new ones.
    """
    containers_max: int | None = None
    """On Modal: how many a transform gets that declares no `max_containers`.

    None: the executor says.
    """

    @property
    def again_tasks_max(self) -> int | None:
        """Open tasks of objects that are processed once more; None: no bound."""
        return (
            None
            if self.open_tasks_max is None
            else max(1, int(self.open_tasks_max * self.again_share))
        )

    def lease_ms(self, transform: TransformSettings, *, ahead: int = 0) -> int:
        """How long an attempt may take before anyone may dispatch its task again; `ahead` tasks may
        have to run before it.
        """
        queue_s = (
            0.0
            if self.containers_max is None
            else self.attempt_budget_s * (ahead / self.containers(transform))
        )
        return int(
            1000 * (self.attempt_budget_s + transform.timeout_s + self.lease_margin_s + queue_s)
        )

    def containers(self, transform: TransformSettings) -> int:
        """Containers that a transform may have at the same time, on Modal."""
        return transform.resources.max_containers or self.containers_max or 1


def deployed_policy() -> Policy:
    """Bounds for detached work on Modal (a function may have 2,000 pending inputs there)."""
    return Policy(
        lease_margin_s=180.0,
        open_tasks_max=1_000,
        containers_max=100,
        task_bytes_min=4 * 2**20,
        task_files_min=250,  # a container that has to start costs a second or two
        outstanding_sources_max=2_000_000,
    )
