"""Rows of sources that wait for their conversion, and what can be converted together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from sinks.columns import require_text
from sinks.results import Rows, table_of

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one source that wait for conversion."""

    index: int
    rows: Rows | pa.Table

    def __len__(self) -> int:
        return len(self.rows)


def alike(parts: list[Part]) -> Iterator[list[Part]]:
    """Runs of parts that can become one table: dict rows together, tables of one schema together."""
    run: list[Part] = []
    for part in parts:
        if run and not _can_join(run[-1].rows, part.rows):
            yield run
            run = []
        run.append(part)
    if run:
        yield run


def _can_join(a: Rows | pa.Table, b: Rows | pa.Table) -> bool:
    if isinstance(a, list) or isinstance(b, list):
        return isinstance(a, list) and isinstance(b, list)
    return bool(a.schema.equals(b.schema))


def joined(parts: list[Part]) -> pa.Table:
    """Like parts as one Arrow table. Raises InputRejected where dict rows make none, or text is none."""
    rows = as_one(parts)
    if isinstance(rows, list):
        return table_of(rows)
    require_text(rows)
    return rows


def as_one(parts: list[Part]) -> Rows | pa.Table:
    """Like parts as one, as they came."""
    import pyarrow as pa

    if len(parts) == 1:
        return parts[0].rows
    if isinstance(parts[0].rows, list):
        return list(chain.from_iterable(part.rows for part in parts))
    return pa.concat_tables([part.rows for part in parts])


def estimate(rows: Rows) -> int:
    """Roughly how much text a list of rows holds, from its first and last."""
    text = 0
    for row in (rows[0], rows[-1]):
        for value in row.values():
            text += len(value) if type(value) is str or type(value) is bytes else 32
    return text * len(rows) // 2
