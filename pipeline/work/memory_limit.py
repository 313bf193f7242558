"""What one worker process may take of the machine while it runs a user's code: its memory, and
where its temporary files lie.

The kernel refuses memory beyond the limit, so that the code at hand gets a MemoryError, however
fast it asks (docs/decisions/0023-memory-limits-by-the-kernel.md has the measurements). Linux only:
elsewhere only the runner looks.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
from pathlib import Path

MIB = 2**20
ALLOWANCE_MB = 256
ALLOWANCE_MB_PER_CORE = 16
"""Memory that libraries map and hardly use: thread stacks (8 MB each), arenas, copies of tables of
their own.
"""

OUT_OF_MEMORY = re.compile(
    r"out of memory|can(?:not|'t) allocate|unable to allocate|bad[ _]alloc|malloc of size|failed to"
    r" allocate",
    re.I,
)
"""How libraries say it that have an exception of their own for it (pandas' parser, DuckDB, torch).
"""

_memory_mb: int | None = None
_soft_before: int | None = None
_scratch: Path | None = None


def hold_memory(memory_mb: int | None) -> None:
    """From now on this process gets at most about `memory_mb` MB; None: as much as it could get at
    first.

    What is mapped but not resident at this moment does not count, nor do ALLOWANCE_MB and so much
    for each core.
    """
    global _memory_mb, _soft_before  # noqa: PLW0603 - it is a property of the process
    if memory_mb is None and _soft_before is None:
        return
    _memory_mb = memory_mb
    if sys.platform != "linux":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if _soft_before is None:
        _soft_before = soft
    wanted = _soft_before
    if memory_mb is not None:
        ours = _data_bytes(memory_mb)
        wanted = ours if _soft_before == resource.RLIM_INFINITY else min(ours, _soft_before)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def memory_mb_held() -> int | None:
    """The limit that holds in this process now."""
    return _memory_mb


def memory_exceeded(memory_mb: int | None) -> str:
    """Why a worker ended, whoever noticed."""
    return f"memory limit: the worker used more than {memory_mb} MB (memory_mb)"


def _data_bytes(memory_mb: int) -> int:
    mapped, resident = _mapped_and_resident()
    allowance = ALLOWANCE_MB + ALLOWANCE_MB_PER_CORE * (os.cpu_count() or 1)
    return max(mapped - resident + (memory_mb + allowance) * MIB, 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of the user's code means that the memory limit of this process was
    reached.

    Libraries wrap a MemoryError, or have an exception of their own; so its causes are looked at,
    and the words of those that are no plain ValueError and the like: these quote data.
    """
    if _memory_mb is None:
        return False
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        if _says_out_of_memory(at):
            return True
        seen.add(id(at))
        at = at.__cause__ or at.__context__
    return False


def _says_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    quotes_no_data = type(error).__module__ != "builtins" or type(error) is RuntimeError
    return quotes_no_data and OUT_OF_MEMORY.search(str(error)[:2000]) is not None


def use_scratch(folder: str) -> None:
    """Temporary files of this process and of programs it starts go below `folder`, whoever removes
    that in the end.
    """
    global _scratch  # noqa: PLW0603 - it is a property of the process
    Path(folder).mkdir(parents=True, exist_ok=True)
    _scratch = Path(folder).parent
    tempfile.tempdir = folder
    os.environ["TMPDIR"] = folder


def files_in_scratch() -> list[int]:
    """Descriptors of open files that lie beside the folder for temporary ones: what we write there
    ourselves. Linux only.
    """
    if _scratch is None or sys.platform != "linux":
        return []
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
        except OSError:
            continue
        if os.path.dirname(target) == str(_scratch):  # noqa: PTH120
            found.append(int(name))
    return found


def _mapped_and_resident() -> tuple[int, int]:
    """Bytes of private writable memory (what RLIMIT_DATA counts), and of all that is resident, in
    this process.
    """
    values = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text().splitlines()
        if ":" in line
    )
    mapped, resident = (1024 * int(values[name].split()[0]) for name in ("VmData", "VmRSS"))
    return mapped, resident
