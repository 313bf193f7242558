"""How a query's result is printed: batch by batch, as it comes, so that its size does not matter."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, BinaryIO

import click

from pipeline.errors import TidemillError

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("table", "csv", "json", "parquet", "arrow")
ROWS_SHOWN = 1_000
GROUP_ROWS = 122_880
GROUP_BYTES = 32 * 2**20
"""A row group of Parquet is written when so many rows, or so much Arrow memory, is waiting."""
CUT_OFF = b"\xff\xff\xff\xff\x08\x00\x00\x00"
"""After an Arrow stream that was not finished: announces eight bytes that never come, so that readers fail. Without it, and without
the stream's own end, they would take what they got for all of it."""

Write = Callable[["pa.Schema", "Iterable[pa.RecordBatch]"], None]


def refuse_terminal(form: str) -> None:
    """Raises TidemillError where a binary format would go to a terminal."""
    if form in ("parquet", "arrow") and sys.stdout.isatty():
        name, suffix = ("Parquet", "parquet") if form == "parquet" else ("Arrow", "arrows")
        raise TidemillError(f"{name} is binary: send it to a file or another program, with  > result.{suffix}")


def writer(form: str) -> Write:
    """What prints a result in this format on standard output."""
    return {"table": _table, "csv": _csv, "json": _json, "parquet": _parquet, "arrow": _arrow}[form]


def cut_off(form: str) -> None:
    """Make sure that nobody takes what was printed so far for the whole result."""
    if form == "arrow":
        sys.stdout.buffer.write(CUT_OFF)
        sys.stdout.buffer.flush()


def _arrow(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    import pyarrow as pa

    pipe = _Pipe(sys.stdout.buffer)
    stream = pa.ipc.new_stream(pipe, schema)
    try:
        for batch in batches:
            stream.write_batch(batch)
    except BaseException as error:
        pipe.ended = True
        if not isinstance(error, BrokenPipeError):
            cut_off("arrow")
        raise
    stream.close()


def _parquet(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pipe = _Pipe(sys.stdout.buffer)
    file = pq.ParquetWriter(pipe, schema, compression="zstd")
    try:
        for group in _groups(batches):
            file.write_table(pa.Table.from_batches(group, schema=schema), row_group_size=GROUP_ROWS)
    except BaseException:
        pipe.ended = True  # it writes its footer when it is thrown away, too; a file without one cannot be read
        raise
    file.close()


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(b.num_rows for b in waiting) >= GROUP_ROWS or sum(b.nbytes for b in waiting) >= GROUP_BYTES:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


class _Pipe(io.RawIOBase):
    """Standard output as pyarrow wants it: it asks where it is, which a pipe does not know. `ended`: nothing more is written."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._at, self.ended = out, 0, False

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        if not self.ended:
            self._out.write(view)
        self._at += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        self._out.flush()


def _json(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    before = "[\n "
    for batch in batches:
        rows = (json.dumps(row, indent=1, default=_plain, ensure_ascii=False) for row in batch.to_pylist())
        text = ",\n".join(rows).replace("\n", "\n ")
        if text:
            click.echo(before + text, nl=False)
            before = ",\n "
    click.echo("[]" if before.startswith("[") else "\n]")


def _csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    import csv

    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(schema.names)
    for batch in batches:
        out.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _table(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    from pipeline.cli.render import table

    shown: list[list[object]] = []
    total = 0
    for batch in batches:
        total += batch.num_rows
        head = batch.slice(0, max(ROWS_SHOWN - len(shown), 0))
        shown += [list(row) for row in zip(*(column.to_pylist() for column in head.columns), strict=True)]
    numbers = [i for i, field in enumerate(schema) if _is_number(field.type)]
    table(schema.names, shown, numbers=numbers)
    if total > ROWS_SHOWN:
        click.echo(f"... {total - ROWS_SHOWN:,} more rows; use --format csv for all of them")


def _plain(value: object) -> object:
    """A value that JSON has no form for: whole decimals as integers, others as floats, anything else as text."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, date):
        return value.isoformat()
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow.types as pt

    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind))
