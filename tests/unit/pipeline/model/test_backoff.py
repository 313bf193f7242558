from __future__ import annotations

from itertools import islice

from pipeline.model.backoff import backoff


def test_waits_double_up_to_a_bound() -> None:
    assert list(islice(backoff(0.5, 3.0), 5)) == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert list(islice(backoff(5.0, 3.0), 2)) == [3.0, 3.0]
