"""A worker process, as its runner sees it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from pipeline.executors.local.connection import Connection
from pipeline.executors.local.messages import Job
from pipeline.executors.local.output_lines import Output, Whose


@dataclass(slots=True)
class HeldWorker:
    """One process, what it is at, and what it said."""

    slot: int
    pid: int
    connection: Connection
    output: Output
    jobs: deque[Job] = field(default_factory=deque)
    ready: bool = False
    doomed: str = ""
    """Why we killed it."""
    said: tuple[Whose, str] = ((0, -1), "")
    """What was printed in the last call that printed anything."""
    ended: bool = False
    """The last look found it dead."""
