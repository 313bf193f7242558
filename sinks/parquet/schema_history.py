"""Which commit changed a table's columns, and how, as far back as the log is kept. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.model.commit import Commit
from sinks.values.schema import decode

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one commit did to the columns.

    exact: what was before is known. Where older entries are gone, the first change that is kept
    shows its columns as they were then: each came with that commit, or earlier.
    """

    sequence: int
    written_ms: int
    exact: bool
    added: dict[str, str] = field(default_factory=dict)
    """Columns with their types."""
    changed: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Columns with their type before and after."""


@dataclass(slots=True)
class History:
    """Changes oldest first; `kept_from`: the first log entry that is kept (None: there is none).

    `broken`: rows by check.
    """

    kept_from: int | None = None
    changes: list[Change] = field(default_factory=list)
    broken: dict[str, int] = field(default_factory=dict)

    def since(self, column: str) -> tuple[int | None, bool]:
        """The commit with which a column came, and whether that is exact.

        None: before the first entry that is kept.
        """
        for change in self.changes:
            if column in change.added:
                return change.sequence, change.exact
        return None, False


def history_of(log: Iterable[Commit]) -> History:
    """From the entries that are kept, oldest first."""
    found, before = History(), None
    for commit in log:
        if found.kept_from is None:
            found.kept_from = commit.sequence
        for settled in commit.settle:
            for name, rows in settled.broken.items():
                found.broken[name] = found.broken.get(name, 0) + rows
        if commit.schema is not None:
            after = decode(commit.schema)
            found.changes.append(_change(commit, before, after, whole=found.kept_from == 1))
            before = after
    return found


def _change(commit: Commit, before: pa.Schema | None, after: pa.Schema, *, whole: bool) -> Change:
    known = {f.name: f.type for f in before} if before is not None else {}
    return Change(
        sequence=commit.sequence,
        written_ms=commit.written_ms,
        exact=whole or before is not None,
        added={f.name: str(f.type) for f in after if f.name not in known},
        changed={
            f.name: (str(known[f.name]), str(f.type))
            for f in after
            if f.name in known and not known[f.name].equals(f.type)
        },
    )
