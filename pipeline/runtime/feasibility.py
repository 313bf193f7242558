"""What cannot work, said before anything runs: names of columns that cannot come to exist, and
aggregates that cannot be computed.

Where a table's columns are fixed (frozen or rescued, declared or committed) a name that is none of
them is refused. Where they may still grow it is a warning: a later file may bring the column. An
aggregate whose definition was computed before is not looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.declare.pipeline import Pipeline
from pipeline.declare.table_options import (
    OWN_COLUMNS,
    is_none_of_them,
    named_columns,
    unknown_columns,
)
from pipeline.errors import InputRejected, SettingsError
from pipeline.model.events import Listener, Remark
from pipeline.model.snapshot import Changes, Snapshot
from pipeline.runtime.runtime import Runtime
from pipeline.state.generations import filled
from pipeline.state.state import State

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from pipeline.model.settings import AggregateSettings
    from sinks.query.dimensions import Dimension
    from sinks.query.warehouse import Warehouse

AGGREGATES_AFTER_S = 5.0
"""How long passes go on after the first rows before it is said that an aggregate cannot be computed
over them.
"""


@dataclass(slots=True)
class Foreseen:
    """One line each."""

    refused: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def require(self) -> None:
        """Raises SettingsError where something is refused."""
        if self.refused:
            raise SettingsError("; ".join(self.refused))


def is_needed(pipeline: Pipeline) -> bool:
    """Whether the pipeline declares anything that could be wrong."""
    names = pipeline.checks or pipeline.aggregates or pipeline.order_by or pipeline.partition_by
    return bool(names) or pipeline.schema is not None


async def filled_state(runtime: Runtime, state: State) -> tuple[Runtime, State]:
    """The generation whose columns count for what a run of this code commits: `state` is the first
    one's.
    """
    number = filled(state.generations, runtime.settings.versions)[0]
    if number == runtime.settings.generation:
        return runtime, state
    one = runtime.of_generation(number)
    return one, await one.log().load()


async def foresee(runtime: Runtime, state: State) -> Foreseen:
    """What the declarations and this state say of what is to be committed."""
    runtime, state = await filled_state(runtime, state)
    found = of_columns(runtime.pipeline, state.schema)
    found.refused += of_schema(runtime.pipeline)
    if not runtime.settings.aggregates:
        return found
    dimensions = await _dimensions(runtime, found)
    if dimensions is not None and _are_computed(runtime, state, dimensions):
        return found
    found.refused += unparsed(runtime.pipeline)
    if dimensions is not None and not found.refused:
        _of_aggregates(runtime, state, dimensions, found)
    return found


def declared(pipeline: Pipeline) -> Foreseen:
    """What the declarations alone say."""
    found = of_columns(pipeline, None)
    found.refused += of_schema(pipeline) + unparsed(pipeline)
    return found


async def foreseen(root: Runtime) -> Foreseen:
    """The same for a pipeline on its bucket, from its first generation's runtime."""
    if not is_needed(root.pipeline):
        return Foreseen()
    return await foresee(root, await root.of_generation(0).log().load())


# -- columns ---------------------------------------------------------------------------------------


def of_columns(pipeline: Pipeline, committed: str | None) -> Foreseen:
    """Names in checks, order_by and partition_by that no column has. Pure."""
    found, columns = Foreseen(), columns_of(pipeline, committed)
    if columns is None:
        return found
    named = named_columns(pipeline.checks, pipeline.order_by, pipeline.partition_by)
    for where, name, close in unknown_columns(named, columns):
        label = f"pipeline {pipeline.name}, {where}"
        if is_fixed(pipeline, committed):
            found.refused.append(f"{label}: {is_none_of_them(name, pipeline.schema_mode, close)}")
        elif committed is not None:
            found.warnings.append(f"{label}: {_idle(where)} a column {name!r}{close}")
    return found


def _idle(where: str) -> str:
    is_check = where.startswith("check")
    return "nothing is checked until a file brings" if is_check else "no file has brought"


