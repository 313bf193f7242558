"""`Object`: what a transform receives for each source object."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pipeline.errors import InputRejected
from pipeline.ports import Content
from pipeline.work.memory_limit import MIB, memory_mb_held
from pipeline.work.row_content import RowsContent

if TYPE_CHECKING:
    import pyarrow as pa


LOOKED_AT_BYTES = 8192
"""Of a text's beginning, to see whether it has a byte order mark and what ends its lines."""


class Object:
    """One source object at the version that was planned.

    Read it whole, as a stream, as text or as a file.

    Reading raises SourceChanged when the object was overwritten or deleted meanwhile: let it pass,
    the new version is planned by itself. Rows that are wrong while the rest of the file is right go
    to `reject`.
    """

    __slots__ = ("_content", "_rejected", "etag", "key", "modified_us", "size_bytes")

    def __init__(
        self, key: str, etag: str, size_bytes: int, modified_us: int, content: Content
    ) -> None:
        self.key: str = key
        self.etag: str = etag
        self.size_bytes: int = size_bytes
        self.modified_us: int = modified_us
        self._content = content
        self._rejected: list[tuple[object, str]] = []

    def __repr__(self) -> str:
        return f"Object({self.key!r}, etag={self.etag!r}, size_bytes={self.size_bytes})"

    @property
    def modified_at(self) -> datetime:
        """When the store last saw the object change, in UTC."""
        return datetime.fromtimestamp(self.modified_us / 1e6, UTC)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rsplit("/", 1)[-1]

    def read(self) -> bytes:
        """The whole object.

        Raises InputRejected where it is larger than the transform's `memory_mb`: stream it with
        `open`.
        """
        self._refuse_beyond_memory("read()")
        return self._content.read()

    def text(self, encoding: str = "utf-8") -> str:
        """The whole object as text, without a byte order mark.

        Raises UnicodeDecodeError where it is not in `encoding`; else like
        `read`.
        """
        self._refuse_beyond_memory("text()")
        text = self._content.read().decode(encoding)
        return text[1:] if text.startswith("\ufeff") else text

    def open(self) -> BinaryIO:
        """A seekable binary stream that needs bounded memory, whatever the object's size."""
        return self._content.open()

    def lines(self, encoding: str = "utf-8") -> io.TextIOWrapper:
        """The object as a text stream, to iterate over its lines in bounded memory: right for
        `csv`, as open(newline="") is.

        Line ends stay as they are in the file, each with its line, those within quotes too; a byte
        order mark is left out.
        """
        stream = self._content.open()
        if codecs.lookup(encoding).name != "utf-8":
            return io.TextIOWrapper(stream, encoding=encoding, newline="")
        begins = stream.read(LOOKED_AT_BYTES)
        stream.seek(0)
        # to look for one kind is half the work
        ends = "\n" if b"\n" in begins and b"\r" not in begins else ""
        return io.TextIOWrapper(
            stream,
            encoding="utf-8-sig" if begins.startswith(codecs.BOM_UTF8) else encoding,
            newline=ends,
        )

    @property
    def path(self) -> Path:
        """A real file with the object's bytes, for libraries that want one. Do not write to it."""
        return self._content.path()

    def _refuse_beyond_memory(self, what: str) -> None:
        memory_mb = memory_mb_held()
        if memory_mb is not None and self.size_bytes > memory_mb * MIB:
            raise InputRejected(
                f"memory limit: {what} of {self.size_bytes // MIB:,} MB does not fit into"
                f" {memory_mb:,} MB (memory_mb): use open() or lines(), or raise the limit"
            )

    def table(self) -> pa.Table:
        """The rows, where the source is another pipeline's table. Raises
        InputRejected for a file.
        """
        import pyarrow as pa

        if not isinstance(self._content, RowsContent):
            raise InputRejected(
                f"{self.key!r} is a file, not rows of a table: use read(), open(), lines() or path"
            )
        return pa.ipc.open_stream(self._content.read()).read_all()

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows as dicts, one after the other, where the source is another pipeline's table.

        Raises InputRejected for a file.
        """
        for batch in self.table().to_batches():
            yield from batch.to_pylist()

    def reject(self, row: object, reason: str) -> None:
        """Put one bad row into the table of rejected rows, with its source and the reason; the file
        goes on.
        """
        self._rejected.append((row, str(reason)))
