"""What counts as a query's time."""

from __future__ import annotations

import pytest

from sinks.query import query_limits
from sinks.query.query_limits import Stopwatch


def test_a_stopwatch_adds_up_what_lies_between_its_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(query_limits.time, "monotonic", lambda: now)
    watch = Stopwatch()
    seen = [watch.used_s()]
    deeds = [
        (5, watch.go_on),
        (2, watch.go_on),
        (3, watch.pause),
        (7, watch.pause),
        (11, watch.go_on),
        (1, watch.pause),
    ]
    for seconds, deed in deeds:
        now += seconds
        deed()
        seen.append(watch.used_s())
    now += 50
    assert (seen, watch.used_s()) == ([0, 0, 2, 5, 5, 5, 6], 6)
