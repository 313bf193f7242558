"""Names of processes that own tasks, and whether such a process still runs: only its own machine
can tell.
"""

from __future__ import annotations

import os
import secrets
import socket
from functools import cache
from pathlib import Path


def this_process() -> str:
    """A new owner's name for this process."""
    return f"{here()}:{os.getpid()}:{started(os.getpid())}:{secrets.token_hex(4)}"


def has_ended(owner: str, *, seen_from: str) -> bool:
    """Whether that owner was a process of this machine that has ended."""
    mine, theirs = seen_from.split(":"), owner.split(":")
    if len(theirs) != len(mine) or theirs[:2] != mine[:2]:
        return False
    _, _, boot, space, pid, since, _ = theirs
    if boot != mine[2]:
        return True  # this machine was restarted since
    if space != mine[3] or not pid.isdigit():
        return False  # another container: its processes cannot be seen from here
    return int(pid) == os.getpid() or started(int(pid)) != since


@cache
def here() -> str:
    """This machine, its boot, and the space in which its process numbers mean something."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    space = Path("/proc/self/ns/pid")
    if boot.exists():
        inside = space.readlink().name.strip("pid:[]")
        return f"local:{socket.gethostname()}:{boot.read_text().strip()}:{inside}"
    import psutil

    return f"local:{socket.gethostname()}:{round(psutil.boot_time() / 60)}:0"


def started(pid: int) -> str:
    """When a process began, by the kernel's own count; empty if there is none, or it ended and only
    waits to be buried.
    """
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            return "" if fields[0] in "ZX" else fields[19]
        except OSError:
            return ""
    import psutil

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return ""
