"""The port of all sinks: bring a copy of the tables, kept by another system, from one commit to a later one, exactly once.

A sink keeps a mark beside its rows and moves both in one transaction. Whoever publishes reads the mark, computes what changed
since (`sinks.changes`), and hands it over together with the mark that it started from: if the target holds another one by then,
nothing happens. So a publisher may be killed anywhere, come late, or run twice, and every commit takes effect once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pipeline.errors import TidemillError
from pipeline.snapshot import Output

if TYPE_CHECKING:
    import pyarrow as pa

    from sinks.rows import Rows


class SinkFailed(TidemillError):
    """The target did not take the commit, and holds what it held before. The next publish tries again."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a target holds: the table as of one commit."""

    generation: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is different between what the target holds and one snapshot.

    Rows are told apart by `_task` and `_source_key`: such a pair is live in one output at most.
    """

    pipeline: str
    mark: Mark
    """What the target holds afterwards."""
    over: Mark | None
    """What it must hold before, else nothing may happen; None for a target that has no table of this pipeline yet."""
    whole: bool
    """The target's rows are replaced by all live rows; `added` is every output then, and `vanished` and `gone` are empty."""
    schema: pa.Schema
    """The main table's columns, provenance last. Columns that had no value yet are left out: they have no type."""
    before: pa.Schema | None
    """The columns at `over`; None where `whole`."""
    added: dict[str, Output] = field(default_factory=dict)
    """Outputs that were not there at `over`."""
    vanished: dict[str, Output] = field(default_factory=dict)
    """Outputs that are not there any more, as they were at `over`."""
    shrunk: dict[str, Output] = field(default_factory=dict)
    """Outputs that are there still and lost rows, as they are now."""
    gone: list[tuple[str, str]] = field(default_factory=list)
    """`_task` and `_source_key` of the rows that the shrunk outputs lost."""
    aggregates: tuple[str, ...] = ()
    """Declared aggregates whose tables are replaced."""
    dropped: tuple[str, ...] = ()
    """Aggregates that are not declared any more."""

    @property
    def retyped(self) -> dict[str, tuple[pa.DataType, pa.DataType]]:
        """Columns whose type is another than at `over`: before and after."""
        known = {f.name: f.type for f in self.before} if self.before is not None else {}
        return {f.name: (known[f.name], f.type) for f in self.schema if f.name in known and known[f.name] != f.type}

    @property
    def new_columns(self) -> list[str]:
        """Columns that were not there at `over`."""
        known = set(self.before.names) if self.before is not None else set()
        return [name for name in self.schema.names if name not in known]


class Sink(Protocol):
    """One target. Raises SinkFailed where the target does not answer or refuses, SettingsError for what a person must mend."""

    async def mark(self, pipeline: str) -> Mark | None:
        """What the target holds of this pipeline, read from the target itself. None: nothing."""
        ...

    async def follows(self, change: Change) -> bool:
        """Whether this change can be made as it is. If not, publish one that is `whole`."""
        ...

    async def publish(self, change: Change, rows: Rows) -> bool:
        """Make the change true in one transaction with its mark, or not at all.

        False, and nothing happened, if the target does not hold `change.over`.
        """
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


@contextmanager
def failing(what: str, *kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds become SinkFailed, in one line that begins with `what`."""
    try:
        yield
    except kinds as error:
        raise SinkFailed(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from error
