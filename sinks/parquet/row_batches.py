"""Rows of sources that wait for their conversion, and what can be converted together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING

from sinks.parquet.transform_results import HeavyRows, Rows, row_bytes, table_of
from sinks.values.columns import plain_table, require_text

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLED = 2
"""Rows of a list whose size is looked at."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one source that wait for conversion."""

    index: int
    rows: Rows | pa.Table

    def __len__(self) -> int:
        return len(self.rows)


def alike(parts: list[Part]) -> Iterator[list[Part]]:
    """Runs of parts that can become one table: dict rows together, tables of one
    schema together.
    """
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


def joined(
    parts: list[Part], declared: Mapping[str, pa.DataType], *, texts: bool = False
) -> pa.Table:
    """Like parts as one Arrow table in plain types.

    Raises InputRejected for what is none, or no text, and names the column.
    """
    rows = as_one(parts)
    if isinstance(rows, list):
        return table_of(rows, declared, texts=texts)
    require_text(rows)
    return plain_table(rows, declared)


def as_one(parts: list[Part]) -> Rows | pa.Table:
    """Like parts as one, as they came."""
    import pyarrow as pa

    if len(parts) == 1:
        return parts[0].rows
    if isinstance(parts[0].rows, list):
        return list(chain.from_iterable(part.rows for part in parts))
    return pa.concat_tables([part.rows for part in parts])


def by_source(parts: Iterable[Part]) -> list[list[Part]]:
    """RowBatches source by source, in the order they came."""
    found: dict[int, list[Part]] = {}
    for part in parts:
        found.setdefault(part.index, []).append(part)
    return list(found.values())


def together(sources: list[list[Part]]) -> Iterator[list[list[Part]]]:
    """Runs of sources that can become one table; a source of unlike parts is one by itself."""
    run: list[list[Part]] = []
    for parts in sources:
        if run and not (
            _can_join(run[-1][-1].rows, parts[0].rows) and _is_one(run[-1]) and _is_one(parts)
        ):
            yield run
            run = []
        run.append(parts)
    if run:
        yield run


def _is_one(parts: list[Part]) -> bool:
    return len(parts) == 1 or all(_can_join(a.rows, b.rows) for a, b in pairwise(parts))


def estimate(rows: Rows) -> int:
    """Roughly how many bytes a list of rows holds, from some of them."""
    if isinstance(rows, HeavyRows):
        return rows.size_bytes
    some = rows[:: len(rows) // SAMPLED] if len(rows) > SAMPLED else rows
    return sum(map(row_bytes, some)) * len(rows) // len(some)
