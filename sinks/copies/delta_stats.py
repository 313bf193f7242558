"""What Delta Lake's log says of a file's values, so that engines can leave files out: from the
file's own footer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

TEXT_MAX = 64
"""Longer texts are left out: there would be a rule for cutting them."""
COLUMNS_MAX = 32
"""As in other writers: the first ones."""


def stats_of(footer: pq.FileMetaData, schema: pa.Schema) -> str:
    """Rows, and smallest and largest values of whole numbers, days and short texts."""
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    positions = _positions(footer)
    for field in list(schema)[:COLUMNS_MAX]:
        position = positions.get(field.name)
        if position is not None and _has_stats(field.type):
            ends = _ends_as_json(footer, position, field.type)
            if ends is not None:
                low[field.name], high[field.name] = ends
    return json.dumps(
        {"numRecords": footer.num_rows, "minValues": low, "maxValues": high, "nullCount": {}}
    )


def _positions(footer: pq.FileMetaData) -> dict[str, int]:
    return {footer.schema.column(i).path: i for i in range(footer.num_columns)}


def _has_stats(kind: pa.DataType) -> bool:
    import pyarrow.types as pt

    return bool(pt.is_integer(kind) or pt.is_date(kind) or pt.is_string(kind))


def _ends_as_json(
    footer: pq.FileMetaData, position: int, kind: pa.DataType
) -> tuple[Any, Any] | None:
    """`_ends`, unless they are long texts."""
    import pyarrow.types as pt

    ends = _ends(footer, position)
    if ends is None or (pt.is_string(kind) and max(map(len, ends)) > TEXT_MAX):
        return None
    return ends if pt.is_integer(kind) else (str(ends[0]), str(ends[1]))


def _ends(footer: pq.FileMetaData, position: int) -> tuple[Any, Any] | None:
    """The smallest and the largest value of a column; None where the file does not say, or Python
    has no such day.
    """
    found = [footer.row_group(i).column(position).statistics for i in range(footer.num_row_groups)]
    if not found or not all(s is not None and s.has_min_max for s in found):
        return None
    try:
        return min(s.min for s in found), max(s.max for s in found)
    except (ValueError, OverflowError):
        return None
