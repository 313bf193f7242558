"""Quoting: the only way names and texts get into SQL."""

from __future__ import annotations

from collections.abc import Iterable


def name(identifier: str) -> str:
    """An identifier, quoted."""
    return '"' + identifier.replace('"', '""') + '"'


def text(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("'", "''") + "'"


def texts(values: Iterable[str]) -> str:
    """A list of string literals."""
    return "[" + ", ".join(text(v) for v in values) + "]"
