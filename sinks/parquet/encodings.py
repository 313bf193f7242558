"""How the columns of a large Parquet file are encoded, so that it is small, and scans are fast.

Left alone, pyarrow begins each column with a dictionary and gives it up where that grows beyond 1
MB: such a chunk is larger, and slower to read. Here a column of many values has no dictionary; its
integers are stored as differences, its floats byte by byte (measured: see bench/README.md).
"""

from __future__ import annotations

import hashlib
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROW_GROUP_ROWS = 122_880
"""What DuckDB takes at once, and writes itself."""
DISTINCT_SHARE = 0.25
"""Of a row group: a column with more different values has no dictionary."""
DICTIONARY_BYTES = 16 * 2**20
COUNTED_BYTES = 16 * 2**20
"""Of a column: different values are counted in so much of it. Counting copies them."""


def large_file(
    path: Path, first: pa.Table, *, compression_level: int | None = None
) -> pq.ParquetWriter:
    """A file for rows like `first`, on which the encodings are decided.

    Write them with `row_group_size=ROW_GROUP_ROWS`.
    """
    import pyarrow.parquet as pq

    # pyarrow 23: pages of 20,000 rows unless set
    paged = "max_rows_per_page" in signature(pq.ParquetWriter).parameters
    options: dict[str, Any] = {"max_rows_per_page": ROW_GROUP_ROWS} if paged else {}
    return pq.ParquetWriter(
        path,
        first.schema,
        compression="zstd",
        compression_level=compression_level,
        dictionary_pagesize_limit=DICTIONARY_BYTES,
        write_page_index=True,
        **_encodings(first),
        **options,
    )


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        digest: str = hashlib.file_digest(file, "sha256").hexdigest()
    return digest


def write_large(rows: pa.Table, path: Path, *, compression_level: int | None = None) -> None:
    """Write the rows to a file. Raises OSError, pa.ArrowException."""
    with large_file(path, rows, compression_level=compression_level) as file:
        file.write_table(rows, row_group_size=ROW_GROUP_ROWS)


def _encodings(rows: pa.Table) -> dict[str, Any]:
    """Decided on the first row group: `use_dictionary` names leaf columns, `column_encoding`
    others.
    """
    first = rows.slice(0, ROW_GROUP_ROWS)
    plain = [field for field in rows.schema if _has_many_values(first.column(field.name))]
    different = {field.name for field in plain}
    dictionaries = [path for path in _leaves(rows.schema) if path not in different]
    return {
        "use_dictionary": dictionaries or False,
        "column_encoding": {
            field.name: found for field in plain if (found := _encoding(field.type)) is not None
        }
        or None,
    }


def _has_many_values(column: pa.ChunkedArray) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    if (
        pa.types.is_nested(column.type)
        or pa.types.is_dictionary(column.type)
        or pa.types.is_boolean(column.type)
    ):
        return False
    some = column.slice(0, max(len(column) * COUNTED_BYTES // max(column.nbytes, COUNTED_BYTES), 1))
    try:
        different: int = pc.count_distinct(some).as_py()
    except pa.ArrowNotImplementedError:
        return False
    return different > DISTINCT_SHARE * len(some)


def _encoding(kind: pa.DataType) -> str | None:
    """For what is stored as INT32, INT64, FLOAT and DOUBLE."""
    import pyarrow.types as pt

    if pt.is_float32(kind) or pt.is_float64(kind):
        return "BYTE_STREAM_SPLIT"
    is_whole = (
        pt.is_integer(kind)
        or pt.is_timestamp(kind)
        or pt.is_date(kind)
        or pt.is_time(kind)
        or pt.is_duration(kind)
    )
    return "DELTA_BINARY_PACKED" if is_whole else None


def _leaves(schema: pa.Schema) -> list[str]:
    """Paths of the leaf columns in the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = pa.BufferOutputStream()
    pq.write_metadata(schema, out)
    described = pq.ParquetFile(pa.BufferReader(out.getvalue())).schema
    return [described.column(i).path for i in range(len(described))]