def of_schema(pipeline: Pipeline) -> list[str]:
    """What no table, or no partition, can have of the columns that `schema=` declares: every file
    would be set aside for it.
    """
    if pipeline.schema is None:
        return []
    from sinks.parquet.partitions import why_not
    from sinks.values.schema import checked

    try:
        plain = checked(pipeline.schema)
    except InputRejected as error:
        return [f"pipeline {pipeline.name}, schema=: {error}"]
    declared = [column for column in pipeline.partition_by if column in plain.names]
    refused = [(column, why_not(column, plain.field(column).type)) for column in declared]
    return [
        f"pipeline {pipeline.name}, partition_by={column!r}: {reason}"
        for column, reason in refused
        if reason
    ]


def is_fixed(pipeline: Pipeline, committed: str | None) -> bool:
    """Whether no column can be added any more."""
    return pipeline.schema_mode != "evolve" and (
        committed is not None or pipeline.schema is not None
    )


def columns_of(pipeline: Pipeline, committed: str | None) -> list[str] | None:
    """The columns that the table has or is declared to have; None where nothing is known."""
    from sinks.values.schema import decode

    if committed is None and pipeline.schema is None:
        return None
    names = [
        *(decode(committed).names if committed is not None else ()),
        *(pipeline.schema.names if pipeline.schema else ()),
    ]
    own = [name for name in OWN_COLUMNS if name != "_rescued" or pipeline.schema_mode == "rescue"]
    return list(dict.fromkeys([*names, *own]))


# -- aggregates ------------------------------------------------------------------------------------


def unparsed(pipeline: Pipeline) -> list[str]:
    """Aggregates whose SQL is no SELECT, whatever the columns: one line each."""
    return [
        f"aggregate {name} of {pipeline.name}: {reason}" for name, reason in _unparsed(pipeline)
    ]


