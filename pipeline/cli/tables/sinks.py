"""`tidemill sinks`: what each declared sink holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pipeline.cli import EXIT_PROBLEMS
from pipeline.cli.options import Target, on_bucket, root_runtime, wait
from pipeline.cli.render import as_json, table
from pipeline.errors import SettingsError, nearest

if TYPE_CHECKING:
    from pipeline.runtime.publish import Published


@click.command("sinks", epilog="Example:  tidemill sinks flows.py --bucket ./bucket --publish")
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
    from pipeline.runtime.publish import failure

    found = wait(_all(target, publish, rebuild))
    _show(target, found)
    for _, one in found:
        if one.problem:
            click.echo(f"tidemill: {failure(one)}", err=True)
    return EXIT_PROBLEMS if any(one.problem for _, one in found) else 0


def _show(target: Target, found: Sequence[tuple[str, Published]]) -> None:
    if target.as_json:
        as_json(
            [{"pipeline": name, **asdict(one), "is_behind": one.is_behind} for name, one in found]
        )
    elif not found:
        click.echo("no sink is declared: see docs/guides/sinks.md")
    else:
        rows = [[one.sink, name, _held(one), one.sequence, _state(one)] for name, one in found]
        table(("sink", "pipeline", "holds commit", "newest", "state"), rows, numbers=[2, 3])


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
        return "rebuilt" if one.rebuilt else "brought up to date"
    return "behind" if one.is_behind else "up to date"
