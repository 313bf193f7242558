"""Processes that user code starts end with the worker they belong to, wherever they went, by the
means that Linux has for that.

A process whose parent ends becomes a child of the nearest ancestor that asked for such orphans.
Each worker asks, and so does the process that starts workers: what it has for children besides
living workers was left by one that is dead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TRACKER_S = 1.0
"""For Python's own tracker to remove what shared memory the dead left: it ends by itself after
that.
"""
STRAYS_S = 5.0
"""Spent on processes that do not end; root's, say."""
DEAD_CHILDREN_MAX = 500
"""Children that ended and were not waited for, before a worker does so: orphans that it took over
have nobody else.
"""


def adopt_orphans() -> None:
    """Processes below this one whose parent ends become children of this one, and not of the
    system's first process.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_with(parent: int) -> None:
    """This process is killed when its parent ends. The parent has one thread."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if sys.platform == "linux" and os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes

        # a sandbox may have none: then groups and connections must do
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, int(value), 0, 0, 0)


def end_strays(keep: Collection[int]) -> None:
    """Kill all children of this process but `keep`, and theirs, until there are none."""
    began = time.monotonic()
    while strays := [pid for pid in children() if pid not in keep]:
        spent = time.monotonic() - began
        if spent > STRAYS_S:
            return
        if spent > TRACKER_S or not all(is_tracker(pid) for pid in strays):
            kill(*(pid for pid in strays if spent > TRACKER_S or not is_tracker(pid)))
        _collect(strays)
        time.sleep(0.001)


def _collect(pids: Collection[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def bury() -> None:
    """Wait for children that ended, if there are very many.

    Linux only: nobody takes over orphans elsewhere.
    """
    if sys.platform != "linux":
        return
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
    except ChildProcessError:
        return
    found = children()
    if len(found) > DEAD_CHILDREN_MAX:
        for pid in found:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def children() -> list[int]:
    """Direct children of this process, dead ones that were not waited for included."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    try:
        return [int(word) for word in listed.read_text().split()]
    except OSError:
        import psutil

        return [one.pid for one in psutil.Process().children()]


def is_tracker(pid: int) -> bool:
    """Whether it is the process in which `multiprocessing` notes shared memory and semaphores."""
    try:
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def kill(*pids: int) -> None:
    """Kill processes that may have ended already."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def kill_tree(pid: int) -> None:
    """Kill a process, its group, and all below it, where nobody takes over its orphans."""
    import psutil

    below: list[int] = []
    with contextlib.suppress(psutil.Error):
        below = [one.pid for one in psutil.Process(pid).children(recursive=True)]
    kill_group(pid)
    kill(pid, *below)


def kill_group(leader: int) -> None:
    """Kill what is in the process group of this leader."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
