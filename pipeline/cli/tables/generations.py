"""Generations of a table as people handle them: compare, publish, roll back, drop."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from pipeline.cli.options import Target, on_bucket, root_runtime, wait
from pipeline.cli.render import as_json, table
from pipeline.model.commit import Generation, Generations
from pipeline.passes.runner import Pass
from pipeline.passes.upkeep import vacuum
from pipeline.runtime.runtime import Runtime
from pipeline.state.generations import Change

HEADINGS = ("generation", "state", "begun (UTC)", "files", "rows", "quarantined", "at commit")


@click.command("generations", epilog="Example:  tidemill generations flows.py --bucket ./bucket")
@on_bucket
@click.option("--drop", "number", type=click.IntRange(0), help="let this one go, with its files")
def generations_command(target: Target, number: int | None) -> int:
    """List the generations of the table: which is live, which is being filled, which can be rolled
    back to.
    """
    pipelines = [target.only()] if number is not None else target.pipelines
    reports = []
    for pipeline in pipelines:
        root = root_runtime(target, pipeline)
        if number is not None:
            wait(_drop(root, number))
        found = wait(_listed(root))
        if target.as_json:
            reports.append({"pipeline": pipeline.name, "generations": found})
        else:
            _show(pipeline.name, found)
    if target.as_json:
        as_json(reports)
    return 0


def _show(name: str, found: list[dict[str, Any]]) -> None:
    click.echo(f"{name}:")
    table(HEADINGS, [(*one.values(),) for one in found], numbers=(0, 3, 4, 5, 6))


async def _drop(root: Runtime, number: int) -> None:
    passing = Pass(root.context())
    await passing.change_generations(Change(kind="drop", number=number))
    await vacuum(passing)


async def _listed(root: Runtime) -> list[dict[str, Any]]:
    known = (await root.log().load()).generations or Generations(kept=[Generation(number=0)])
    found = []
    for one in known.kept:
        state = await root.of_generation(one.number).log().load()
        found.append(
            {
                "generation": one.number,
                "state": _role(known, one),
                "begun": f"{datetime.fromtimestamp(one.created_ms / 1000, UTC):%Y-%m-%d %H:%M}"
                if one.created_ms
                else "",
                "files": state.totals.sources,
                "rows": state.totals.rows,
                "quarantined": len(state.quarantine),
                "sequence": state.sequence,
            }
        )
    return found


def _role(known: Generations, one: Generation) -> str:
    if one.number == known.live:
        return "live"
    if one.number == known.candidate:
        return "new" if one.sample is None else f"new, a sample of {one.sample:,}"
    return "previous" if one.number == known.previous else "kept"
