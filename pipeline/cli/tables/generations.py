"""Generations of a table as people handle them: compare, publish, roll back, drop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli import EXIT_PROBLEMS
from pipeline.cli.options import Target, chosen, on_bucket, root_runtime, wait
from pipeline.cli.render import as_json, count, printable, table
from pipeline.errors import SettingsError
from pipeline.model.commit import Generation, Generations
from pipeline.passes.runner import Pass
from pipeline.passes.upkeep import vacuum
from pipeline.runtime.runtime import Runtime, WallClock
from pipeline.state.generations import Change
from pipeline.state.state import State
from pipeline.tables.moments import At

if TYPE_CHECKING:
    from sinks.query.table_diff import Diff


@click.command("generations", epilog="Example:  tidemill generations pipeline.py --bucket ./bucket")
@on_bucket
@click.option("--drop", "number", type=click.IntRange(0), help="let this one go, with its files")
def generations_command(target: Target, number: int | None) -> int:
    """List the generations of the table: which is live, which is being filled, which can be rolled back to."""
    pipelines = [target.only()] if number is not None else target.pipelines
    told = []
    for pipeline in pipelines:
        root = root_runtime(target, pipeline)
        if number is not None:
            wait(_drop(root, number))
        found = wait(_listed(root))
        if target.as_json:
            told.append({"pipeline": pipeline.name, "generations": found})
            continue
        click.echo(f"{pipeline.name}:")
        headings = ("generation", "state", "begun (UTC)", "files", "rows", "quarantined", "at commit")
        table(headings, [(*one.values(),) for one in found], numbers=(0, 3, 4, 5, 6))
    if target.as_json:
        as_json(told)
    return 0


async def _drop(root: Runtime, number: int) -> None:
    passing = Pass(root.parts())
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
                "begun": f"{datetime.fromtimestamp(one.created_ms / 1000, UTC):%Y-%m-%d %H:%M}" if one.created_ms else "",
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


# -- publish and rollback ------------------------------------------------------------------------------------------------


@click.command("publish", epilog="Example:  tidemill publish pipeline.py --bucket ./bucket")
@on_bucket
@click.option("--force", is_flag=True, help="also where files are missing in it, or failed that have rows now")
def publish_command(target: Target, force: bool) -> int:
    """Let readers see the new generation instead of the live one, from one commit to the next. `rollback` takes it back."""
    root = root_runtime(target, target.only())
    known = wait(_known(root))
    if known.candidate is not None:
        problems = wait(_unready(root, known, known.candidate))
        for problem in problems:
            click.echo(f"{root.settings.name}: {problem}", err=True)
        if problems and not force:
            raise SettingsError(f"generation {known.candidate} is not published (--force publishes it as it is)")
    return _swapped(target, root, "publish")


@click.command("rollback", epilog="Example:  tidemill rollback pipeline.py --bucket ./bucket")
@on_bucket
def rollback_command(target: Target) -> int:
    """Let readers see the generation again that was live before the last publish. What was uploaded since, the next run adds."""
    return _swapped(target, root_runtime(target, target.only()), "rollback")


def _swapped(target: Target, root: Runtime, kind: Any) -> int:
    now = wait(Pass(root.parts()).change_generations(Change(kind=kind)))
    live = wait(root.of_generation(now.live).log().load())
    if target.as_json:
        as_json({"pipeline": root.settings.name, "live": now.live, "previous": now.previous, "rows": live.totals.rows})
        return 0
    click.echo(
        f"{root.settings.name}: generation {now.live} is live: {count(live.totals.sources, 'file')},"
        f" {count(live.totals.rows, 'row')} (before: generation {now.previous})"
    )
    return 0


async def _known(root: Runtime) -> Generations:
    return (await root.log().load()).generations or Generations(kept=[Generation(number=0)])


async def _unready(root: Runtime, known: Generations, candidate: int) -> list[str]:
    """Why a generation is not ready to be seen: what it lacks, and what failed in it that has rows now."""
    from pipeline.runtime.plan_preview import preview

    declared = known.get(candidate)
    if declared is not None and declared.sample is not None:
        return [
            f"generation {candidate} is a sample of {declared.sample:,} files: fill it with  tidemill backfill --new-generation"
        ]
    new, live = root.of_generation(candidate), root.of_generation(known.live)
    plan = await preview(new, WallClock().now_ms())
    lacking = sum(route.new + route.changed for route in plan.routes) + plan.in_progress
    problems = []
    if lacking:
        problems.append(f"{count(lacking, 'file')} not processed in generation {candidate} yet: backfill --new-generation goes on")
    failed = await _newly_failed(new, live)
    if failed:
        problems.append(f"{count(len(failed), 'file')} failed in it that have rows now, such as {printable(failed[0])}")
    return problems


async def _newly_failed(new: Runtime, live: Runtime) -> list[str]:
    quarantine = (await new.log().load()).quarantine
    log = live.log()
    state = await log.load()
    await log.look_up(state, list(quarantine))
    entries = {key: state.entry(key) for key in quarantine}
    return sorted(key for key, entry in entries.items() if entry is not None and entry.etag == quarantine[key].etag)


# -- diff ----------------------------------------------------------------------------------------------------------------


@click.command("diff", epilog="Example:  tidemill diff pipeline.py live new --bucket ./bucket")
@on_bucket
@click.argument("before", default="live")
@click.argument("after", default="new")
@click.option("--key", "key", multiple=True, metavar="COLUMN", help="what tells a row from others (several for compound keys)")
@click.option("--examples", type=click.IntRange(0, 20), default=5, show_default=True, help="differing rows to show")
def diff_command(target: Target, before: str, after: str, key: tuple[str, ...], examples: int) -> int:
    """Say what differs between two states of the table: columns, rows, and aggregates side by side.

    BEFORE and AFTER are each a generation (live, new, previous, or g0, g1, ...), a commit's number (g1:7 is generation 1's), or a
    time. Compared are the rows of sources that both have at the same version. Exit code 1 if anything differs.
    """
    from sinks.parquet.promised_columns import promised
    from sinks.query.dimensions import look_up
    from sinks.query.object_files import files_of
    from sinks.query.table_diff import Differ

    root = root_runtime(target, target.only())
    states = [wait(_state_of(root, text)) for text in (before, after)]
    dimensions = wait(look_up(root.store, root.settings.dimensions))
    sides = [promised(state.snapshot(), root.settings) for state in states]
    with Differ(files_of(root.store), sides[0], sides[1], dimensions, timezone=root.settings.timezone) as differ:
        found = differ.compare(root.settings.aggregates, key=key, examples=examples)
    if target.as_json:
        as_json({"pipeline": root.settings.name, "before": before, "after": after, **asdict(found)})
    else:
        _show(root.settings.name, before, after, found)
    return 0 if found.is_same else EXIT_PROBLEMS


async def _state_of(root: Runtime, text: str) -> State:
    from pipeline.tables.time_travel import state_at

    is_number = text.startswith("g") and text[1:].isdigit()
    if is_number or text in ("live", "new", "previous"):
        one = await chosen(root, text.removeprefix("g") if is_number else text)
        return (await state_at(one))[1]
    return (await state_at(await chosen(root, "live"), At().convert(text, None, None)))[1]


def _show(name: str, before: str, after: str, found: Diff) -> None:
    elsewhere = f" ({found.sources_elsewhere:,} more are on one side only or at other versions)" if found.sources_elsewhere else ""
    click.echo(f"{name}: {before} to {after}, {count(found.sources, 'file')} compared{elsewhere}")
    if found.is_same:
        click.echo(f"  no difference in {count(found.rows_after, 'row')}")
        return
    for column, kind in found.columns_added.items():
        click.echo(f"  column {printable(column)} {kind}: added")
    for column, kind in found.columns_gone.items():
        click.echo(f"  column {printable(column)} {kind}: gone")
    for column, (was, now) in found.types_changed.items():
        click.echo(f"  column {printable(column)}: {was} became {now}")
    click.echo(
        f"  rows: {found.rows_before:,} before, {found.rows_after:,} after;"
        f" {found.added:,} added, {found.gone:,} gone, {found.changed:,} changed, in {count(found.sources_changed, 'file')}"
    )
    for column, n in found.values_changed.items():
        click.echo(f"    {printable(column)}: {count(n, 'value')} changed")
    if found.examples:
        _rows(found.examples)
    for aggregate in found.aggregates:
        if aggregate.problem:
            click.echo(f"  aggregate {aggregate.name} cannot be compared, {aggregate.problem}")
            continue
        click.echo(f"  aggregate {aggregate.name}: {aggregate.differing:,} of {count(aggregate.groups, 'group')} differ")
        if aggregate.examples:
            _rows(aggregate.examples)


def _rows(rows: Sequence[dict[str, Any]]) -> None:
    numbers = [i for i, value in enumerate(rows[0].values()) if isinstance(value, int | float | Decimal)]
    table(list(rows[0]), [list(row.values()) for row in rows], numbers=numbers)
