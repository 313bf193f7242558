"""What this machine says of its processes: how one ended, how much memory one holds."""

from __future__ import annotations

import os
import signal

NATIVE = " (a crash in native code)"


def describe_end(status: int) -> str:
    """A wait status in words."""
    if not os.WIFSIGNALED(status):
        return (
            f"the worker process exited with code {os.waitstatus_to_exitcode(status)} in the middle"
            " of a call"
        )
    number = os.WTERMSIG(status)
    name = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
    why = {
        "SIGKILL": " (by somebody, or by the system when it ran out of memory)",
        "SIGSEGV": NATIVE,
        "SIGABRT": NATIVE,
        "SIGBUS": NATIVE,
    }
    return f"the worker process was killed by {name}{why.get(name, '')}"


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resident_bytes(pid: int) -> int:
    """Resident memory of a process in bytes, 0 if it has ended."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