def _unparsed(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    if not pipeline.aggregates:
        return
    from pipeline.sql.connection import connect_without_threads

    with connect_without_threads() as connection:
        for aggregate in pipeline.aggregates:
            why = _why_unparsed(connection, aggregate)
            if why:
                yield aggregate.name, why


def _why_unparsed(connection: duckdb.DuckDBPyConnection, aggregate: AggregateSettings) -> str:
    import duckdb

    from pipeline.sql.parse_tree import parse_tree
    from pipeline.sql.reserved_words import quoting_hint
    from sinks.aggregates.declared_sql import why_not

    statement = aggregate.sql.strip().rstrip(";")
    try:
        reason = why_not(parse_tree(connection, statement), aggregate)
        if not reason:
            wrong = [by for by in aggregate.by.values() if not _is_expression(connection, by)]
            return f"by= has {wrong[0]!r}, which is no SQL expression" if wrong else ""
    except (duckdb.Error, UnicodeError) as error:
        reason = " ".join(str(error).partition("\n\nLINE ")[0].split())
    return reason + quoting_hint(connection, statement) if reason else ""


def _is_expression(connection: duckdb.DuckDBPyConnection, text: str) -> bool:
    from pipeline.sql.parse_tree import parse_tree

    tree = parse_tree(connection, f"SELECT (\n{text}\n)")
    return not tree.get("error") and len(tree.get("statements", ())) == 1


async def _dimensions(runtime: Runtime, found: Foreseen) -> Sequence[Dimension] | None:
    from sinks.query.dimensions import look_up

    try:
        return await look_up(runtime.store, runtime.settings.dimensions)
    except SettingsError as error:
        found.warnings.append(
            f"pipeline {runtime.settings.name}: {error}; aggregates that need it cannot be computed"
        )
        return None


def _are_computed(runtime: Runtime, state: State, dimensions: Sequence[Dimension]) -> bool:
    """Whether each aggregate was computed before as it is declared now: then it can be."""
    from sinks.aggregates.compute import definitions

    wanted = definitions(
        runtime.settings.aggregates, {dimension.name: dimension.version for dimension in dimensions}
    )
    return all(
        name in state.aggregates and state.aggregates[name].definition == wanted[name]
        for name in wanted
    )


def _of_aggregates(
    runtime: Runtime, state: State, dimensions: Sequence[Dimension], found: Foreseen
) -> None:
    """Binds them to the columns that are known."""
    pipeline = runtime.pipeline
    schema = known_schema(pipeline, state.schema)
    if schema is None:
        return
    for name, reason in unbound(runtime, schema, dimensions):
        if is_fixed(pipeline, state.schema):
            found.refused.append(
                f"aggregate {name} of {pipeline.name} cannot be computed: {reason}"
            )
        else:
            found.warnings.append(warning(pipeline.name, name, reason))


def warning(pipeline: str, aggregate: str, reason: str) -> str:
    """What is said where a later file may still bring what an aggregate needs."""
    return (
        f"aggregate {aggregate} of {pipeline} cannot be computed: {reason}; the rows are committed"
        " all the same"
    )


def _bound(warehouse: Warehouse, name: str, aggregate: AggregateSettings) -> pa.Table:
    table = warehouse.query(f"SELECT * FROM ({aggregate.sql.strip().rstrip(';')}) LIMIT 0")
    for expression in aggregate.by.values():
        warehouse.query(f"SELECT ({expression}) FROM {name} LIMIT 0")
    lacking = [column for column in aggregate.by if column not in table.column_names]
    if lacking:
        raise SettingsError(
            f"by={lacking[0]!r} is not a column of its result ({', '.join(table.column_names)})"
        )
    return table


def known_schema(pipeline: Pipeline, committed: str | None) -> str | None:
    """The columns to bind an aggregate to; None where files may bring others first."""
    from sinks.values.schema import encode

    if committed is not None:
        return committed
    return (
        encode(pipeline.schema)
        if pipeline.schema is not None and is_fixed(pipeline, None)
        else None
    )


def unbound(
    runtime: Runtime, schema: str, dimensions: Sequence[Dimension] = ()
) -> list[tuple[str, str]]:
    """Aggregates that cannot be computed over a table of these columns, each with the reason.

    Reads no rows.
    """
    from sinks.parquet.promised_columns import promised
    from sinks.query.object_files import files_of
    from sinks.query.warehouse import Warehouse

    settings, found = runtime.settings, list[tuple[str, str]]()
    empty = _without_rows(settings.name, schema)
    with Warehouse(files_of(runtime.store)) as warehouse:
        warehouse.add_snapshot(promised(empty, settings))
        try:
            warehouse.add_dimensions(dimensions)
        except SettingsError as error:
            return [(aggregate.name, str(error)) for aggregate in settings.aggregates]
        for aggregate in settings.aggregates:
            try:
                table = _bound(warehouse, settings.name, aggregate)
                warehouse.add_table(aggregate.name, table)
            except SettingsError as error:
                found.append((aggregate.name, str(error)))
    return found


class Foresight:
    """Looks ahead for passes, and warns of each thing once. detached: aggregates are others' work.

    What could not be known before the first rows is looked at when they come: names in checks, and
    where passes go on, aggregates.
    """

    def __init__(self, listener: Listener, *, detached: bool) -> None:
        self._listener = listener
        self._detached = detached
        self._said: set[str] = set()
        self._trials: dict[str, asyncio.TimerHandle] = {}
        """When aggregates are tried over columns that came meanwhile."""

    def is_needed(self, runtime: Runtime) -> bool:
        """See `is_needed`."""
        return is_needed(runtime.pipeline)

    async def foresee(self, runtime: Runtime, state: State) -> None:
        """Raises SettingsError for what cannot work over this state."""
        found = await foresee(runtime, state)
        found.require()
        for line in found.warnings:
            self._warn(line)

    def columns_came(self, runtime: Runtime, schema: str) -> None:
        """A commit changed the table's columns."""
        if not is_needed(runtime.pipeline):
            return
        found, settings = of_columns(runtime.pipeline, schema), runtime.settings
        for line in (*found.refused, *found.warnings):
            self._warn(line)
        if settings.aggregates and not settings.dimensions and not self._detached:
            before = self._trials.pop(runtime.label, None)
            if before is not None:
                before.cancel()  # the columns changed again
            later = asyncio.get_running_loop().call_later(
                AGGREGATES_AFTER_S, self._try_aggregates, runtime, schema
            )
            self._trials[runtime.label] = later

    def _try_aggregates(self, runtime: Runtime, schema: str) -> None:
        def bind() -> None:
            for name, reason in unbound(runtime, schema):
                self._warn(warning(runtime.settings.name, name, reason))

        asyncio.get_running_loop().run_in_executor(None, bind)

    def _warn(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._listener(Remark(text=text, warning=True))


def _without_rows(pipeline: str, schema: str) -> Snapshot:
    return Snapshot(
        pipeline=pipeline,
        sequence=0,
        schema=schema,
        outputs={},
        removed={},
        aggregates={},
        changes=Changes(),
        quarantine={},
    )
