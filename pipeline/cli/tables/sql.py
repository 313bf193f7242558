"""`tidemill sql`: one SELECT over committed rows, aggregates and state."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import Target, on_bucket, runtime, wait
from pipeline.cli.parameter_types import At
from pipeline.cli.render import as_json
from pipeline.cli.tables.result_formats import FORMATS, carrier, cut_off, refuse_terminal, writer
from pipeline.cli.tables.sql_process import Here, confine
from pipeline.errors import ObjectNotFound, SettingsError
from pipeline.model import keys
from pipeline.tables.points_in_time import When
from sinks.query.query_limits import half_of_memory_mb

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.runtime.runtime import Runtime
    from sinks.query.warehouse import Warehouse

TRIES = 5
MEMORY_MB_MIN = 256
"""A process that has loaded DuckDB and Arrow takes about 130 MB."""


class SqlCommand(click.Command):
    """STATEMENT may begin with a comment: what has a space after two hyphens is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(
            ctx, [f"\n{one}" if re.match(r"--\s|--.*\n", one) else one for one in args]
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """One query, and how it is answered."""

    statement: str
    form: str
    null: str
    timeout_s: float
    memory_mb: int
    at: When | None


@click.command(
    "sql",
    cls=SqlCommand,
    epilog=(
        'Example:  tidemill sql flows.py "SELECT carrier, count(*) FROM flights GROUP BY 1"'
        " --format csv"
    ),
)
@on_bucket
@click.argument("statement", required=False)
@click.option(
    "--file",
    "script",
    type=click.Path(),
    help="read the statement from this file; - is standard input",
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option(
    "--null",
    metavar="TEXT",
    help="csv: what NULL is [default: nothing, and empty text is in quotes]",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1),
    default=300.0,
    show_default=True,
    help="seconds",
)
@click.option(
    "--memory-mb",
    type=click.IntRange(min=MEMORY_MB_MIN),
    help="for the query's process [default: half of the machine's]",
)
@click.option(
    "--at",
    type=At(),
    help="as it was at this commit (g1:7: of generation 1), or time (36h, 2026-11-23T08:00)",
)
def sql_command(  # noqa: PLR0917
    target: Target,
    statement: str | None,
    script: str | None,
    form: str,
    null: str | None,
    timeout_s: float,
    memory_mb: int | None,
    at: When | None,
) -> int:
    """Ask in DuckDB's SQL; STATEMENT may be - for standard input.

    Without one, list the tables. Read only.

    Tables: each pipeline by its name, NAME__rejected, each aggregate, and the state: sources,
    outputs, commits, quarantine. A * leaves out _source_key, _source_etag and _task, which are
    there by name: SELECT *, _source_key. A query that takes longer or more memory than it may is
    stopped; its result may be of any size. parquet is a file, arrow a stream of record batches
    (IPC), both for other programs.
    """
    form = "json" if target.as_json else form
    wanted = read_statement(statement, script)
    if wanted is None:
        _list_tables(target, form)
        return 0
    _check_options(form, null, timeout_s)
    memory = memory_mb or max(half_of_memory_mb(), MEMORY_MB_MIN)
    try:
        here = confine(timeout_s=timeout_s, memory_mb=memory)
    except SettingsError:  # in the parent, of a child that was stopped
        cut_off(form)
        raise
    if isinstance(here, int):
        return here
    _answer(target, Asked(wanted, form, null or "", timeout_s, memory, at), here)
    return 0


def _check_options(form: str, null: str | None, timeout_s: float) -> None:
    if math.isnan(timeout_s):
        raise click.UsageError("--timeout nan is no number of seconds")
    if null is not None and form != "csv":
        raise click.UsageError("--null goes with --format csv")
    refuse_terminal(form)


def read_statement(statement: str | None, script: str | None) -> str | None:
    """The text to ask, from wherever it is; None where nothing was given."""
    if statement is not None and script is not None:
        raise click.UsageError("give STATEMENT or --file, not both")
    source = "-" if statement is not None and statement.strip() == "-" else script
    return statement if source is None else _read(source)


def _read(source: str) -> str:
    try:
        body = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return body.decode("utf-8-sig")
    except OSError as error:
        raise click.UsageError(f"--file {source}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise click.UsageError(
            f"{'standard input' if source == '-' else source} is not UTF-8 text"
        ) from None


def _list_tables(target: Target, form: str) -> None:
    tables = _tables(target)
    if form == "json":
        as_json(
            [
                {"table": name, "pipeline": pipeline, "kind": kind}
                for name, (pipeline, kind) in tables.items()
            ]
        )
    else:
        click.echo("\n".join(tables))


def _opened(target: Target) -> list[Runtime]:
    """FILE's pipelines, on a bucket that can be read."""
    runtimes = [runtime(target, p) for p in target.pipelines]
    wait(runtimes[0].store.check(keys.checkpoint_prefix(keys.home(runtimes[0].settings.name))))
    return runtimes


def _answer(target: Target, asked: Asked, here: Here) -> None:
    runtimes = _opened(target)
    answer = Answer(asked, here)
    for attempt in range(1, TRIES + 1):
        try:
            answer.attempt(runtimes)
        except ObjectNotFound as error:
            # a vacuum was faster: look at the newest snapshot, unless rows of this one are out
            # already
            if asked.at is not None:
                raise SettingsError(
                    f"what was committed then is not kept any more (retention_days): {error}"
                ) from None
            if answer.begun or attempt == TRIES:
                raise
        except SettingsError as error:
            raise SettingsError(_with_tables(str(error), target, answer.broken)) from None
        else:
            return


class Answer:
    """One query's answer. `begun`: some of it may be printed, so that no other attempt can
    follow. `broken`: tables of the last attempt that cannot be read, and why.
    """

    def __init__(self, asked: Asked, here: Here) -> None:
        self._asked, self._here = asked, here
        self._write = writer(asked.form, asked.null)
        self.begun: bool = False
        self.broken: Mapping[str, str] = {}

    def attempt(self, runtimes: Sequence[Runtime]) -> None:
        """Print it, on the newest snapshot."""
        from pipeline.tables.views import open_warehouse

        asked = self._asked
        with wait(
            open_warehouse(runtimes, asked.statement, at=asked.at, memory_mb=asked.memory_mb)
        ) as warehouse:
            self.broken = warehouse.broken
            warehouse.lock()
            self._here.query_begins()
            self._let_any_column_be(warehouse, [one.pipeline.name for one in runtimes])
            self._print(warehouse)

    def _let_any_column_be(self, warehouse: Warehouse, names: Sequence[str]) -> None:
        from pipeline.tables.empty_table import let_any_column_be

        asked = self._asked
        for name in let_any_column_be(warehouse, names, asked.statement, timeout_s=asked.timeout_s):
            click.echo(f"tidemill: table {name} has no rows yet, and any column", err=True)

    def _print(self, warehouse: Warehouse) -> None:
        asked, here = self._asked, self._here
        query = warehouse.open_query(
            asked.statement,
            timeout_s=asked.timeout_s,
            carrier=carrier(asked.form),
            provenance=False,
        )
        with _hinted(warehouse, asked.statement), query as result:
            first = next(result, None)
            here.query_ended()
            self.begun = True
            self._write(result, _timed(here, first, result))


@contextmanager
def _hinted(warehouse: Warehouse, statement: str) -> Iterator[None]:
    """Where a statement cannot be parsed since a column is called like a word of SQL, the error
    says so.
    """
    try:
        yield
    except SettingsError as error:
        if not str(error).startswith("Parser Error"):
            raise
        from pipeline.sql.reserved_words import quoting_hint

        rows = warehouse.connection.execute(
            "SELECT DISTINCT column_name FROM duckdb_columns() WHERE NOT internal"
        ).fetchall()
        names = [*warehouse.tables, *(row[0] for row in rows)]
        raise SettingsError(
            f"{error}{quoting_hint(warehouse.connection, statement, names)}"
        ) from None


def _timed(
    here: Here, first: pa.RecordBatch | None, rest: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """The batches; the time counts while one is waited for, and not while somebody reads what was
    printed.
    """
    batch = first
    while batch is not None:
        yield batch
        here.query_begins()
        batch = next(rest, None)
        here.query_ended()


def _with_tables(message: str, target: Target, broken: Mapping[str, str]) -> str:
    """For an unknown table, the nearest right one rather than DuckDB's own guess."""
    from pipeline.errors import nearest

    unknown = re.match(r"there is no table '([^']+)'", message)
    if unknown is None:
        return message
    if unknown[1] in broken:
        return f"aggregate {unknown[1]} cannot be computed: {broken[unknown[1]]}"
    if unknown[1] in _tables(target):
        return f"table {unknown[1]} is empty: no rows are committed yet"
    return (
        f"there is no table {unknown[1]!r}{nearest(unknown[1], [*_tables(target)])}: queries read"
        " the pipeline's tables only"
    )


def _tables(target: Target) -> dict[str, tuple[str | None, str]]:
    """By name: whose it is, and what it has."""
    found: dict[str, tuple[str | None, str]] = {}
    for p in target.pipelines:
        found |= {p.name: (p.name, "rows"), f"{p.name}__rejected": (p.name, "rejected")}
        found |= {aggregate.name: (p.name, "aggregate") for aggregate in p.aggregates}
        found |= {dimension.name: (p.name, "dimension") for dimension in p.dimensions}
    return found | dict.fromkeys(("sources", "outputs", "commits", "quarantine"), (None, "state"))
