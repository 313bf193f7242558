"""Declared checks: conditions that every row has to meet, in DuckDB's SQL.

What can be known without rows is checked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.declare.declared_names import quoted_name
from pipeline.errors import SettingsError, nearest
from pipeline.model.settings import CheckAction, CheckSettings, SchemaMode, SinkTarget, Widen
from pipeline.sql.connection import connect_without_threads
from pipeline.sql.parse_tree import objects, parse_tree
from pipeline.sql.reserved_words import quoting_hint

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

ACTIONS: dict[object, CheckAction] = {
    "quarantine": "quarantine",
    "reject": "reject",
    "warn": "warn",
}
MODES: dict[object, SchemaMode] = {"evolve": "evolve", "freeze": "freeze", "rescue": "rescue"}
WIDENINGS: dict[object, Widen] = {"none": "none", "float": "float", "string": "string"}
OWN_COLUMNS = ("_source_key", "_source_etag", "_task", "_rescued")
_OF_ROWS = "a check is about one row: no SELECT, aggregate, window or *"


def checked_mode(label: str, mode: object, widen: object) -> tuple[SchemaMode, Widen]:
    """The mode, and how types may widen: by default integers become floats in tables that evolve.

    Raises SettingsError for none of them, and where `widen` contradicts the mode.
    """
    if not isinstance(mode, str) or mode not in MODES:
        raise SettingsError(
            f'{label}: schema_mode={mode!r} is not one of "evolve", "freeze", "rescue"'
        )
    return MODES[mode], _checked_widen(label, mode, widen)


def _checked_widen(label: str, mode: str, widen: object) -> Widen:
    if widen is None:
        return "float" if mode == "evolve" else "none"
    if not isinstance(widen, str) or widen not in WIDENINGS:
        raise SettingsError(f'{label}: widen={widen!r} is not one of "none", "float", "string"')
    if mode != "evolve" and widen != "none":
        raise SettingsError(
            f"{label}: schema_mode={mode!r} never changes a column's type: leave"
            f" widen={widen!r} out"
        )
    return WIDENINGS[widen]


def checked_schema(name: str, schema: Any) -> Any:
    """The declared columns.

    Raises SettingsError for what is no schema, and for names that are Tidemill's own.
    """
    if schema is None:
        return None
    import pyarrow as pa

    if not isinstance(schema, pa.Schema):
        raise SettingsError(
            f"pipeline {name}: schema= takes a pyarrow.Schema, not {type(schema).__name__}"
        )
    own = [column for column in schema.names if column.lower() in OWN_COLUMNS]
    if own:
        raise SettingsError(
            f"pipeline {name}: schema= declares {own[0]!r}, which is Tidemill's own: rename it"
        )
    return schema


def checked_check(
    label: str,
    name: str,
    sql: object,
    action: object,
    *,
    table: str,
    timezone: str,
    declared: pa.Schema | None = None,
) -> CheckSettings:
    """The parsed declaration.

    Raises SettingsError, with one line, for what is no condition over a row of the table.
    """
    if action not in ACTIONS:
        raise SettingsError(
            f'{label}: action={action!r} is not one of "quarantine", "reject", "warn"'
        )
    if not isinstance(sql, str) or not sql.strip():
        raise SettingsError(
            f'{label}: give a condition over the columns of a row, such as "amount >= 0"'
        )
    columns = _columns_of_condition(label, sql, table, timezone, declared)
    return CheckSettings(
        name=name, sql=sql.strip(), action=ACTIONS[action], columns=columns, timezone=timezone
    )


def _columns_of_condition(
    label: str, sql: str, table: str, timezone: str, declared: pa.Schema | None
) -> tuple[str, ...]:
    import duckdb

    with connect_without_threads(timezone) as connection:
        try:
            tree = _parsed(connection, sql)
            columns = _columns(tree, table)
            _bind(connection, sql, table, columns, declared)
        except (duckdb.Error, ValueError) as error:
            text = (
                str(error)
                .partition("\n\nLINE ")[0]
                .partition("Candidate ")[0]
                .partition("\nDid you mean")[0]
            )
            raise SettingsError(f"{label}: {' '.join(text.split())}") from None
    return columns


def _parsed(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """The expression's parse tree. Raises ValueError where it is none, or more than one."""
    statement = f"SELECT (\n{sql}\n)"
    answer = parse_tree(connection, statement)
    if answer.get("error"):
        hint = quoting_hint(connection, statement)
        raise ValueError(
            f"{sql.strip()!r} is no SQL expression: {answer.get('error_message')}{hint}"
        )
    expression = _only_expression(answer["statements"])
    if expression is None:
        raise ValueError(f"{sql.strip()!r} is not one SQL expression")
    for part in objects(expression):
        if part.get("class") in ("SUBQUERY", "WINDOW", "STAR"):
            raise ValueError(f"{sql.strip()!r}: {_OF_ROWS}")
    return expression


def _only_expression(statements: list[Any]) -> Any:
    """What the only statement selects; None where there is more."""
    if len(statements) != 1:
        return None
    node = statements[0]["node"]
    selected = node.get("select_list", [])
    return selected[0] if len(selected) == 1 and "from_table" in node else None


