"""Which of the objects that a pass found go now, in which order, and what is left for later passes.

Pages come in key order. Where the newest or the oldest are to go first and not all can go, the best
are held until the listing has ended: as many as the limits allow, and never more than HELD_MAX.
What is held may be decided about meanwhile, by this pass or by others; such objects are let go
before the listing moves on, because from then on the state may forget who decided about them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.discover.compare import Again
from pipeline.discover.listing import Scope
from pipeline.discover.request import Request
from pipeline.model.commit import Backlog
from pipeline.model.pass_report import PassReport
from pipeline.model.policy import Policy
from pipeline.model.settings import PipelineSettings
from pipeline.passes.context import PassContext
from pipeline.plan.evidence import ByTransform, Evidence, Found
from pipeline.state.state import State

HELD_MAX = 250_000
"""Objects that are held at once: a larger limit is served in several passes."""
SLICE = 10_000
"""Objects that go into one commit."""


class Held(NamedTuple):
    """An object that waits for its turn; larger ones go first: new before once more, then by time,
    then in key order.
    """

    is_new: bool
    time: int
    place: int
    transform: str
    key: str
    etag: str
    size: int
    modified_us: int
    replaces: str | None


@dataclass(slots=True)
class Left:
    """Objects that wait for a later pass."""

    files: int = 0
    size_bytes: int = 0
    oldest_us: int | None = None

    def add(self, size: int, modified_us: int) -> None:
        """Count one more."""
        self.files += 1
        self.size_bytes += size
        self.oldest_us = modified_us if self.oldest_us is None else min(self.oldest_us, modified_us)


class Admission:
    """Takes what each page brings, gives what goes now.

    One for each pass; changes nothing but itself and its budget.
    """

    new: Left
    again: Left

    def __init__(self, context: PassContext, request: Request) -> None:
        priority, limits = request.priority or context.settings.priority, request.limits
        self._settings = context.settings
        self._budget = context.budget
        self._limits = limits
        self._order = priority.order
        limited = limits.files is not None or limits.size_bytes is not None
        self._at_once = priority.order == "key" and not limited
        """Whole pages go as they come."""
        self._is_bounded = (
            limited or context.budget is not None or context.policy.open_tasks_max is not None
        )
        room = HELD_MAX if self._is_bounded else context.policy.outstanding_sources_max
        self._room = min(room, HELD_MAX, HELD_MAX if limits.files is None else limits.files)
        self._page: list[Found] = []
        self._held: list[Held] = []
        self._held_bytes = 0
        self._queue: list[Held] = []
        self._places = 0
        self._sequence = 0
        self.base: int = 0
        """The sequence that was known before the first of the objects at hand was listed."""
        self.is_spent: bool = False
        """The limits are reached."""
        self.over_budget: int = 0
        self.new, self.again = Left(), Left()

    # -- what comes --------------------------------------------------------------------------------

    def offer(self, found: list[Found], base: int, state: State, now_ms: int) -> None:
        """Take what a page brought, listed after `base`."""
        self.base = min(self.base, base) if self._held or self._queue else base
        if self._at_once:
            self._page = found
            return
        for one in found:
            for i, key, etag in _due(one, base, state, now_ms):
                size, modified_us = one.inputs.sizes[i], one.inputs.modified_us[i]
                time = {"newest": modified_us, "oldest": -modified_us, "key": 0}[self._order]
                self._places -= 1
                replaces = one.inputs.replaces[i]
                self._hold(
                    Held(
                        not one.again,
                        time,
                        self._places,
                        one.transform,
                        key,
                        etag,
                        size,
                        modified_us,
                        replaces,
                    )
                )

    def _hold(self, one: Held) -> None:
        heapq.heappush(self._held, one)
        self._held_bytes += one.size
        if not self._is_bounded or self._order == "key":
            return
        most = self._limits.size_bytes
        while len(self._held) > self._room or (
            most is not None and self._held_bytes - self._held[0].size >= most
        ):
            worst = heapq.heappop(self._held)
            self._held_bytes -= worst.size
            self._leave(worst)

    def is_ready(self, *, more: bool) -> bool:
        """Whether something is to go now. more: further pages follow."""
        if self._at_once or self._queue:
            return bool(self._page or self._queue)
        waits = self._order != "key" and more and (self._is_bounded or len(self._held) < self._room)
        return bool(self._held) and not waits

    @property
    def has_more(self) -> bool:
        """Whether further objects are to go right after those that were given last."""
        return bool(self._queue)

    # -- what goes ---------------------------------------------------------------------------------

    def take(self, state: State, report: PassReport, now_ms: int) -> list[Found]:
        """What goes now, the first ones first, within limits and budget."""
        if self._at_once:
            found, self._page = self._page, []
        else:
            found = _grouped(self._next(report))
        return found if self._budget is None else self._affordable(found, state, now_ms)

    def _next(self, report: PassReport) -> list[Held]:
        if not self._queue:
            self._queue, self._held, self._held_bytes = sorted(self._held), [], 0
        picked: list[Held] = []
        files, size_bytes = report.planned, report.planned_bytes
        while self._queue and len(picked) < SLICE and not self.is_spent:
            if self._has_room(files, size_bytes, self._queue[-1].size):
                picked.append(self._queue.pop())
                files, size_bytes = files + 1, size_bytes + picked[-1].size
            else:
                self.is_spent = True
        return picked

    def _has_room(self, files: int, size_bytes: int, size: int) -> bool:
        most = self._limits
        if most.files is not None and files >= most.files:
            return False
        return most.size_bytes is None or not files or size_bytes + size <= most.size_bytes

    def _affordable(self, found: list[Found], state: State, now_ms: int) -> list[Found]:
        """Leave out what the cost limits do not allow now."""
        kept = []
        for one in found:
            transform = self._settings.transform(one.transform)
            due = [i for i, _, _ in _due(one, self.base, state, now_ms)]
            if transform is None or not due or self._budget is None:
                kept.append(one)
                continue
            mean_bytes = sum(one.inputs.sizes) / len(one.inputs)
            room = self._budget.files_affordable(state, transform, mean_bytes, now_ms)
            going = due if room is None else due[:room]
            self._leave_over_budget(one, due[len(going) :])
            self._budget.take(state, transform, len(going), mean_bytes)
            kept.append(Found(one.transform, one.inputs.take(going), one.again))
        return kept

    def _leave_over_budget(self, one: Found, indexes: Sequence[int]) -> None:
        self.over_budget += len(indexes)
        for i in indexes:
            self._left(one).add(one.inputs.sizes[i], one.inputs.modified_us[i])

    # -- what is left ------------------------------------------------------------------------------

    def note(self, evidence: Evidence, state: State, now_ms: int) -> None:
        """Count what a commit could have planned and did not, because as many tasks are open as may
        be.
        """
        for one in evidence.found if self._is_bounded else ():
            for i, _, _ in _due(one, evidence.base, state, now_ms):
                self._left(one).add(one.inputs.sizes[i], one.inputs.modified_us[i])

    def let_go(self, state: State, now_ms: int) -> int:
        """Let go of held objects that somebody decided about since they were listed; how many of
        them are due none the less.
        """
        if state.sequence == self._sequence or not (self._held or self._queue):
            return 0
        self._sequence, held = state.sequence, [*self._held, *self._queue]
        decided = {one.key for one in held if state.decided_since(one.key, self.base)}
        if decided:
            self._queue = [one for one in self._queue if one.key not in decided]
            self._held = [one for one in self._held if one.key not in decided]
            heapq.heapify(self._held)
            self._held_bytes = sum(one.size for one in self._held)
        return sum(one.key in decided and state.is_due(one.key, one.etag, now_ms) for one in held)

    def end(self, report: PassReport, policy: Policy, *, complete: bool) -> None:
        """The listing is over, read to its end or not: what is held now is left."""
        for one in (*self._held, *self._queue):
            self._leave(one)
        self._held, self._queue = [], []
        report.over_budget = self.over_budget
        report.left = self.new.files + self.again.files
        report.left_bytes = self.new.size_bytes + self.again.size_bytes
        report.left_oldest_us = self.new.oldest_us
        report.limited = self.is_over(report) and (bool(report.left) or not complete)
        report.held_back |= (
            bool(self.again.files) and policy.open_tasks_max is not None and not report.limited
        )

    def is_over(self, report: PassReport) -> bool:
        """Whether the limits let nothing more go."""
        most = self._limits
        if most.size_bytes is not None and report.planned_bytes >= most.size_bytes:
            return True
        return self.is_spent or (most.files is not None and report.planned >= most.files)

    def backlog(self, now_ms: int, *, complete: bool) -> Backlog:
        """What to note.

        Objects that are processed once more have their rows: they are no backlog.
        """
        new = self.new
        return Backlog(
            files=new.files,
            size_bytes=new.size_bytes,
            oldest_us=new.oldest_us,
            at_ms=now_ms,
            complete=complete,
        )

    def _leave(self, one: Held) -> None:
        (self.new if one.is_new else self.again).add(one.size, one.modified_us)

    def _left(self, one: Found) -> Left:
        return self.again if one.again else self.new


def _due(found: Found, base: int, state: State, now_ms: int) -> Iterable[tuple[int, str, str]]:
    """Position, key and version of the objects that the planner would take."""
    for i, (key, etag) in enumerate(zip(found.inputs.keys, found.inputs.etags, strict=True)):
        if state.is_due(key, etag, now_ms) and not state.decided_since(key, base):
            yield i, key, etag


def _grouped(held: list[Held]) -> list[Found]:
    """As columns by transform, in the given order, with what is processed once more at the end."""
    groups = ByTransform()
    for one in held:
        groups.of(one.transform, again=not one.is_new).append(
            one.key, one.etag, one.size, one.modified_us, one.replaces
        )
    return groups.found()


# -- the order of listing --------------------------------------------------------------------------


def scopes(request: Request, settings: PipelineSettings, policy: Policy) -> list[Scope]:
    """What to list, one after the other.

    The last one is the whole source; only there it is asked what is missing.

    Prefixes that go first are listed first. A backfill begins with what is new, unless open tasks
    are bounded: then the planner keeps room for new objects, also for those that another pass finds
    meanwhile.
    """
    priority = request.priority or settings.priority
    if request.names is not None or request.listing is not None:
        return []
    prefixes = [settings.source + prefix for prefix in priority.prefixes]
    found: list[Scope] = []
    if request.again is not None and policy.open_tasks_max is None and priority.order == "key":
        found += [(prefix, None) for prefix in (*prefixes, settings.source)]
    before: list[str] = []
    for prefix in (*prefixes, settings.source):
        found.append((prefix, _beyond(request.again, tuple(before))))
        before.append(prefix)
    return found


def _beyond(again: Again | None, prefixes: tuple[str, ...]) -> Again | None:
    """The same without what is below prefixes that were listed before: once more is once."""
    if again is None or not prefixes:
        return again
    return lambda key, modified_us, known: (
        not key.startswith(prefixes) and again(key, modified_us, known)
    )
