"""`tidemill sql`: one SELECT over committed rows, aggregates and state."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from pipeline import keys
from pipeline.cli.confined import Here, confine
from pipeline.cli.moments import At
from pipeline.cli.options import Target, on_bucket, runtime, wait
from pipeline.errors import ObjectNotFound, SettingsError, TidemillError
from sinks.guard import half_of_memory_mb

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_SHOWN = 1_000
TRIES = 5
MEMORY_MB_MIN = 256
"""A process that has loaded DuckDB and Arrow takes about 130 MB."""


@click.command("sql", epilog='Example:  tidemill sql pipeline.py "SELECT carrier, count(*) FROM flights GROUP BY 1" --format csv')
@on_bucket
@click.argument("statement", required=False)
@click.option("--format", "form", type=click.Choice(["table", "csv", "json", "parquet"]), default="table", show_default=True)
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.1), default=300.0, show_default=True, help="seconds")
@click.option(
    "--memory-mb", type=click.IntRange(min=MEMORY_MB_MIN), help="for the query's process [default: half of the machine's]"
)
@click.option("--at", type=At(), help="as it was at this commit, or time (36h, 2026-11-23T08:00), while retention keeps it")
def sql_command(  # noqa: PLR0917
    target: Target, statement: str | None, form: str, timeout_s: float, memory_mb: int | None, at: int | datetime | None
) -> int:
    """Ask in DuckDB's SQL; without STATEMENT, list the tables. Read only.

    Tables: each pipeline by its name (rows, with _source_key, _source_etag, _task), NAME__rejected, each aggregate, and the
    state: sources, outputs, commits, quarantine. A query that takes longer or more memory than it may is stopped.
    """
    if statement is None:
        click.echo("\n".join(_tables(target)))
        return 0
    memory = memory_mb or max(half_of_memory_mb(), MEMORY_MB_MIN)
    here = confine(timeout_s=timeout_s, memory_mb=memory)
    if isinstance(here, int):
        return here
    result = _answer(target, statement, here, timeout_s, memory, at)
    _print(result, "json" if target.as_json else form)
    return 0


def _answer(  # noqa: PLR0917
    target: Target, statement: str, here: Here, timeout_s: float, memory_mb: int, at: int | datetime | None
) -> pa.Table:
    from pipeline.cli.tables import open_warehouse

    runtimes = [runtime(target, p) for p in target.pipelines]
    wait(runtimes[0].store.check(keys.checkpoint_prefix(keys.home(runtimes[0].settings.name))))
    broken: Mapping[str, str] = {}
    for attempt in range(1, TRIES + 1):
        try:
            with wait(open_warehouse(runtimes, statement, at=at, memory_mb=memory_mb)) as warehouse:
                broken = warehouse.broken
                warehouse.lock()
                here.query_begins()
                result = warehouse.query(statement, timeout_s=timeout_s)
                here.query_ended()
                return result
        except ObjectNotFound as error:  # a vacuum was faster: look at the newest snapshot
            if at is not None:
                raise SettingsError(f"what was committed then is not kept any more (retention_days): {error}") from None
            if attempt == TRIES:
                raise
        except SettingsError as error:
            raise SettingsError(_with_tables(str(error), target, broken)) from None
    raise AssertionError("the last try returns or raises")


def _with_tables(message: str, target: Target, broken: Mapping[str, str]) -> str:
    """For an unknown table, the nearest right one rather than DuckDB's own guess."""
    import re

    from pipeline.errors import nearest

    unknown = re.match(r"there is no table '([^']+)'", message)
    if unknown is None:
        return message
    if unknown[1] in broken:
        return f"aggregate {unknown[1]} cannot be computed: {broken[unknown[1]]}"
    if unknown[1] in _tables(target):
        return f"table {unknown[1]} is empty: no rows are committed yet"
    return f"there is no table {unknown[1]!r}{nearest(unknown[1], _tables(target))}: queries read the pipeline's tables only"


def _tables(target: Target) -> list[str]:
    own = [t for p in target.pipelines for t in (p.name, f"{p.name}__rejected", *(a.name for a in p.aggregates))]
    return [*own, "sources", "outputs", "commits", "quarantine"]


def _print(result: pa.Table, form: str) -> None:
    from pipeline.cli.render import table

    if form == "parquet":
        if sys.stdout.isatty():
            raise TidemillError("Parquet is binary: send it to a file, with  > result.parquet")
        import pyarrow.parquet as pq

        out = io.BytesIO()
        pq.write_table(result, out, compression="zstd")
        sys.stdout.buffer.write(out.getvalue())
    elif form == "json":
        import json

        click.echo(json.dumps(result.to_pylist(), indent=1, default=_plain, ensure_ascii=False))
    elif form == "csv":
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(result.column_names)
        for batch in result.to_batches():
            writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    else:
        shown = result.slice(0, ROWS_SHOWN)
        numbers = [i for i, field in enumerate(result.schema) if _is_number(field.type)]
        table(result.column_names, [list(row.values()) for row in _rows(shown)], numbers=numbers)
        if result.num_rows > ROWS_SHOWN:
            click.echo(f"... {result.num_rows - ROWS_SHOWN:,} more rows; use --format csv for all of them")


def _plain(value: object) -> object:
    """A value that JSON has no form for: whole decimals as integers, others as floats, anything else as text."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, date):
        return value.isoformat()
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _rows(table: pa.Table) -> list[dict[int, object]]:
    """Rows by position, since a result may have two columns of one name."""
    columns = [column.to_pylist() for column in table.columns]
    return [dict(enumerate(row)) for row in zip(*columns, strict=True)]


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow.types as pt

    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind))
