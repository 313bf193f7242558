"""What happened, said by passes, sinks and the loops around them to listeners that somebody chose.

An event is a fact: nothing depends on who listens. A listener must not raise, nor take long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.model.pass_report import PassReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Of one pipeline, in one generation of its table."""

    pipeline: str
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned(Event):
    """A commit planned work."""

    sequence: int
    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatched(Event):
    """An attempt at a task was handed to the executor."""

    task: str
    transform: str
    attempt: int
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed(Event):
    """A commit ended tasks, or forgot sources: these rows count from here on."""

    sequence: int
    files: int
    rows: int
    rejected: int
    size_bytes: int
    deleted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined(Event):
    """A commit set one source version aside."""

    sequence: int
    key: str
    kind: str
    """`failed`, `lost`, `cancelled`, ... (see `model.commit.Quarantined`)."""
    reason: str
    transform: str
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Event):
    """An attempt ended without a receipt, and a commit took notice."""

    sequence: int
    task: str
    transform: str
    files: int
    reason: str
    again: bool
    """It is dispatched again as it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnsChanged(Event):
    """A commit changed the table's columns. schema: encoded, as in the commit."""

    schema: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregated(Event):
    """A commit brought aggregates up to date."""

    sequence: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(Event):
    """A sink holds a newer commit now. rebuilt: it was given everything again."""

    sink: str
    sequence: int
    rebuilt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """Something that is declared cannot be done: by `what`, of this name, and why in one line."""

    what: str
    """`aggregate`, `code` or `sink`."""
    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed(Event):
    """How far a pass has come; finished attempts count before their commit."""

    report: PassReport


@dataclass(frozen=True, slots=True, kw_only=True)
class PassBegan(Event):
    """A pass, or several until nothing is left, begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassEnded(Event):
    """It is over. shown: it did something, or is the first to say that there was nothing."""

    report: PassReport
    sequence: int
    seconds: float
    in_quarantine: int
    shown: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchBegan:
    """All was found in order, and a watching run looks for the first time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A watching run has looked once at everything. found: it committed something."""

    found: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """A watching run goes on after an outage."""

    reason: str
    after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """One line for people. warning: of what may be wrong."""

    text: str
    warning: bool = False


AnyEvent = Event | WatchBegan | Looked | Retrying | Remark
Listener = Callable[[AnyEvent], None]


def nobody(event: AnyEvent) -> None:
    """Listens to nothing."""


def everyone(*listeners: Listener) -> Listener:
    """Each of these, one after the other."""

    def tell(event: AnyEvent) -> None:
        for listener in listeners:
            listener(event)

    return tell
