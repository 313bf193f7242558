"""What a run did, in words."""

from __future__ import annotations

import time

from pipeline.model.pass_report import PassReport
from pipeline.wording import count, duration, printable, size


def handed_over(name: str, report: PassReport) -> list[str]:
    """What a run did that left the work to others, for people."""
    settled = (
        f"; {count(report.committed, 'file')} of earlier ones committed" if report.committed else ""
    )
    lines = [
        f"{name}: {count(report.planned, 'file')} handed over"
        f" ({size(report.planned_bytes)}){settled}"
    ]
    if report.elsewhere or report.planned:
        lines.append("  they go on by themselves; see  tidemill status")
    return lines + _undone(report)


def _undone(report: PassReport) -> list[str]:
    """What a run did not process, and why."""
    return _unread(report) + _limits(report) + _unmatched(report)


def _limits(report: PassReport) -> list[str]:
    lines = []
    if report.over_budget:
        lines.append(
            f"  {count(report.over_budget, 'file')} held back: the cost limit is reached; a later"
            " run goes on"
        )
    if report.held_back:
        lines.append("  as many tasks are open as may be: a later run goes on with the rest")
    return lines + _left(report)


def _left(report: PassReport) -> list[str]:
    """What waits for a later run, and how long it has been waiting."""
    if not report.left:
        return (
            ["  stopped at its limit, before the end of the listing: a later run goes on"]
            if report.limited
            else []
        )
    least = "" if report.complete else "at least "
    oldest = ""
    if report.left_oldest_us is not None:
        oldest = (
            ", the oldest uploaded"
            f" {duration(max(0.0, time.time() - report.left_oldest_us / 1e6))} ago"
        )
    return [
        f"  {least}{count(report.left, 'file')} left for a later run"
        f" ({size(report.left_bytes)}){oldest}"
    ]


def summary(name: str, report: PassReport, seconds: float) -> list[str]:
    """What a run did, for people."""
    if not report.commits and not report.elsewhere:
        return [
            f"{name}: nothing new in {count(report.listed, 'object')} ({duration(seconds)})",
            *_unmatched(report),
        ]
    first = (
        f"{name}: {count(report.committed, 'file')} committed, {count(report.rows, 'row')}"
        f" ({duration(seconds)}{_rate(report, seconds)})"
    )
    return [first, *_besides(report), *_undone(report)]


def _rate(report: PassReport, seconds: float) -> str:
    if not report.committed:
        return ""
    return f", {size(report.committed_bytes / max(seconds, 1e-3))}/s"


def _besides(report: PassReport) -> list[str]:
    """What a run did besides committing files."""
    lines = [
        f"  {count(n, thing)} {text}"
        for n, thing, text in (
            (report.rejected, "row", "rejected"),
            (report.quarantined, "file", "quarantined"),
            (report.deleted, "file", "deleted in the bucket, their rows are gone"),
            (report.elsewhere, "file", "in progress in another run"),
        )
        if n
    ]
    if report.aggregates:
        lines.append(f"  {count(report.aggregates, 'aggregate')} brought up to date")
    return lines


def _unread(report: PassReport) -> list[str]:
    if not report.unread:
        return []
    return [
        f"  {count(report.unread, 'file')} put off, the next run tries again:"
        f" {printable(report.unread_reason)}"
    ]


def _unmatched(report: PassReport) -> list[str]:
    if not report.unmatched:
        return []
    return [
        f"  {count(report.unmatched, 'file')} matched by no transform, such as"
        f" {printable(report.unmatched_sample[0])}"
    ]
