"""What workers' code prints, read along by whoever started them and shown line by line with the
name of its input.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.tracebacks import visible

CALL_BYTES_MAX = 2**24
"""Of one call: then the file is emptied under it, for the disk's sake."""
LINE_MAX = 2_000
"""Characters of a line that are shown."""
_MARK = re.compile(rb"\x00\x1e(\d+) (-?\d+)\x1e\n")

Whose = tuple[int, int]
"""Serial number of a job, and position of the input in it (-1: none yet)."""


class Output:
    """One worker's file (see `pipeline.printed`), made at this path."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self.descriptor: int = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        path.unlink()  # it lives as long as somebody has it open
        self._at = 0

    def read(
        self, at_hand: Callable[[], Whose | None] = lambda: None, *, ended: bool = False
    ) -> list[tuple[Whose, str]]:
        """New lines, each with whose it is. at_hand: who is at work now, to take lines of it before
        its call ends; where the worker has ended, all that is left.
        """
        whose, size = at_hand(), os.fstat(self.descriptor).st_size
        if size < self._at:
            self._at = 0  # the worker emptied it
        if size == self._at:
            return []
        read = os.pread(self.descriptor, size - self._at, self._at)
        found = self._lines(read, whose if whose == at_hand() else None, ended=ended)
        if size > CALL_BYTES_MAX:
            os.ftruncate(self.descriptor, 0)
            self._at = 0
        return found

    def _lines(self, read: bytes, at_hand: Whose | None, *, ended: bool) -> list[tuple[Whose, str]]:
        *marked, tail = _MARK.split(read)
        found = _before_marks(marked)
        self._at += len(read) - len(tail)
        # after a mark somebody else is at hand by now
        if at_hand is not None and (ended or not marked):
            whole = len(tail) if ended else tail.rfind(b"\n") + 1
            found += [(at_hand, line) for line in _shown(tail[:whole])]
            self._at += whole
        return found

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


def _shown(text: bytes) -> list[str]:
    """The lines of a text for a terminal; of one that was written over, as progress bars are, what
    stood there last.
    """
    found = []
    for line in text.decode("utf-8", "replace").split("\n"):
        last = line.rstrip("\r").rpartition("\r")[2].rstrip()
        if last:
            found.append(visible(last if len(last) <= LINE_MAX else last[:LINE_MAX] + "…"))
    return found


def to_standard_error(whose: str, line: str) -> None:
    """Show a line. Through `sys.stderr` as it is then, so that a progress bar that stands there
    stays whole.
    """
    with contextlib.suppress(OSError, ValueError):  # a terminal that is gone is no reason to stop
        sys.stderr.write(f"{visible(whose)}: {line}\n")
        sys.stderr.flush()


def _before_marks(marked: list[bytes]) -> list[tuple[Whose, str]]:
    """Lines, each with the call whose mark follows. marked: texts, and the numbers of each mark."""
    found: list[tuple[Whose, str]] = []
    for text, serial, index in zip(marked[::3], marked[1::3], marked[2::3], strict=True):
        found += [((int(serial), int(index)), line) for line in _shown(text)]
    return found
