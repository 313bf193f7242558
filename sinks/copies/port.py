"""The port of all sinks: bring a copy of the tables, kept by another system, from one commit to a
later one, exactly once.

A sink keeps a mark beside its rows and moves both in one transaction. Whoever publishes reads the
mark, computes what changed since (`sinks.changes`), and hands it over together with the mark that
it started from: if the target holds another one by then, nothing happens. So a publisher may be
killed anywhere, come late, or run twice, and every commit takes effect once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from pipeline.errors import TidemillError
from sinks.copies.change import Change, Mark

if TYPE_CHECKING:
    from sinks.copies.change_rows import Rows


class SinkFailed(TidemillError):
    """The target did not take the commit, and holds what it held before.

    The next publish tries again.
    """


class Sink(Protocol):
    """One target. Raises SinkFailed where the target does not answer or refuses, SettingsError for
    what a person must fix.
    """

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
        raise SinkFailed(
            f"{what}: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error
