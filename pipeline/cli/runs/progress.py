"""Progress of a run: a bar on a terminal, plain lines otherwise, nothing with --json."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from pipeline.model.pass_report import PassReport
from pipeline.wording import count, duration, size

PLAIN_EVERY_S = 5.0
FOLLOW_S = 0.5


class Progress:
    """Shows a pass as it goes: call `update` with its report, and `close` in the end."""

    def __init__(self, name: str, *, quiet: bool) -> None:
        self._name = name
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._started = time.monotonic()
        self._printed = self._started
        self._report = PassReport()
        self._under_way: Callable[[], int] = lambda: 0

    async def follow(self, under_way: Callable[[], int]) -> None:
        """Show what running attempts are done with too, until cancelled."""
        self._under_way = under_way
        while True:
            await asyncio.sleep(FOLLOW_S)
            self.update(self._report)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def update(self, report: PassReport) -> None:
        """Show the report, unless nothing is under way."""
        self._report = report
        if self._quiet or report.planned == 0:
            return
        done = min(report.planned, report.committed + report.quarantined + self._under_way())
        if sys.stderr.isatty():
            self._draw(report, done)
        elif time.monotonic() - self._printed >= PLAIN_EVERY_S:
            self._printed = time.monotonic()
            click.echo(
                f"{self._name}: {done:,} of {report.planned:,} files,"
                f" {self._figures(report, done)}",
                err=True,
            )

    def _figures(self, report: PassReport, done: int) -> str:
        spent = max(time.monotonic() - self._started, 1e-3)
        left = duration(spent / done * (report.planned - done)) if done else "?"
        failed = f", {count(report.quarantined, 'failure')}" if report.quarantined else ""
        return (
            f"{report.rows:,} rows, {size(report.committed_bytes / spent)}/s, {left} left{failed}"
        )

    def _draw(self, report: PassReport, done: int) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            figures = TextColumn("files  {task.fields[figures]}")
            columns = (
                TextColumn("{task.description}"),
                BarColumn(30),
                MofNCompleteColumn(),
                figures,
            )
            self._bar = Bar(
                *columns, console=Console(file=sys.stderr), transient=True, refresh_per_second=5
            )
            self._task = self._bar.add_task(self._name, total=None, figures="")
            self._bar.start()
        self._bar.update(
            self._task, total=report.planned, completed=done, figures=self._figures(report, done)
        )
