"""`tidemill sinks`: what each declared sink holds; and what `run` does about them
after its passes.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pipeline.cli import EXIT_PROBLEMS
from pipeline.cli.options import Target, on_bucket, root_runtime, wait
from pipeline.cli.render import as_json, table
from pipeline.errors import SettingsError, nearest
from pipeline.tracebacks import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.runtime.publish import Published
    from pipeline.runtime.runtime import Runtime


@click.command("sinks", epilog="Example:  tidemill sinks pipeline.py --bucket ./bucket --publish")
@on_bucket
@click.option("--publish", is_flag=True, help="bring them up to date now")
@click.option(
    "--rebuild", metavar="NAME", help="replace everything that this sink holds with the rows of now"
)
def sinks_command(target: Target, publish: bool, rebuild: str | None) -> int:
    """Show what each declared sink holds beside its table's newest commit.

    A sink that is behind is brought up to date by the next run, or by --publish. Exit code 1 if one
    cannot be reached, or did not take what it was given.
    """
    named = [name for p in target.pipelines for name in p.sinks]
    if rebuild is not None and rebuild not in named:
        raise SettingsError(f"{target.file} declares no sink {rebuild!r}{nearest(rebuild, named)}")
    found = wait(_all(target, publish, rebuild))
    if target.as_json:
        as_json(
            [{"pipeline": name, **asdict(one), "is_behind": one.is_behind} for name, one in found]
        )
    elif not found:
        click.echo("no sink is declared: see docs/guides/sinks.md")
    else:
        rows = [[one.sink, name, _held(one), one.sequence, _state(one)] for name, one in found]
        table(("sink", "pipeline", "holds commit", "newest", "state"), rows, numbers=[2, 3])
    for _, one in found:
        if one.problem:
            click.echo(f"tidemill: {failure(one)}", err=True)
    return EXIT_PROBLEMS if any(one.problem for _, one in found) else 0


async def _all(target: Target, publish: bool, rebuild: str | None) -> list[tuple[str, Published]]:
    from pipeline.runtime.publish import Publisher

    found = []
    for pipeline in target.pipelines:
        publisher = Publisher(root_runtime(target, pipeline))
        for name in pipeline.sinks:
            if name == rebuild:
                found.append((pipeline.name, await publisher.publish(name, rebuild=True)))
            else:
                found.append(
                    (
                        pipeline.name,
                        await (publisher.publish(name) if publish else publisher.look(name)),
                    )
                )
    return found


def _held(one: Published) -> object:
    return one.mark.sequence if one.mark is not None else "-"


def _state(one: Published) -> str:
    if one.problem:
        return "failed"
    if one.done:
        return "built anew" if one.rebuilt else "brought up to date"
    return "behind" if one.is_behind else "up to date"


def failure(one: Published) -> str:
    """One line about a sink that did not follow."""
    return f"sink {one.sink}: {visible(' '.join(one.problem.split()))}"


class AfterPasses:
    """Publishes after a run's passes: at first, after each that committed, and again while a sink
    fails.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._waiting: dict[str, bool] = {}
        self._said: dict[str, str] = {}

    async def publish(self, runtime: Runtime, *, committed: bool) -> bool:
        """Whether every sink holds the newest commit now.

        What is wrong is said once, until it is something else.
        """
        pipeline = runtime.pipeline
        if not pipeline.sinks or not (committed or self._waiting.get(pipeline.name, True)):
            return True
        from pipeline.runtime.publish import Publisher

        good = True
        for one in await Publisher(runtime).publish_all():
            text = failure(one) if one.problem else ""
            if text and self._said.get(one.sink) != text:
                self._say(f"{text}; the next run tries again")
            self._said[one.sink] = text
            good = good and not text
        self._waiting[pipeline.name] = not good
        return good
