"""Quoting, the only way names and texts get into SQL; and the names in SQL that are
Tidemill's own.
"""

from __future__ import annotations

from collections.abc import Iterable

HIDDEN = "_tidemill_"
"""Columns of an aggregate's file that are called so are Tidemill's own."""
VISIBLE = r"* NOT LIKE '\_tidemill\_%' ESCAPE '\'"
"""What readers see of an aggregate's file."""


def name(identifier: str) -> str:
    """An identifier, quoted."""
    return '"' + identifier.replace('"', '""') + '"'


def text(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("'", "''") + "'"


def texts(values: Iterable[str]) -> str:
    """A list of string literals."""
    return "[" + ", ".join(text(v) for v in values) + "]"
