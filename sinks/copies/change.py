"""What is different between what a target holds and one snapshot, and which commit a
target holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.model.snapshot import Output

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Mark:
    """What a target holds: the table as of one commit."""

    generation: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is different between what the target holds and one snapshot.

    Rows are distinguished by `_task` and `_source_key`: such a pair is live in one output at most.
    """

    pipeline: str
    mark: Mark
    """What the target holds afterwards."""
    over: Mark | None
    """What it must hold before, else nothing may happen; None for a target that has no table of
    this pipeline yet.
    """
    whole: bool
    """The target's rows are replaced by all live rows; `added` is every output then, and `vanished`
    and `gone` are empty.
    """
    schema: pa.Schema
    """The main table's columns, provenance last.

    Columns that had no value yet are left out: they have no type.
    """
    before: pa.Schema | None
    """The columns at `over`; None where `whole`."""
    added: dict[str, Output] = field(default_factory=dict)
    """Outputs that were not there at `over`."""
    vanished: dict[str, Output] = field(default_factory=dict)
    """Outputs that are not there any more, as they were at `over`."""
    shrunk: dict[str, Output] = field(default_factory=dict)
    """Outputs that are there still and lost rows, as they are now."""
    gone: list[tuple[str, str]] = field(default_factory=list)
    """`_task` and `_source_key` of the rows that the shrunk outputs lost."""
    aggregates: tuple[str, ...] = ()
    """Declared aggregates whose tables are replaced."""
    dropped: tuple[str, ...] = ()
    """Aggregates that are not declared any more."""

    @property
    def retyped(self) -> dict[str, tuple[pa.DataType, pa.DataType]]:
        """Columns whose type is another than at `over`: before and after."""
        known = {f.name: f.type for f in self.before} if self.before is not None else {}
        return {
            f.name: (known[f.name], f.type)
            for f in self.schema
            if f.name in known and known[f.name] != f.type
        }

    @property
    def new_columns(self) -> list[str]:
        """Columns that were not there at `over`."""
        known = set(self.before.names) if self.before is not None else set()
        return [name for name in self.schema.names if name not in known]
