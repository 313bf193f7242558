"""Declared checks: conditions that every row has to meet, in DuckDB's SQL. What can be known without rows is checked here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.databases import connect_without_threads
from pipeline.errors import SettingsError
from pipeline.parse_trees import objects, parse_tree
from pipeline.settings import CheckAction, CheckSettings, SchemaMode, Widen

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

ACTIONS: dict[object, CheckAction] = {"quarantine": "quarantine", "reject": "reject", "warn": "warn"}
MODES: dict[object, SchemaMode] = {"evolve": "evolve", "freeze": "freeze", "rescue": "rescue"}
WIDENINGS: dict[object, Widen] = {"none": "none", "float": "float", "string": "string"}
OWN_COLUMNS = ("_source_key", "_source_etag", "_task", "_rescued")
_OF_ROWS = "a check is about one row: no SELECT, aggregate, window or *"


def checked_mode(label: str, mode: object, widen: object) -> tuple[SchemaMode, Widen]:
    """The mode, and how types may widen: by default integers become floats in tables that evolve.

    Raises SettingsError for none of them, and where `widen` contradicts the mode.
    """
    if not isinstance(mode, str) or mode not in MODES:
        raise SettingsError(f'{label}: schema_mode={mode!r} is not one of "evolve", "freeze", "rescue"')
    if widen is None:
        return MODES[mode], "float" if mode == "evolve" else "none"
    if not isinstance(widen, str) or widen not in WIDENINGS:
        raise SettingsError(f'{label}: widen={widen!r} is not one of "none", "float", "string"')
    if mode != "evolve" and widen != "none":
        raise SettingsError(f"{label}: schema_mode={mode!r} never changes a column's type: leave widen={widen!r} out")
    return MODES[mode], WIDENINGS[widen]


def checked_schema(name: str, schema: Any) -> Any:
    """The declared columns. Raises SettingsError for what is no schema, and for names that are Tidemill's own."""
    if schema is None:
        return None
    import pyarrow as pa

    if not isinstance(schema, pa.Schema):
        raise SettingsError(f"pipeline {name}: schema= takes a pyarrow.Schema, not {type(schema).__name__}")
    own = [column for column in schema.names if column.lower() in OWN_COLUMNS]
    if own:
        raise SettingsError(f"pipeline {name}: schema= declares {own[0]!r}, which is Tidemill's own: rename it")
    return schema


def checked_check(
    label: str, name: str, sql: object, action: object, *, table: str, timezone: str, declared: pa.Schema | None = None
) -> CheckSettings:
    """The parsed declaration. Raises SettingsError, with one line, for what is no condition over a row of the table."""
    if action not in ACTIONS:
        raise SettingsError(f'{label}: action={action!r} is not one of "quarantine", "reject", "warn"')
    if not isinstance(sql, str) or not sql.strip():
        raise SettingsError(f'{label}: give a condition over the columns of a row, such as "amount >= 0"')
    import duckdb

    with connect_without_threads(timezone) as connection:
        try:
            tree = _parsed(connection, sql)
            columns = _columns(tree, table)
            _bind(connection, sql, table, columns, declared)
        except (duckdb.Error, ValueError) as error:
            text = str(error).partition("\n\nLINE ")[0].partition("Candidate ")[0].partition("\nDid you mean")[0]
            raise SettingsError(f"{label}: {' '.join(text.split())}") from None
    return CheckSettings(name=name, sql=sql.strip(), action=ACTIONS[action], columns=columns, timezone=timezone)


def _parsed(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """The expression's parse tree. Raises ValueError where it is none, or more than one."""
    answer = parse_tree(connection, f"SELECT (\n{sql}\n)")
    if answer.get("error"):
        raise ValueError(f"{sql.strip()!r} is no SQL expression: {answer.get('error_message')}")
    selected = answer["statements"][0]["node"].get("select_list", []) if len(answer["statements"]) == 1 else []
    if len(selected) != 1 or "from_table" not in answer["statements"][0]["node"]:
        raise ValueError(f"{sql.strip()!r} is not one SQL expression")
    for part in objects(selected):
        if part.get("class") in ("SUBQUERY", "WINDOW", "STAR"):
            raise ValueError(f"{sql.strip()!r}: {_OF_ROWS}")
    return selected[0]


def _columns(tree: Any, table: str) -> tuple[str, ...]:
    found = []
    for part in objects(tree):
        if part.get("class") == "COLUMN_REF":
            names = part["column_names"]
            found.append(names[1] if len(names) > 1 and names[0].lower() == table else names[0])
    return tuple(dict.fromkeys(found))


def _bind(
    connection: duckdb.DuckDBPyConnection, sql: str, table: str, columns: tuple[str, ...], declared: pa.Schema | None
) -> None:
    """Names of functions, and types where the schema declares all columns, are known before there are rows."""
    import duckdb
    import pyarrow as pa

    known = {name.lower(): declared.field(name) for name in declared.names} if declared is not None else {}
    fields = [pa.field(name, known[name.lower()].type) if name.lower() in known else pa.field(name, pa.null()) for name in columns]
    connection.register(table, pa.schema(fields or [pa.field("_", pa.null())]).empty_table())
    try:
        connection.execute(f'SELECT 1 FROM "{table}" WHERE (\n{sql}\n)')
    except duckdb.CatalogException:
        raise
    except duckdb.Error as error:
        if "cannot contain" in str(error):
            raise ValueError(f"{sql.strip()!r}: {_OF_ROWS}") from None
        if known and all(name.lower() in known for name in columns):
            raise  # else it may need other types than the nulls that stand for them
