"""`tidemill aggregate`: bring aggregates up to date now, compute them from scratch, or prove that
they are right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click
import msgspec

from pipeline.cli import EXIT_PROBLEMS
from pipeline.cli.options import Target, on_bucket, root_runtime, wait
from pipeline.cli.render import as_json
from pipeline.model.snapshot import Changes, Snapshot
from pipeline.passes import aggregation
from pipeline.passes.runner import Pass
from pipeline.runtime import feasibility
from pipeline.runtime.runtime import Runtime
from pipeline.sql import quoting
from pipeline.wording import count

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.declare.pipeline import Pipeline
    from pipeline.model.settings import AggregateSettings
    from sinks.query.warehouse import Warehouse

ROUNDING = 1e-9
"""Sums of floating-point numbers depend on their order: relative differences up to this are none.
"""


@dataclass(slots=True)
class Checked:
    """One aggregate beside its recomputation."""

    name: str
    groups: int
    differing: int
    late: bool
    """Its committed file is older than the rows: queries compute it."""


@click.command(
    "aggregate", epilog="Example:  tidemill aggregate flows.py --check --bucket ./bucket"
)
@on_bucket
@click.option("--full", is_flag=True, help="compute everything from scratch")
@click.option(
    "--check",
    is_flag=True,
    help="change nothing: compare what is committed with computing everything",
)
def aggregate_command(target: Target, full: bool, check: bool) -> int:
    """Bring the aggregates up to date with the committed rows and the dimensions, as every run does
    at its end.

    Exit code 1 if --check finds a group that differs.
    """
    if full and check:
        raise click.UsageError("--check changes nothing, so it goes without --full")
    for pipeline in target.pipelines:
        feasibility.declared(pipeline).require()
    reports = [one for p in target.pipelines for one in _done(target, p, full=full, check=check)]
    if target.as_json:
        as_json(reports)
    else:
        for one in reports:
            click.echo(_line(one))
    return EXIT_PROBLEMS if any(one.get("differing") for one in reports) else 0


def _done(target: Target, pipeline: Pipeline, *, full: bool, check: bool) -> list[dict[str, Any]]:
    """What is reported: of each aggregate that was checked, or of how many were computed."""
    root = root_runtime(target, pipeline)
    if check:
        return [{"pipeline": pipeline.name, **_plain(one)} for one in wait(_check(root))]
    return [{"pipeline": pipeline.name, "aggregates": wait(_bring(root, full))}]


def _plain(one: Checked) -> dict[str, Any]:
    return {
        "aggregate": one.name,
        "groups": one.groups,
        "differing": one.differing,
        "late": one.late,
    }


def _line(one: dict[str, Any]) -> str:
    if "aggregate" not in one:
        n = one["aggregates"]
        return (
            f"{one['pipeline']}: {count(n, 'aggregate')} computed"
            if n
            else f"{one['pipeline']}: aggregates are up to date"
        )
    late = " (late: queries compute it)" if one["late"] else ""
    verdict = f"{one['differing']:,} differ" if one["differing"] else "all as computed from scratch"
    return (
        f"{one['pipeline']}, {one['aggregate']}: {count(one['groups'], 'group')}, {verdict}{late}"
    )


async def _bring(root: Runtime, full: bool) -> int:
    from pipeline.runtime.aggregator import WarehouseAggregator

    opened = await root.live()
    await opened.store.check(opened.settings.source)
    passing = Pass(
        replace(
            opened.context(),
            aggregator=WarehouseAggregator(opened.store, opened.settings, from_scratch=full),
        )
    )
    await passing.open()
    if opened.settings.aggregates:
        await aggregation.aggregate(passing)
    return passing.report.aggregates


async def _check(root: Runtime) -> list[Checked]:
    from pipeline.tables.time_travel import state_at
    from sinks.query.object_files import files_of
    from sinks.query.warehouse import Warehouse

    opened, state = await state_at(await root.live())
    snapshot = state.snapshot()
    if snapshot.schema is None:
        return []
    fresh = await _computed(opened, snapshot)
    with Warehouse(files_of(opened.store)) as warehouse:
        return [
            _compared(warehouse, snapshot, aggregate, fresh[aggregate.name])
            for aggregate in opened.settings.aggregates
        ]


async def _computed(opened: Runtime, snapshot: Snapshot) -> Mapping[str, pa.Table | None]:
    """Every aggregate from scratch."""
    from sinks.aggregates.compute import AggregateRun
    from sinks.parquet.promised_columns import promised
    from sinks.query.dimensions import look_up
    from sinks.query.object_files import files_of

    rows = promised(snapshot, opened.settings)
    scratch = msgspec.structs.replace(rows, aggregates={}, changes=Changes(everything=True))
    dimensions = await look_up(opened.store, opened.settings.dimensions)
    run = AggregateRun(files_of(opened.store), scratch, opened.settings.aggregates, dimensions)
    return run.compute()


def _compared(
    warehouse: Warehouse,
    snapshot: Snapshot,
    aggregate: AggregateSettings,
    fresh: pa.Table | None,
) -> Checked:
    file, changes = snapshot.aggregates.get(aggregate.name), snapshot.changes
    groups = fresh.num_rows if fresh is not None else 0
    late = bool(changes.added or changes.gone or changes.everything)
    if file is None or late or fresh is None:
        return Checked(aggregate.name, groups, 0, late=True)
    warehouse.add_aggregate_file("committed", file)
    return Checked(aggregate.name, groups, _differing(warehouse, aggregate, fresh), late=False)


def _differing(warehouse: Warehouse, aggregate: AggregateSettings, fresh: pa.Table) -> int:
    """Groups that are not as they should be, or that only one side has."""
    warehouse.add_table("fresh", fresh)
    kinds = _kinds(warehouse)
    by = [column for column in aggregate.by if column in kinds]
    same = (
        " AND ".join(_same(column, kinds[column]) for column in kinds if column not in by) or "true"
    )
    on = " AND ".join(_exactly(column) for column in by)
    there = "c._there IS NOT NULL AND f._there IS NOT NULL"
    found = warehouse.query(
        f"SELECT count(*) FILTER (NOT ({there} AND {same})) AS n FROM (SELECT *, 1 AS _there FROM"
        f" committed) c FULL JOIN (SELECT *, 1 AS _there FROM fresh) f ON {on}"
    )
    return int(found.column(0)[0].as_py())


def _kinds(warehouse: Warehouse) -> dict[str, str]:
    """The types of the committed columns."""
    return {
        row["column_name"]: row["column_type"]
        for row in warehouse.query("DESCRIBE committed").to_pylist()
    }


def _exactly(column: str) -> str:
    return f"c.{quoting.name(column)} IS NOT DISTINCT FROM f.{quoting.name(column)}"


def _same(column: str, kind: str) -> str:
    c, f = f"c.{quoting.name(column)}", f"f.{quoting.name(column)}"
    exact = _exactly(column)
    if kind not in ("DOUBLE", "FLOAT"):
        return f"({exact})"
    return (
        f"({exact} OR coalesce(abs({c} - {f}) <= {ROUNDING} * greatest(abs({c}), abs({f})), false))"
    )
