"""Bounds on one query in this process: its time, and the memory it adds.

Both end it by DuckDB's interrupt, repeated as needed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import SettingsError

if TYPE_CHECKING:
    import pyarrow as pa

LOOK_S = 0.05


def half_of_memory_mb() -> int:
    """Half of this machine's memory."""
    import psutil

    return int(psutil.virtual_memory().total) // 2 // 2**20


def too_long(timeout_s: float) -> str:
    """What is said where a query takes too much time."""
    return f"the query took longer than {timeout_s:g} s and was stopped (--timeout)"


@dataclass(frozen=True, slots=True)
class Limits:
    """How a query's memory is shared out: DuckDB counts its buffers only, so the process is looked
    at as well.
    """

    memory_mb: int

    @property
    def engine_mb(self) -> int:
        """For DuckDB's buffers; beyond that it spills to disk."""
        return max(self.memory_mb * 6 // 10, 1)

    @property
    def result_bytes(self) -> int:
        """For the result, as Arrow."""
        return self.memory_mb * 2**20 * 3 // 10

    def collected(self, batches: Iterable[pa.RecordBatch]) -> list[pa.RecordBatch]:
        """A whole result. Raises SettingsError where it is larger than its share of the memory."""
        size, kept = 0, []
        for batch in batches:
            size += batch.nbytes
            if size > self.result_bytes:
                limit = self.result_bytes >> 20
                raise SettingsError(
                    f"the result has more than {limit:,} MB: ask for fewer rows (LIMIT), or give"
                    " more --memory-mb"
                )
            kept.append(batch)
        return kept

    @property
    def exceeded(self) -> str:
        """What is said where it is too much."""
        return (
            f"the query needs more than {self.memory_mb:,} MB of memory and was stopped"
            " (--memory-mb)"
        )


class Stopwatch:
    """How long something has worked, with pauses. Stopped at first."""

    def __init__(self) -> None:
        self._used_s = 0.0
        self._since_s: float | None = None

    def go_on(self) -> None:
        """The time counts from here on, if it did not already."""
        if self._since_s is None:
            self._since_s = time.monotonic()

    def pause(self) -> None:
        """It does not count from here on."""
        self._used_s, self._since_s = self.used_s(), None

    def used_s(self) -> float:
        """Seconds so far."""
        since_s = self._since_s
        return self._used_s + (time.monotonic() - since_s if since_s is not None else 0.0)


class Guard:
    """Watches from a thread while its block runs.

    `reason` says why it interrupted, "" if it did not.
    """

    def __init__(
        self, interrupt: Callable[[], None], limits: Limits, timeout_s: float | None
    ) -> None:
        self._interrupt = interrupt
        self._limits = limits
        self._timeout_s = timeout_s
        self._over = threading.Event()
        self.watch: Stopwatch = Stopwatch()
        """Pause it where others have the time: whoever reads the result."""
        self._thread = threading.Thread(
            target=self._watch, name="tidemill-query-guard", daemon=True
        )
        self.reason: str = ""

    def __enter__(self) -> Guard:
        self.watch.go_on()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def collected(self, reader: pa.RecordBatchReader) -> pa.Table:
        """The whole result. Raises SettingsError where it is larger than its share of
        the memory.
        """
        import pyarrow as pa

        return pa.Table.from_batches(self._bounded(reader), schema=reader.schema)

    def _bounded(self, batches: Iterable[pa.RecordBatch]) -> list[pa.RecordBatch]:
        size, kept = 0, []
        for batch in batches:
            size += batch.nbytes
            if size > self._limits.result_bytes:
                limit = self._limits.result_bytes >> 20
                raise SettingsError(
                    f"the result has more than {limit:,} MB: ask for fewer rows (LIMIT), or give"
                    " more --memory-mb"
                )
            kept.append(batch)
        return kept

    def _watch(self) -> None:
        import psutil

        process = psutil.Process()
        memory_max = process.memory_info().rss + self._limits.memory_mb * 2**20
        while not self._over.wait(LOOK_S):
            if self._timeout_s is not None and self.watch.used_s() > self._timeout_s:
                self.reason = too_long(self._timeout_s)
            elif process.memory_info().rss > memory_max:
                self.reason = self._limits.exceeded
            if self.reason:
                self._interrupt()
