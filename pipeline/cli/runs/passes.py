"""One call of `run`, `hint` or `backfill`: passes over each pipeline on one engine, shown as they
go.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import asdict
from typing import Any

import click

from pipeline.cli import EXIT_BAD_INPUT, EXIT_PROBLEMS
from pipeline.cli.options import Target
from pipeline.cli.pasted_commands import pasted
from pipeline.cli.runs.progress import Progress
from pipeline.cli.runs.run_summary import handed_over, summary
from pipeline.cli.runs.watching import Watch, what
from pipeline.model.events import (
    AnyEvent,
    Looked,
    PassBegan,
    PassEnded,
    Progressed,
    Remark,
    Retrying,
    WatchBegan,
)
from pipeline.runtime.engines import Engine
from pipeline.runtime.system import keep_arrow_light
from pipeline.runtime.watch import SWEEP_S, Outcome, Passes, Watching
from pipeline.wording import count, duration


async def shown(
    target: Target,
    engine: Engine,
    *,
    watching: Watching | None = None,
    fail_on: str | None = None,
    **options: Any,
) -> int:
    """Run passes over FILE's pipelines, show them, and return the exit code.

    fail_on: `quarantined`, where earlier files in quarantine are problems, too. options: of Passes.
    """
    keep_arrow_light()  # the workers' process was forked before
    screen = Screen(target, engine, watching)
    passes = Passes(
        target.pipelines,
        target.bucket.open(),
        engine,
        listener=screen.hear,
        watching=watching,
        **options,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, passes.stop)
    try:
        outcome = await passes.run()
    finally:
        screen.close()
    if outcome.stopped:
        screen.say("stopped; the next run goes on from here")
    return _exit_code(outcome, watches=watching is not None, fail_on=fail_on)


def _exit_code(outcome: Outcome, *, watches: bool, fail_on: str | None) -> int:
    fails = fail_on is not None and any(outcome.in_quarantine.values())
    if outcome.stopped:
        return (EXIT_PROBLEMS if fails else 0) if watches else 130
    if outcome.failed and not watches:
        return EXIT_BAD_INPUT  # only now: rows, stages and sinks do not wait for an aggregate
    return EXIT_PROBLEMS if fails or (outcome.found_problems and not watches) else 0


class Screen:
    """A listener that shows passes: progress and figures for people, or JSON lines."""

    def __init__(self, target: Target, engine: Engine, watching: Watching | None) -> None:
        self._target = target
        self._watching = watching
        self._engine = engine
        self._watch: Watch | None = None
        self._progress: Progress | None = None
        self._following: asyncio.Task[None] | None = None

    def _begin_watch(self, watching: Watching) -> None:
        sources = [(p.name, p.source) for p in self._target.pipelines]
        queue = watching.notices.url if watching.notices is not None else None
        self.say(
            what(
                self._target.bucket.url,
                sources,
                interval_s=watching.interval_s,
                queue=queue,
                sweep_s=watching.sweep_s or SWEEP_S,
            )
        )
        self._watch = Watch(self._target.file, self.say, quiet=self._target.as_json)

    def hear(self, event: AnyEvent) -> None:
        """Show what is for showing."""
        if isinstance(event, PassBegan | Progressed | PassEnded):
            self._hear_pass(event)
        elif isinstance(event, WatchBegan | Looked):
            self._hear_watch(event)
        elif isinstance(event, Retrying):
            self.close()
            self.say(f"{event.reason}; trying again in {duration(event.after_s)}")
        elif isinstance(event, Remark):
            self.say(f"warning: {event.text}" if event.warning else event.text)

    def _hear_pass(self, event: PassBegan | Progressed | PassEnded) -> None:
        if isinstance(event, PassBegan):
            self._begin(event)
        elif isinstance(event, PassEnded):
            self.close()
            if event.shown:
                self._show(event)
        elif self._progress is not None:
            self._progress.update(event.report)

    def _hear_watch(self, event: WatchBegan | Looked) -> None:
        if isinstance(event, WatchBegan):
            if self._watching is not None:
                self._begin_watch(self._watching)
        elif self._watch is not None:
            self._watch.looked(found=event.found)

    def close(self) -> None:
        """Take the progress of a pass away."""
        if self._following is not None:
            self._following.cancel()
        if self._progress is not None:
            self._progress.close()
        self._following = self._progress = None

    def say(self, text: str) -> None:
        """One line for people."""
        if self._watch is not None:
            self._watch.clear()
        click.echo(f"tidemill: {text}", err=True)
        sys.stderr.flush()

    def _begin(self, event: PassBegan) -> None:
        if self._watch is not None:
            self._watch.clear()
        self._progress = Progress(_label(event), quiet=self._target.as_json)
        following = self._progress.follow(lambda: self._engine.under_way)
        self._following = asyncio.get_running_loop().create_task(following)

    def _show(self, event: PassEnded) -> None:
        report, label = event.report, _label(event)
        if self._target.as_json:
            click.echo(json.dumps(_as_plain(event)))
            return
        detached = self._engine.detached
        for line in (
            handed_over(label, report) if detached else summary(label, report, event.seconds)
        ):
            click.echo(line)
        if event.in_quarantine:
            n = count(event.in_quarantine, "file")
            click.echo(f"  {n} in quarantine:  {pasted(self._target, 'quarantine list')}")


def _as_plain(event: PassEnded) -> dict[str, Any]:
    return {
        "pipeline": event.pipeline,
        "generation": event.generation,
        "sequence": event.sequence,
        "seconds": round(event.seconds, 3),
        "in_quarantine": event.in_quarantine,
        **asdict(event.report),
    }


def _label(event: PassBegan | PassEnded) -> str:
    suffix = f", generation {event.generation}" if event.generation else ""
    return event.pipeline + suffix
