"""SQL that sets two sides of a table beside each other: `b` before, `a` after. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.sql import quoting

SIDES = ("before", "after")


def same(column: str) -> str:
    """Whether rows `b` and `a` have the same value."""
    return f"b.{quoting.name(column)} IS NOT DISTINCT FROM a.{quoting.name(column)}"


def _either(column: str) -> str:
    """The value of whichever of rows `b` and `a` there is."""
    name = quoting.name(column)
    return f"coalesce(b.{name}, a.{name}) AS {name}"


# -- rows that only one side has, by key -----------------------------------------------------------


def _joined_rows(join: str, key: Sequence[str]) -> str:
    before, after = (f"(SELECT * FROM _tidemill.only WHERE _side = '{side}')" for side in SIDES)
    return f"FROM {before} b {join} {after} a ON {' AND '.join(same(column) for column in key)}"


def rows_changed(key: Sequence[str], rest: Sequence[str]) -> str:
    """How many keys both sides have, and of each other column how many values differ."""
    counts = "".join(
        f", count(*) FILTER (NOT ({same(column)})) AS {quoting.name(column)}" for column in rest
    )
    return f"SELECT count(*) AS _changed{counts} {_joined_rows('JOIN', key)}"


def rows_side_by_side(key: Sequence[str], rest: Sequence[str], limit: int) -> str:
    """What happened to each row, its key, and of each other column both values and whether they
    differ.
    """
    shown = [
        "CASE WHEN a._side IS NULL THEN 'gone' WHEN b._side IS NULL THEN 'added' ELSE 'changed'"
        " END AS _change"
    ]
    shown += [_either(column) for column in key]
    for i, column in enumerate(rest):
        name = quoting.name(column)
        shown += [f"b.{name} AS _b{i}", f"a.{name} AS _a{i}", f"NOT ({same(column)}) AS _d{i}"]
    order = ", ".join(f"{2 + i}" for i in range(len(key)))
    return (
        f"SELECT {', '.join(shown)} {_joined_rows('FULL JOIN', key)}"
        f" ORDER BY (a._side IS NULL OR b._side IS NULL), {order} LIMIT {limit}"
    )


# -- groups of an aggregate ------------------------------------------------------------------------


def _joined_groups(table: str, by: Sequence[str]) -> str:
    on = " AND ".join(same(column) for column in by) or "true"
    return f"FROM _tidemill.before_{table} b FULL JOIN _tidemill.after_{table} a ON {on}"


def _differs(values: Sequence[str]) -> str:
    return " OR ".join(f"NOT ({same(column)})" for column in values) or "false"


def groups_counted(table: str, by: Sequence[str], values: Sequence[str]) -> str:
    """How many groups there are, and how many differ."""
    return (
        f"SELECT count(*) AS every, count(*) FILTER ({_differs(values)}) AS differing"
        f" {_joined_groups(table, by)}"
    )


def groups_side_by_side(table: str, by: Sequence[str], values: Sequence[str], limit: int) -> str:
    """The first groups that differ: every other column `c` as `c` and `c (after)`."""
    shown = [_either(column) for column in by]
    for column in values:
        name = quoting.name(column)
        shown += [f"b.{name} AS {name}", f"a.{name} AS {quoting.name(column + ' (after)')}"]
    order = "".join(f"{', ' if i else 'ORDER BY '}{i + 1}" for i in range(len(by)))
    return (
        f"SELECT {', '.join(shown)} {_joined_groups(table, by)} WHERE {_differs(values)} {order}"
        f" LIMIT {limit}"
    )
