"""Questions to a table that has no rows yet: its columns are not known, so it has whichever column
is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import SettingsError
from pipeline.sql import quoting
from sinks.values.schema import PROVENANCE

if TYPE_CHECKING:
    from sinks.query.warehouse import Warehouse

ASKED_MAX = 100
"""Columns that one statement may ask of such tables."""
_UNKNOWN = re.compile(r'(?:Referenced column|column named) "((?:[^"]|"")+)"')


def let_any_column_be(
    warehouse: Warehouse, names: Iterable[str], statement: str, **options: Any
) -> list[str]:
    """Give tables that have no column of their own those that the statement names; the tables, if
    there are any.
    """
    empty = [name for name in names if _is_without_columns(warehouse, name)]
    asked: list[str] = []
    while empty and len(asked) < ASKED_MAX:
        try:
            with warehouse.open_query(statement, **options):
                return empty if asked else []
        except SettingsError as error:
            unknown = _UNKNOWN.search(str(error))
            if unknown is None or unknown[1] in asked:
                return []
            asked.append(unknown[1].replace('""', '"'))
        _give_columns(warehouse, empty, asked)
    return []


def _give_columns(warehouse: Warehouse, names: Sequence[str], asked: Sequence[str]) -> None:
    columns = [
        *(f"NULL AS {quoting.name(c)}" for c in asked),
        *(f"CAST(NULL AS VARCHAR) AS {c}" for c in PROVENANCE),
    ]
    for name in names:
        warehouse.add_view(name, f"SELECT {', '.join(columns)} WHERE false")


def _is_without_columns(warehouse: Warehouse, name: str) -> bool:
    """Whether it is there, with no column of its own."""
    if not warehouse.has(name):
        return False
    rows = warehouse.connection.sql(f"SELECT * FROM {quoting.name(name)} LIMIT 0")
    return set(rows.columns) <= set(PROVENANCE)
