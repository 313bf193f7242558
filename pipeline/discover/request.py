"""What a pass is asked for, and how much of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from pipeline.discover.compare import Again
from pipeline.model.listing import Page
from pipeline.model.settings import Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a pass may begin at most, None: no limit. size_bytes: the first file goes whatever its
    size: none waits for ever.

    usd: estimated dollars, for a whole run; an engine that knows what work costs sees to it (see
    `cost.Budget`).
    """

    files: int | None = None
    size_bytes: int | None = None
    usd: float | None = None

    def __bool__(self) -> bool:
        return self != Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a pass is asked for. limits: how much of it. priority: what goes first, None: as the
    pipeline declares.

    names: only these keys, and no listing. again: which objects at their committed version are
    processed once more. listing: instead of the store's own, what somebody listed a while ago,
    below the source prefix that it is called with: of that, only what is not known at all, and
    nothing is missing. growing: list only the prefixes whose keys grow, from the last key on (see
    `growth.Growth`).
    """

    limits: Limits = field(default_factory=Limits)
    priority: Priority | None = None
    names: Sequence[str] | None = None
    again: Again | None = None
    listing: Callable[[str], AsyncIterator[Page]] | None = None
    growing: bool = False

    @property
    def is_once(self) -> bool:
        """Whether a single pass answers it, whatever is left."""
        return bool(self.limits) or any(
            asked is not None for asked in (self.names, self.again, self.listing)
        )
