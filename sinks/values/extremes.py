"""What the values of a table's columns reach, as far as types depend on it: kept beside the types,
in the schema of each commit.

An integer of 64 bits is wide beyond 2**53, where not every integer is a float; a time in
microseconds is wide outside of the years 1678 to 2261, the only ones that nanoseconds can reach. A
column that has no wide values may still become one of floats, or of nanoseconds. Of tables older
than this nothing is known, and their columns count as wide.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sinks.values.contract import inner, is_list

if TYPE_CHECKING:
    import pyarrow as pa

Wide = frozenset[tuple[str, ...]]
"""Paths of leaves with wide values, each as its steps."""

NONE_WIDE: Wide = frozenset()
EXACT_MAX = 2**53
NANOSECONDS_MAX_US = (2**63 - 1) // 1000 - 1
_KEY = b"tidemill.wide"


def is_known(schema: pa.Schema) -> bool:
    """Whether this version, or a later one, committed the schema."""
    return _KEY in (schema.metadata or {})


def wide_of(schema: pa.Schema) -> Wide:
    """The wide leaves of a schema as it was committed."""
    known = (schema.metadata or {}).get(_KEY)
    if known is None:
        return frozenset(path for field in schema for path in _all((field.name,), field.type))
    return frozenset(tuple(path) for path in json.loads(known))


def with_wide(schema: pa.Schema, wide: Wide) -> pa.Schema:
    """The schema with these wide leaves."""
    return schema.with_metadata({_KEY: json.dumps(sorted(wide)).encode()})


def within(wide: Wide, step: str) -> Wide:
    """What is wide inside of one column, field, list or map: the paths from there on."""
    return frozenset(path[1:] for path in wide if path[0] == step) if wide else wide


def _all(path: tuple[str, ...], kind: pa.DataType) -> list[tuple[str, ...]]:
    """Every leaf that could be wide."""
    children = inner(kind)
    if not children:
        return [path] if _can_be(kind) else []
    return [
        found for step, child in children for found in _all((*path, step.removeprefix(".")), child)
    ]


def _can_be(kind: pa.DataType) -> bool:
    import pyarrow.types as pt

    return bool(
        pt.is_int64(kind) or pt.is_uint64(kind) or (pt.is_timestamp(kind) and kind.unit != "ns")
    )


def measured(table: pa.Table, known: Wide = NONE_WIDE) -> Wide:
    """The wide leaves of a table in plain types; those that are `known` are not looked at again."""
    found: set[tuple[str, ...]] = set()
    for name, column in zip(table.column_names, table.columns, strict=True):
        if _all((name,), column.type):
            for chunk in column.chunks:
                for path, leaf in leaf_arrays((name,), chunk):
                    if path in found or not _can_be(leaf.type):
                        continue
                    if path in known or _is_wide(leaf):
                        found.add(path)
    return frozenset(found)


def leaf_arrays(
    path: tuple[str, ...], array: pa.Array
) -> Iterator[tuple[tuple[str, ...], pa.Array]]:
    """The values of every leaf of an array, with the steps to it."""
    import pyarrow as pa
    import pyarrow.types as pt

    kind = array.type
    if pt.is_struct(kind):
        for field, child in zip(kind, array.flatten(), strict=True):
            yield from leaf_arrays((*path, field.name), child)
    elif pt.is_map(kind):
        # a slice's keys are those of the whole
        compact = array.take(pa.array(range(len(array)), pa.int64()))
        yield from leaf_arrays((*path, "{key}"), compact.keys)
        yield from leaf_arrays((*path, "{}"), compact.items)
    elif is_list(kind):
        yield from leaf_arrays((*path, "[]"), array.flatten())
    else:
        yield path, array


def _is_wide(array: pa.Array) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as pt

    is_time = pt.is_timestamp(array.type)
    most = NANOSECONDS_MAX_US if is_time else EXACT_MAX
    extremes = pc.min_max(array.cast(pa.int64()) if is_time else array)
    least, greatest = extremes["min"].as_py(), extremes["max"].as_py()
    return least is not None and (least < -most or greatest > most)
