"""Hive partitions: which values make one, how they are named within keys, and a table cut into
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline.errors import InputRejected

if TYPE_CHECKING:
    import pyarrow as pa

PARTITIONS_MAX = 1_000
PARTITION_BYTES_MAX = 60
"""Of a partition value: three times as long when quoted, and a part of a file's path has at most
255 bytes.
"""
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def lacking_in(rows: list[dict[str, Any]] | pa.Table, names: Sequence[str]) -> list[str]:
    """Those of these columns that none of the rows has."""
    if isinstance(rows, list):
        return [name for name in names if not any(name in row for row in rows)]
    return [name for name in names if name not in rows.column_names]


def require_none(lacking: Sequence[str]) -> None:
    """Raises InputRejected: a source that lacks a partition column altogether is at fault; a row
    without it has null there.
    """
    if lacking:
        raise InputRejected(
            f"the rows have no column {lacking[0]!r}, by which the table is partitioned"
        )


def why_not(name: str, kind: pa.DataType) -> str:
    """Why a table cannot be partitioned by this column; empty where it can."""
    import pyarrow.types as pt

    if not (pt.is_nested(kind) or pt.is_floating(kind) or pt.is_binary(kind)):
        return ""
    return (
        f"column {name!r} is {kind}: a table can be partitioned by text, integers, dates and"
        " booleans"
    )


def check_partitions(table: pa.Table, partition_by: Sequence[str]) -> None:
    """Raises InputRejected for columns and values that make no partitions."""
    import pyarrow.compute as pc

    by = [name for name in partition_by if name in table.column_names]
    for name in by:
        refused = why_not(name, table.schema.field(name).type)
        if refused:
            raise InputRejected(refused)
    if by:
        _require_few(table, by)
    for name in by:
        longest = pc.max(pc.binary_length(table.column(name).cast("string"))).as_py() or 0
        if longest > PARTITION_BYTES_MAX:
            raise InputRejected(
                f"column {name!r} has a value of {longest} bytes: too long for a partition's name"
            )


def _require_few(table: pa.Table, by: list[str]) -> None:
    found = table.select(by).group_by(by, use_threads=False).aggregate([])
    if found.num_rows > PARTITIONS_MAX:
        raise InputRejected(
            f"the rows fall into more than {PARTITIONS_MAX} partitions by {', '.join(by)}: choose"
            " columns with fewer values"
        )


def partitions(
    table: pa.Table, by: Sequence[str]
) -> Iterator[tuple[dict[str, str | None], pa.Table]]:
    """The table's rows by partition values, as text; each part in the order the rows came."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not by:
        yield {}, table
        return
    for values in _groups(table, by):
        rows = pa.array(values["row_list"], pa.int64())
        part = table if len(rows) == table.num_rows else table.take(pc.cast(rows, pa.int64()))
        yield {name: values[f"p{i}"] for i, name in enumerate(by)}, part


def _groups(table: pa.Table, by: Sequence[str]) -> list[dict[str, Any]]:
    """For each partition its values as text, `p0` and so on, and its rows' numbers."""
    import pyarrow as pa

    texts = [_texts(table, name) for name in by]
    names = [f"p{i}" for i in range(len(by))]
    numbers = pa.array(range(table.num_rows), pa.int64())
    tagged = pa.table([*texts, numbers], names=[*names, "row"])
    found = tagged.group_by(names, use_threads=False).aggregate([("row", "list")])
    groups: list[dict[str, Any]] = found.to_pylist()
    return groups


def _texts(table: pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    import pyarrow as pa

    if name not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    return table.column(name).cast(pa.string())


def folders(partition: Mapping[str, str | None]) -> str:
    """The part of a file's key that says its partition: `column=value/` for each column, in their
    order.
    """
    return "".join(
        f"{quote(column, safe='')}={_part(value)}/" for column, value in partition.items()
    )


def _part(value: str | None) -> str:
    """A partition value within a key; an empty text would be read back as a missing one."""
    if value is None:
        return NULL_PARTITION
    return quote(value, safe="") if value not in (".", "..") else value.replace(".", "%2E")
