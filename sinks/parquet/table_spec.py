"""What a pipeline declares about its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.model.settings import CheckSettings, SchemaMode, Widen

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """What a pipeline declares about its table."""

    name: str
    output: str
    partition_by: tuple[str, ...]
    declared: pa.Schema | None
    widen: Widen
    mode: SchemaMode = "evolve"
    checks: tuple[CheckSettings, ...] = ()
