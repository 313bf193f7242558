"""What Delta Lake's log says of a file's values, so that engines can leave files out: from the file's own footer."""

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
    import pyarrow.types as pt

    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    positions = {footer.schema.column(i).path: i for i in range(footer.num_columns)}
    for field in list(schema)[:COLUMNS_MAX]:
        position = positions.get(field.name)
        if position is None or not (pt.is_integer(field.type) or pt.is_date(field.type) or pt.is_string(field.type)):
            continue
        found = [footer.row_group(i).column(position).statistics for i in range(footer.num_row_groups)]
        if not found or not all(s is not None and s.has_min_max for s in found):
            continue
        smallest, largest = min(s.min for s in found), max(s.max for s in found)
        if pt.is_string(field.type) and max(len(str(smallest)), len(str(largest))) > TEXT_MAX:
            continue
        low[field.name], high[field.name] = (v if pt.is_integer(field.type) else str(v) for v in (smallest, largest))
    return json.dumps({"numRecords": footer.num_rows, "minValues": low, "maxValues": high, "nullCount": {}})
