"""What can be said of an aggregate's SQL before there is a row: whether it is one SELECT, and what
its columns are called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.model.settings import AggregateSettings
from pipeline.sql.quoting import HIDDEN
from sinks.aggregates.merge import name_of
from sinks.query.allowed_sql import ONE_SELECT, refusal


def why_not(tree: Mapping[str, Any], aggregate: AggregateSettings) -> str:
    """Why this parse tree can never be the SQL of the aggregate; empty where it can."""
    refused = refusal(tree, None)
    if refused == ONE_SELECT:
        return "its SQL is not one SELECT"
    if refused is not None:
        return f"its SQL cannot be read: {refused}"
    items = tree["statements"][0].get("node", {}).get("select_list", [])
    return _why_not_named([name_of(item) for item in items], aggregate)


def _why_not_named(names: Sequence[str], aggregate: AggregateSettings) -> str:
    """Why the result's columns cannot be called so; empty where they can."""
    twice = _twice(name for name in names if name)
    if twice:
        return f"two columns of its result are called {twice!r}: name one of them with AS"
    own = next((name for name in names if name.lower().startswith(HIDDEN)), None)
    if own is not None:
        return f"the column {own!r} of its result has a name that is Tidemill's own: choose another"
    if names and all(names):
        lacking = next((column for column in aggregate.by if column not in names), None)
        if lacking is not None:
            return f"by={lacking!r} is not a column of its result ({', '.join(names)})"
    return ""


def _twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            return name
        seen.add(name.lower())
    return None
