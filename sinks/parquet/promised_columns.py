"""Columns that a table has by its declaration, before any file has brought one: `_rescued`, where
the mode is `rescue`. Pure.
"""

from __future__ import annotations

import msgspec

from pipeline.model.settings import PipelineSettings
from pipeline.model.snapshot import Snapshot
from sinks.values.schema import RESCUED, decode, encode


def promised(snapshot: Snapshot, settings: PipelineSettings) -> Snapshot:
    """The snapshot with these columns: null in every row that was committed without them."""
    if settings.schema_mode != "rescue":
        return snapshot
    import pyarrow as pa

    schema = decode(snapshot.schema) if snapshot.schema is not None else pa.schema([])
    if RESCUED in schema.names:
        return snapshot
    return msgspec.structs.replace(
        snapshot, schema=encode(schema.append(pa.field(RESCUED, pa.string())))
    )
