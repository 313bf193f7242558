"""How a query's result is printed: batch by batch, as it comes, so that its size does
not matter.
"""

from __future__ import annotations

import functools
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, Protocol

import click

from pipeline.errors import TidemillError
from sinks.results.exact_text import NUMBERS, jsons, objects_of, texts
from sinks.results.exact_types import Carrier, Kind

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("table", "csv", "json", "parquet", "arrow")
ROWS_SHOWN = 1_000
GROUP_ROWS = 122_880
GROUP_BYTES = 32 * 2**20
"""A row group of Parquet is written when so many rows, or so much Arrow memory, is waiting."""
CUT_OFF = b"\xff\xff\xff\xff\x08\x00\x00\x00"
"""After an Arrow stream that was not finished: announces eight bytes that never come, so that
readers fail. Without it, and without the stream's own end, they would take what they got for all of
it.
"""

_SPECIAL = re.compile('[",\\r\\n]')


class Result(Protocol):
    """What is printed: columns as they left DuckDB (`sinks.carried`), and their types there."""

    @property
    def schema(self) -> pa.Schema: ...
    @property
    def kinds(self) -> Sequence[Kind]: ...


Write = Callable[[Result, "Iterable[pa.RecordBatch]"], None]


def carrier(form: str) -> Carrier:
    """How a result for this format leaves DuckDB."""
    return "parquet" if form == "parquet" else "arrow" if form == "arrow" else "text"


def refuse_terminal(form: str) -> None:
    """Raises TidemillError where a binary format would go to a terminal."""
    if form in ("parquet", "arrow") and sys.stdout.isatty():
        name, suffix = ("Parquet", "parquet") if form == "parquet" else ("Arrow", "arrows")
        raise TidemillError(
            f"{name} is binary: send it to a file or another program, with  > result.{suffix}"
        )


def writer(form: str, null: str = "") -> Write:
    """What prints a result in this format on standard output. null: what NULL is in CSV."""
    if form == "csv":
        return functools.partial(_csv, null=null)
    return {"table": _table, "json": _json, "parquet": _parquet, "arrow": _arrow}[form]


def cut_off(form: str) -> None:
    """Make sure that nobody takes what was printed so far for the whole result."""
    if form == "arrow":
        sys.stdout.buffer.write(CUT_OFF)
        sys.stdout.buffer.flush()


def _arrow(result: Result, batches: Iterable[pa.RecordBatch]) -> None:
    import pyarrow as pa

    pipe = _Pipe(sys.stdout.buffer)
    stream = pa.ipc.new_stream(pipe, result.schema)
    try:
        for batch in batches:
            stream.write_batch(batch)
    except BaseException as error:
        pipe.ended = True
        if not isinstance(error, BrokenPipeError):
            cut_off("arrow")
        raise
    stream.close()


def _parquet(result: Result, batches: Iterable[pa.RecordBatch]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pipe = _Pipe(sys.stdout.buffer)
    file = pq.ParquetWriter(pipe, result.schema, compression="zstd")
    try:
        for group in _groups(batches):
            file.write_table(
                pa.Table.from_batches(group, schema=result.schema), row_group_size=GROUP_ROWS
            )
    except BaseException:
        # it writes its footer when it is thrown away, too; a file without one cannot be read
        pipe.ended = True
        raise
    file.close()


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if (
            sum(b.num_rows for b in waiting) >= GROUP_ROWS
            or sum(b.nbytes for b in waiting) >= GROUP_BYTES
        ):
            yield waiting
            waiting = []
    if waiting:
        yield waiting


class _Pipe(io.RawIOBase):
    """Standard output as pyarrow wants it: it asks where it is, which a pipe does not know.

    `ended`: nothing more is written.
    """

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


def _json(result: Result, batches: Iterable[pa.RecordBatch]) -> None:
    out, before = sys.stdout.buffer, b"[\n "
    for batch in batches:
        columns = [
            jsons(kind, column) for kind, column in zip(result.kinds, batch.columns, strict=True)
        ]
        rows = ",\n ".join(objects_of(result.schema.names, columns))
        if rows:
            out.write(before + rows.encode())
            before = b",\n "
    out.write(b"[]\n" if before.startswith(b"[") else b"\n]\n")
    out.flush()


def _csv(result: Result, batches: Iterable[pa.RecordBatch], null: str = "") -> None:
    out, names = sys.stdout.buffer, result.schema.names
    if not null and len(names) == 1:
        null = '""'  # an empty line is no row for most readers
    out.write((",".join(_fields([*names], null)) + "\n").encode())
    for batch in batches:
        if batch.num_rows:
            out.write(_csv_lines(result.kinds, batch, null).encode())
    out.flush()


def _csv_lines(kinds: Sequence[Kind], batch: pa.RecordBatch, null: str) -> str:
    columns = [
        _fields(texts(kind, column), null)
        for kind, column in zip(kinds, batch.columns, strict=True)
    ]
    return "\n".join(map(",".join, zip(*columns, strict=True))) + "\n"


def _fields(values: list[str | None], null: str) -> list[str]:
    """As CSV has them. Text that says the same as `null` is in quotes: it differs."""
    some = [value for value in values if value is not None]
    if null in some or _SPECIAL.search("".join(some)):
        values = [value if value is None else _quoted(value, null) for value in values]
    return [null if value is None else value for value in values]


def _quoted(value: str, null: str) -> str:
    return (
        '"' + value.replace('"', '""') + '"' if value == null or _SPECIAL.search(value) else value
    )


def _table(result: Result, batches: Iterable[pa.RecordBatch]) -> None:
    from pipeline.cli.render import table

    shown: list[tuple[object, ...]] = []
    total = 0
    for batch in batches:
        total += batch.num_rows
        shown += _rows(result.kinds, batch.slice(0, max(ROWS_SHOWN - len(shown), 0)))
    table(
        result.schema.names,
        shown,
        numbers=[i for i, kind in enumerate(result.kinds) if kind.id in NUMBERS],
    )
    if total > ROWS_SHOWN:
        click.echo(f"... {total - ROWS_SHOWN:,} more rows; use --format csv for all of them")


def _rows(kinds: Sequence[Kind], batch: pa.RecordBatch) -> Iterator[tuple[object, ...]]:
    columns = [_shown(kind, column) for kind, column in zip(kinds, batch.columns, strict=True)]
    return zip(*columns, strict=True)


def _shown(kind: Kind, column: pa.Array) -> Sequence[object]:
    return column.to_pylist() if kind.id in ("float", "double") else texts(kind, column, short=True)
