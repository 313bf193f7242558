"""What a pass did, in figures."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class PassReport:
    """What one pass saw and did; the numbers are of sources unless named otherwise."""

    listed: int = 0
    listed_bytes: int = 0
    planned: int = 0
    planned_bytes: int = 0
    committed: int = 0
    committed_bytes: int = 0
    rows: int = 0
    rejected: int = 0
    quarantined: int = 0
    deleted: int = 0
    changed: int = 0
    """Sources that were overwritten or deleted under way, or whose transform is no longer declared:
    a further pass sees to them.
    """
    respawned: int = 0
    """Sources whose attempt was lost and that were dispatched again."""
    unread: int = 0
    """Sources that the store did not give, or whose rows it did not take: a later pass tries them
    again.
    """
    unread_reason: str = ""
    unmatched: int = 0
    unmatched_sample: list[str] = field(default_factory=list)
    elsewhere: int = 0
    """Sources in open tasks of other runners at the end of the pass."""
    over_budget: int = 0
    """New sources that the cost limits did not allow."""
    held_back: bool = False
    """As many tasks are open as may be: the next pass goes on."""
    limited: bool = False
    """The limits of the request were reached, and something is left or was not looked at."""
    left: int = 0
    """Sources that were seen and wait for a later pass: by limits, costs, or because as many tasks
    are open as may be.
    """
    left_bytes: int = 0
    left_oldest_us: int | None = None
    commits: int = 0
    aggregates: int = 0
    aggregates_failed: str = ""
    """Why they could not be brought up to date. The rows are committed all the same."""
    complete: bool = False
    """The listing was read to its end."""


SUMS = (
    *(
        "planned",
        "planned_bytes",
        "committed",
        "committed_bytes",
        "rows",
        "rejected",
        "quarantined",
        "deleted",
        "changed",
    ),
    *("respawned", "commits", "aggregates"),
)


def combine(total: PassReport, report: PassReport) -> PassReport:
    """Two passes as one: counts of work add up, counts of what is there are the newer ones."""
    for name in SUMS:
        setattr(report, name, getattr(total, name) + getattr(report, name))
    return report
