"""How long to wait between tries."""

from __future__ import annotations

import math
from collections.abc import Iterator


def backoff(first_s: float, most_s: float = math.inf) -> Iterator[float]:
    """Waiting times without end, each twice as long as the one before, none above `most_s`."""
    wait_s = first_s
    while True:
        yield min(wait_s, most_s)
        wait_s = min(2 * wait_s, most_s)
