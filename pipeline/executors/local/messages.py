"""Messages between the runner and its worker processes: JSON with a four-byte length before it. No
pickle crosses a process.
"""

from __future__ import annotations

import struct

import msgspec

from pipeline.model.loss import Loss
from pipeline.model.receipt import Receipt
from pipeline.model.task import Assignment

LENGTH = struct.Struct("<I")
SLOT = struct.Struct("<qqd")
"""What a worker shares while it works: serial number of its assignment, input position (-1: none),
time it was begun.
"""

NO_MEMORY = 75
"""With this code a worker exits that cannot even take in its next job: what the code at hand holds
is beyond its limit.
"""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """An assignment on its way to a worker."""

    serial: int
    assignment: Assignment
    memory_mb: int | None = None
    """Bound on the worker's memory while it runs this."""
    scratch: str = ""
    """Below it, each worker has a folder for temporary files, named by its process id.

    Empty: the system's own place.
    """


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says: that it is ready, that it cannot start, or how a job ended."""

    serial: int = 0
    receipt: Receipt | None = None
    loss: Loss | None = None
    ends: bool = False
    """The worker ends after this answer, and another takes its place."""
    broken: Loss | None = None
    """Why the worker cannot work at all."""


def pack(message: Job | Answer) -> bytes:
    """A message as a frame."""
    body = msgspec.json.encode(message)
    return LENGTH.pack(len(body)) + body
