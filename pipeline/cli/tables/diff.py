"""`tidemill diff`: what differs between two generations, commits or times of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli import EXIT_PROBLEMS
from pipeline.cli.options import Target, chosen, on_bucket, root_runtime, wait
from pipeline.cli.parameter_types import At
from pipeline.cli.render import as_json, table
from pipeline.runtime.runtime import Runtime
from pipeline.state.state import State
from pipeline.wording import count, printable

if TYPE_CHECKING:
    from sinks.query.table_diff import AggregateDiff, Diff


@click.command("diff", epilog="Example:  tidemill diff flows.py live new --bucket ./bucket")
@on_bucket
@click.argument("before", default="live")
@click.argument("after", default="new")
@click.option(
    "--key",
    "key",
    multiple=True,
    metavar="COLUMN",
    help="what tells a row from others (several for compound keys)",
)
@click.option(
    "--examples",
    type=click.IntRange(0, 20),
    default=5,
    show_default=True,
    help="differing rows to show",
)
def diff_command(
    target: Target, before: str, after: str, key: tuple[str, ...], examples: int
) -> int:
    """Say what differs between two states of the table: columns, rows, and aggregates side by side.

    BEFORE and AFTER are each a generation (live, new, previous, or g0, g1, ...), a commit's number
    (g1:7 is generation 1's), or a time. Compared are the rows of sources that both have at the same
    version. Exit code 1 if anything differs.
    """
    root = root_runtime(target, target.only())
    states = [wait(_state_of(root, text)) for text in (before, after)]
    found = _compared(root, states, key, examples)
    if target.as_json:
        as_json({"pipeline": root.settings.name, "before": before, "after": after, **asdict(found)})
    else:
        _show(root.settings.name, before, after, found)
    return 0 if found.is_same else EXIT_PROBLEMS


def _compared(root: Runtime, states: Sequence[State], key: Sequence[str], examples: int) -> Diff:
    from sinks.parquet.promised_columns import promised
    from sinks.query.dimensions import look_up
    from sinks.query.object_files import files_of
    from sinks.query.table_diff import Differ

    dimensions = wait(look_up(root.store, root.settings.dimensions))
    before, after = [promised(state.snapshot(), root.settings) for state in states]
    with Differ(
        files_of(root.store), before, after, dimensions, timezone=root.settings.timezone
    ) as differ:
        return differ.compare(root.settings.aggregates, key=key, examples=examples)


def _show(name: str, before: str, after: str, found: Diff) -> None:
    elsewhere = (
        f" ({found.sources_elsewhere:,} more are on one side only or at other versions)"
        if found.sources_elsewhere
        else ""
    )
    click.echo(f"{name}: {before} to {after}, {count(found.sources, 'file')} compared{elsewhere}")
    if found.is_same:
        click.echo(f"  no difference in {count(found.rows_after, 'row')}")
        return
    _show_columns(found)
    _show_rows(found)
    for aggregate in found.aggregates:
        _show_aggregate(aggregate)


def _show_columns(found: Diff) -> None:
    for column, kind in found.columns_added.items():
        click.echo(f"  column {printable(column)} {kind}: added")
    for column, kind in found.columns_gone.items():
        click.echo(f"  column {printable(column)} {kind}: gone")
    for column, (was, now) in found.types_changed.items():
        click.echo(f"  column {printable(column)}: {was} became {now}")


def _show_rows(found: Diff) -> None:
    click.echo(
        f"  rows: {found.rows_before:,} before, {found.rows_after:,} after; {found.added:,} added,"
        f" {found.gone:,} gone, {found.changed:,} changed, in"
        f" {count(found.sources_changed, 'file')}"
    )
    for column, n in found.values_changed.items():
        click.echo(f"    {printable(column)}: {count(n, 'value')} changed")
    if found.examples:
        _rows(found.examples)


def _show_aggregate(aggregate: AggregateDiff) -> None:
    if aggregate.problem:
        click.echo(f"  aggregate {aggregate.name} cannot be compared, {aggregate.problem}")
        return
    click.echo(
        f"  aggregate {aggregate.name}: {aggregate.differing:,} of"
        f" {count(aggregate.groups, 'group')} differ"
    )
    if aggregate.examples:
        _rows(aggregate.examples)


def _rows(rows: Sequence[dict[str, Any]]) -> None:
    numbers = [
        i for i, value in enumerate(rows[0].values()) if isinstance(value, int | float | Decimal)
    ]
    table(list(rows[0]), [list(row.values()) for row in rows], numbers=numbers)


async def _state_of(root: Runtime, text: str) -> State:
    from pipeline.tables.time_travel import state_at

    is_number = text.startswith("g") and text[1:].isdigit()
    if is_number or text in ("live", "new", "previous"):
        one = await chosen(root, text.removeprefix("g") if is_number else text)
        return (await state_at(one))[1]
    return (await state_at(await chosen(root, "live"), At().convert(text, None, None)))[1]
