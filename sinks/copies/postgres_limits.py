"""What Postgres can never hold, said before anything is sent, or by its error where only the rows
show it. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.errors import SettingsError

NAME_BYTES_MAX = 63
COLUMNS_MAX = 1_600
SYSTEM_COLUMNS = frozenset(("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"))
"""Every table has these, hidden. Other cases of them are other names."""
_AT = re.compile(r"\ACOPY [^\n]*?, line \d+, column (?P<name>[^\n]*?)(?:: |\Z)", re.MULTILINE)
_LASTING = ("22", "54")
"""Classes of errors that the same rows meet again: data exceptions, program limits."""


def refuse_columns(table: str, names: Sequence[str]) -> None:
    """Raises SettingsError for columns that Postgres cannot have, with the name of one."""
    for name in names:
        why = _why_not(name)
        if why:
            shown = name if len(name) <= 40 else f"{name[:40]}..."
            raise SettingsError(
                f"Postgres cannot have the column {shown!r} of {table}: {why}; rename it in the"
                " transform or the SQL"
            )
    if len(names) > COLUMNS_MAX:
        raise SettingsError(
            f"Postgres cannot have {table}: it has {len(names):,} columns, from"
            f" {names[COLUMNS_MAX]!r} on too many (at most {COLUMNS_MAX:,}); keep some of them in"
            " one column, as a list or an object"
        )


def _why_not(name: str) -> str:
    if name in SYSTEM_COLUMNS:
        return "it is one that Postgres keeps for itself"
    if len(name.encode()) > NAME_BYTES_MAX:
        return f"its name has more than {NAME_BYTES_MAX} bytes"
    return "" if name and "\0" not in name else "its name is empty, or has a NUL"


def lasting(code: str | None, message: str, context: str | None) -> str:
    """Why the same rows will never go in, with the column where Postgres names it; empty where
    another try may do.

    The context's values are left out: they are the user's.
    """
    if not (code or "").startswith(_LASTING):
        return ""
    where = _AT.search(context or "")
    column = f"column {where['name']!r}: " if where is not None else ""
    way = (
        "; long texts lie apart, other columns do not: keep some of them in one column"
        if "row is too big" in message
        else ""
    )
    return f"Postgres cannot hold a row: {column}{_without_values(message)}{way}"


def _without_values(message: str) -> str:
    """Postgres quotes what it could not read."""
    return re.sub(r': ".*\Z', "", message.splitlines()[0] if message else "", flags=re.DOTALL)
