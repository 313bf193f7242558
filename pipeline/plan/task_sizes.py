"""How large tasks are: few enough that a million files need no million calls, many enough that all
workers have some. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.model.policy import Policy


def task_ranges(
    sizes: Sequence[int],
    policy: Policy,
    *,
    workers: int,
    batch: int = 1,
    seconds_per_file: float | None = None,
    more_to_come: bool = False,
) -> list[tuple[int, int]]:
    """Positions [start, end) of each task's objects, given all objects' sizes in bytes.

    Full tasks first, smaller ones towards the end so that all workers finish together. A task is
    bounded by bytes, by number, and by the time that files took so far (None: unknown). All but the
    last are a multiple of `batch`, so that batches are full.
    """
    timely = policy.task_files_max
    if seconds_per_file:
        timely = max(1, int(min(timely, policy.attempt_budget_s / seconds_per_file)))
    weights = [size + policy.file_weight_bytes for size in sizes]
    ranges, start, left = [], 0, sum(weights)
    while start < len(sizes):
        share, files_max = policy.task_bytes_max, policy.task_files_max
        if not more_to_come:
            share = min(share, max(left // (2 * workers), policy.task_bytes_min))
            files_max = min(
                files_max, max((len(sizes) - start) // (2 * workers), policy.task_files_min)
            )
        end = _filled(weights, start, share, min(files_max, timely))
        end = min(len(sizes), start + -(-(end - start) // batch) * batch)
        ranges.append((start, end))
        left -= sum(weights[start:end])
        start = end
    return ranges


def _filled(weights: Sequence[int], start: int, share: int, files_max: int) -> int:
    """Where a task that begins at `start` ends: with its share of the bytes, but for one file."""
    end, weight = start, 0
    while end < len(weights) and end - start < files_max:
        if end > start and weight + weights[end] > share:
            break
        weight += weights[end]
        end += 1
    return end
