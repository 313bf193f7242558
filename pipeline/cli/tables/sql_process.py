"""Runs the rest of a command in a process of its own, which is stopped when it takes too long or
too much memory, or dies.

DuckDB answers no interrupt while it parses, plans or computes a long scalar, counts little of what
that takes, and may crash. The command forks while it has one thread and has loaded nothing: the
child goes on with the command, the parent only looks on.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from types import FrameType
from typing import NoReturn

from pipeline.cli import owns_process
from pipeline.errors import SettingsError
from sinks.query.query_limits import Limits, Stopwatch, too_long

GRACE_S = 2.0
"""For the query's own interrupt to work, before its process is killed."""
LOOK_S = 0.05


class Here:
    """Told by the command where it is; the parent hears it.

    Does nothing where the command runs in one process.
    """

    def __init__(self, pipe: int | None = None) -> None:
        self._pipe = pipe

    def query_begins(self) -> None:
        """From here on the time counts, added to what counted before."""
        self._tell(b"q")

    def query_ended(self) -> None:
        """From here on it does not: the reader of the output may take its time."""
        self._tell(b"e")

    def _tell(self, letter: bytes) -> None:
        if self._pipe is not None:
            os.write(self._pipe, letter)


def confine(*, timeout_s: float, memory_mb: int) -> Here | int:
    """In the child: a `Here`, to go on with. In the parent: the child's exit code, once it is over.

    Runs in this process, unprotected, where the program has more to do than this one command (see
    `pipeline.cli.main`). Raises SettingsError in the parent where the child was stopped or died.
    """
    if not _may_fork():
        return Here()
    scratch = tempfile.mkdtemp(prefix="tidemill-sql-")
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        tempfile.tempdir = scratch
        _end_with(os.getppid(), scratch)
        return Here(writing)
    os.close(writing)
    try:
        return _Watched(child, reading, timeout_s, memory_mb).until_over()
    finally:
        os.close(reading)
        shutil.rmtree(scratch, ignore_errors=True)


def _may_fork() -> bool:
    return owns_process() and threading.active_count() <= 1


class _Watched:
    def __init__(self, child: int, pipe: int, timeout_s: float, memory_mb: int) -> None:
        self._child, self._pipe = child, pipe
        self._timeout_s, self._memory_mb = timeout_s, memory_mb
        self._query = Stopwatch()
        self._why = ""

    def until_over(self) -> int:
        """The child's exit code. Raises SettingsError where it has none."""
        signal.signal(signal.SIGTERM, self._terminated)
        try:
            self._watch()
        except BaseException:
            self._kill()
            os.waitpid(self._child, 0)
            raise
        code = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        if code >= 0 and not self._why:
            return code
        raise SettingsError(
            self._why
            or f"the query ended its process ({signal.Signals(-code).name}): ask in another way"
        )

    def _watch(self) -> None:
        while True:
            if select.select([self._pipe], [], [], LOOK_S)[0]:
                said = os.read(self._pipe, 100)
                if not said:
                    return  # it is over
                if said.endswith(b"e"):
                    self._query.pause()
                else:
                    self._query.go_on()
            if not self._why:
                self._why = self._too_much()
                if self._why:
                    self._kill()

    def _too_much(self) -> str:
        if self._query.used_s() > self._timeout_s + GRACE_S:
            return too_long(self._timeout_s)
        if _resident_mb(self._child) > self._memory_mb:
            return Limits(self._memory_mb).exceeded
        return ""

    def _kill(self) -> None:
        os.kill(self._child, signal.SIGKILL)  # not yet waited for, so the number is still its own

    def _terminated(self, number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)


def _resident_mb(process: int) -> int:
    import psutil

    try:
        return int(psutil.Process(process).memory_info().rss) >> 20
    except psutil.Error:
        return 0  # it ends just now


def _end_with(parent: int, scratch: str) -> None:
    """End this process when its parent is gone: nobody would stop it any more, nor remove its
    temporary files.
    """

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        shutil.rmtree(scratch, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=look, name="tidemill-parent", daemon=True).start()
