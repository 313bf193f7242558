"""What user code prints in a worker process: kept in a file beside the work, so that it can be
shown with the name of its input.

All that the process and its children write to standard output and error goes to one file, which is
only appended to. After each call that made it grow, the worker writes a mark: whose text it was.
Whoever started the worker reads along.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import TextIO

from pipeline.tracebacks import storable

KEPT_CHARACTERS = 2_000
"""Of what was printed for a file, its end, kept with the file where that goes into quarantine."""
READ_BYTES = 16_000
"""What is looked at for that: half a secret would not be recognised."""
FILE_BYTES_MAX = 2**24
"""The file is emptied between two calls once it is so large."""
MARK = "\x00\x1e{serial} {index}\x1e\n"

_descriptor: int | None = None
_streams: list[TextIO] = []
_began = 0


def keep_in(descriptor: int) -> None:
    """From now on standard output and error of this process are that file, opened for appending and
    reading.
    """
    global _descriptor, _began
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    _descriptor, _began = descriptor, 0
    sys.stdout = _stream(sys.stdout, 1)
    sys.stderr = _stream(sys.stderr, 2)
    _streams[:] = sys.stdout, sys.stderr


def call_ends(whose: Callable[[], tuple[int, int]]) -> None:
    """What was printed since the last call of this belongs to that input; what follows belongs to
    another one.
    """
    global _began  # noqa: PLW0603
    if _descriptor is None or (size := _size(_descriptor)) == _began:
        return
    serial, index = whose()
    os.write(_descriptor, MARK.format(serial=serial, index=index).encode())
    if size > FILE_BYTES_MAX:
        os.ftruncate(_descriptor, 0)
    _began = _size(_descriptor)


def _size(descriptor: int) -> int:
    """How much was printed, the beginning of a line too.

    Whoever writes appends, and whoever reads says where.
    """
    for stream in _streams:
        try:  # noqa: SIM105 - after every call
            stream.flush()
        except (OSError, ValueError):  # closed by user code, or the disk is full
            pass
    return os.lseek(descriptor, 0, os.SEEK_END)


def in_this_call() -> str:
    """The end of what was printed since the last input: at most READ_BYTES, no
    secrets taken out.
    """
    if _descriptor is None or (size := _size(_descriptor)) == _began:
        return ""
    begins = max(_began if _began <= size else 0, size - READ_BYTES)
    return (
        os.pread(_descriptor, size - begins, begins).decode("utf-8", "replace").replace("\x00", "")
    )


def as_kept(said: str) -> str:
    """What was printed for a file, as it is kept with it: bounded, and without what is surely a
    secret. Empty for nothing.
    """
    kept = storable(said, KEPT_CHARACTERS)
    return f"printed:\n{kept}" if kept else ""


def _stream(stream: TextIO, descriptor: int) -> TextIO:
    """A text stream on the descriptor that writes each line at once: a process may die in the
    middle of a call.
    """
    with contextlib.suppress(OSError, ValueError):
        if isinstance(stream, io.TextIOWrapper) and stream.fileno() == descriptor:
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
            return stream
    return open(
        descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
