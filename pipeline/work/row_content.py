"""Rows of another pipeline's table as the content of a source."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from pipeline.errors import (
    InputRejected,
    TidemillError,
)


class RowReader(Protocol):
    """Reads one source's rows of a table, as an Arrow stream."""

    def read(self, place: Any) -> bytes: ...


class RowsContent:
    """One source's rows of another pipeline's table, read when asked for; or the reason why there
    are none.
    """

    __slots__ = ("_body", "_place", "_problem", "_reader", "bytes_read")
    unverified = False

    def __init__(self, reader: RowReader, place: object, problem: Exception | None = None) -> None:
        self._reader = reader
        self._place = place
        self._problem = problem
        self._body: bytes | None = None
        self.bytes_read: int = 0

    def read(self) -> bytes:
        if self._problem is not None:
            raise self._problem
        if self._body is None:
            try:
                self._body = self._reader.read(self._place)
            except TidemillError as error:
                self._problem = error
                raise
            self.bytes_read = len(self._body)
        return self._body

    def open(self) -> BinaryIO:
        return io.BytesIO(self.read())

    def path(self) -> Path:
        raise InputRejected("these are rows of a table, not a file: use table() or rows()")

    def problem(self) -> Exception | None:
        return self._problem

    def close(self) -> None:
        self._body = None
