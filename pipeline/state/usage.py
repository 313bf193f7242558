"""What attempts took so far, by transform and by day: the ground for task sizes, estimates and cost
limits. Pure.

Folded from settled receipts alone, so it is the same for everyone who reads the log. Attempts that
gave no receipt took time too; nobody knows how much.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from pipeline.model.commit import Settled
from pipeline.model.task import Task

WINDOW_FILES = 20_000
"""Once a transform's figures are of so many files they are halved, so that newer files count for
more.
"""
DAYS_KEPT = 40


class Took(msgspec.Struct, kw_only=True):
    """Sums over recent attempts of one transform, of files that the code was called for."""

    files: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0
    slots: float = 0.0

    @property
    def seconds_per_file(self) -> float | None:
        """Mean seconds a file, None where nothing is known."""
        return self.seconds / self.files if self.files else None

    @property
    def fill(self) -> float | None:
        """Mean share of a batch that is filled, between 0 and 1; None for transforms without
        batches.
        """
        return self.files / self.slots if self.slots else None


class Usage(msgspec.Struct, kw_only=True):
    """What attempts took: recent sums by transform, and seconds by UTC day (of the commit, by the
    store's clock) and transform.
    """

    by_transform: dict[str, Took] = {}
    by_day: dict[str, dict[str, float]] = {}

    def took(self, transform: str) -> Took:
        """The sums of one transform; empty where it never ran."""
        return self.by_transform.get(transform) or Took()


def day_of(at_ms: int) -> str:
    """The UTC day of a moment."""
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d}"


def note(usage: Usage, task: Task, settled: Settled, at_ms: int) -> None:
    """Add one settled attempt."""
    deferred = sum(p.status == "deferred" for p in settled.problems)
    took = usage.by_transform.setdefault(task.transform, Took())
    if took.files > WINDOW_FILES:
        _halve(took)
    took.files += len(task.inputs) - deferred
    took.bytes += settled.bytes_read
    took.seconds += settled.seconds
    took.slots += settled.slots
    _note_day(usage, task.transform, settled.seconds, at_ms)


def _note_day(usage: Usage, transform: str, seconds: float, at_ms: int) -> None:
    day = usage.by_day.setdefault(day_of(at_ms), {})
    day[transform] = day.get(transform, 0.0) + seconds
    if len(usage.by_day) > DAYS_KEPT:
        del usage.by_day[min(usage.by_day)]


def _halve(took: Took) -> None:
    took.files, took.bytes, took.seconds, took.slots = (
        took.files / 2,
        took.bytes / 2,
        took.seconds / 2,
        took.slots / 2,
    )