def _columns(tree: Any, table: str) -> tuple[str, ...]:
    """Names of columns; what a lambda calls its parameters is none."""
    found: dict[str, None] = {}
    waiting: list[tuple[Any, frozenset[str]]] = [(tree, frozenset())]
    while waiting:
        part, bound = waiting.pop()
        if isinstance(part, dict) and part.get("class") == "COLUMN_REF":
            names = part["column_names"]
            if names[0].lower() not in bound:
                found[_without_table(names, table)] = None
        else:
            waiting += _inner(part, bound)
    return tuple(found)


def _without_table(names: list[str], table: str) -> str:
    return names[1] if len(names) > 1 and names[0].lower() == table else names[0]


def _inner(part: Any, bound: frozenset[str]) -> list[tuple[Any, frozenset[str]]]:
    """What a part is made of, each with the names that lambdas around it bind."""
    if isinstance(part, list):
        return [(one, bound) for one in part]
    if not isinstance(part, dict):
        return []
    if part.get("class") == "LAMBDA":
        parameters = {
            one["column_names"][0].lower()
            for one in objects(part.get("lhs"))
            if one.get("class") == "COLUMN_REF"
        }
        return [(part.get("expr"), bound | parameters)]
    return [(one, bound) for one in part.values()]


def named_columns(
    checks: Sequence[CheckSettings], order_by: Sequence[str] = (), partition_by: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Where a pipeline names columns of its rows, and which."""
    found = [(f"check {check.name}", column) for check in checks for column in check.columns]
    return (
        found
        + [("order_by", column) for column in order_by]
        + [("partition_by", column) for column in partition_by]
    )


def unknown_columns(
    named: Sequence[tuple[str, str]], columns: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Of what is named, that which no column is called: where, the name, and a suffix with the
    nearest one.
    """
    known = {column.lower() for column in columns}
    others = [column for column in columns if column not in OWN_COLUMNS]
    return [
        (where, name, nearest(name, others)) for where, name in named if name.lower() not in known
    ]


def is_none_of_them(name: str, mode: SchemaMode, close: str) -> str:
    """What is said of a column that cannot come to exist."""
    return f'the columns are fixed (schema_mode="{mode}"), and {name!r} is none of them{close}'


def refuse_unknown(
    label: str, named: Sequence[tuple[str, str]], declared: pa.Schema | None, mode: SchemaMode
) -> None:
    """Raises SettingsError where a name is no declared column, and no other can come to exist."""
    if declared is None or mode == "evolve":
        return
    own = [name for name in OWN_COLUMNS if name != "_rescued" or mode == "rescue"]
    for where, name, close in unknown_columns(named, [*declared.names, *own]):
        raise SettingsError(f"{label}, {where}: {is_none_of_them(name, mode, close)}")


def _bind(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    table: str,
    columns: tuple[str, ...],
    declared: pa.Schema | None,
) -> None:
    """Names of functions, and types where the schema declares all columns, are known before there
    are rows.
    """
    import duckdb

    known = (
        {name.lower(): declared.field(name) for name in declared.names}
        if declared is not None
        else {}
    )
    connection.register(table, _empty_table(columns, known))
    try:
        connection.execute(f'SELECT 1 FROM "{table}" WHERE (\n{sql}\n)')
    except duckdb.CatalogException:
        raise
    except duckdb.Error as error:
        if "cannot contain" in str(error):
            raise ValueError(f"{sql.strip()!r}: {_OF_ROWS}") from None
        if known and all(name.lower() in known for name in columns):
            raise  # else it may need other types than the nulls that stand for them


def _empty_table(columns: tuple[str, ...], known: Mapping[str, pa.Field]) -> pa.Table:
    """A table of these columns, of nulls where the type is not known."""
    import pyarrow as pa

    fields = [
        (
            pa.field(name, known[name.lower()].type)
            if name.lower() in known
            else pa.field(name, pa.null())
        )
        for name in columns
    ]
    return pa.schema(fields or [pa.field("_", pa.null())]).empty_table()


def checked_groups(label: str, by: object) -> dict[str, str]:
    """An aggregate's groups: from columns of its result to SQL over the rows.

    Raises SettingsError where there are none.
    """
    groups = by
    if not isinstance(by, Mapping):
        columns = [by] if isinstance(by, str) else by
        groups = {c: quoted_name(c) for c in columns} if isinstance(columns, Sequence) else {}
    if (
        not isinstance(groups, Mapping)
        or not groups
        or not all(isinstance(k, str) and isinstance(v, str) for k, v in groups.items())
    ):
        raise SettingsError(f'{label}: by= needs at least one column, for example by=["month"]')
    return dict(groups)


def check_sink(label: str, target: object, others: Mapping[str, SinkTarget]) -> None:
    """Raises SettingsError for what is no sink, or has the place of another one."""
    if isinstance(target, type) or not isinstance(target, SinkTarget):
        raise SettingsError(
            f'{label}: {target!r} is no sink; use one of `sinks`, like Delta("lake/")'
        )
    if target in others.values():
        raise SettingsError(f"{label}: another sink of this pipeline has the same place")


def checked_statement(label: str, sql: object) -> str:
    """An aggregate's SQL. Raises SettingsError where there is none."""
    if not isinstance(sql, str) or not sql.strip():
        raise SettingsError(f"{label}: sql= is empty")
    return sql
