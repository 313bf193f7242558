"""Names, prefixes and figures as users declare them.

Raises SettingsError, with one line, for what cannot be one.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from pipeline.declare.checked_values import between, strings
from pipeline.errors import SettingsError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")
STATE_TABLES = ("sources", "outputs", "commits", "quarantine")
REJECTED_SUFFIX = "__rejected"


def checked_name(what: str, name: object) -> str:
    """A table's, check's or transform's name."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise SettingsError(
            f"{what} name {name!r}: use a lower-case letter, then letters, digits and _ (at"
            " most 63)"
        )
    if what != "transform" and (name in STATE_TABLES or name.endswith(REJECTED_SUFFIX)):
        raise SettingsError(
            f"{what} name {name!r} is taken by a table of Tidemill's own: choose another"
        )
    return name


def refuse_taken(label: str, name: str, others: Collection[str]) -> None:
    """Raises SettingsError where something else has the name."""
    if name in others:
        raise SettingsError(f"{label}: the name is taken")


def checked_prefix(name: str, what: str, prefix: object) -> str:
    """A key prefix that ends with `/`, or ""."""
    if not isinstance(prefix, str) or (prefix and not prefix.endswith("/")):
        raise SettingsError(
            f"pipeline {name}: {what}={prefix!r} must be a key prefix that ends with '/'"
        )
    if prefix.startswith("/") or any(part in ("", ".", "..") for part in prefix.split("/")[:-1]):
        raise SettingsError(
            f"pipeline {name}: {what}={prefix!r} has an empty, '.' or '..' part; write it like"
            " 'uploads/flights/'"
        )
    return prefix


def checked_key(label: str, key: object) -> str:
    """One object's key, or a prefix of several."""
    if not isinstance(key, str) or not key or key.startswith("/"):
        raise SettingsError(
            f"{label}: {key!r} is no key, such as reference/shops.csv, and no prefix, such as"
            " reference/shops/"
        )
    return key


def checked_globs(name: str, what: str, values: object) -> tuple[str, ...]:
    """Globs over keys."""
    globs = strings(f"pipeline {name}", what, values)
    if what != "exclude" and not globs:
        raise SettingsError(f'pipeline {name}: {what}= is empty; use ["**"] for everything')
    return globs


def checked_dollars(label: str, what: str, value: float | None) -> float | None:
    """An amount, None for none."""
    return None if value is None else between(label, what, value, 0, 1e9)


def quoted_name(column: object) -> str:
    """A column's name in SQL."""
    return '"' + str(column).replace('"', '""') + '"'
