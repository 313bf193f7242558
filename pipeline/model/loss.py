"""Why an attempt ended without a receipt: the same words wherever it is said."""

from __future__ import annotations

import msgspec


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt that ended without a receipt."""

    reason: str
    """For people: `memory`, `time limit`, a signal, ..."""
    suspect: int | None = None
    """Index of the input that was being processed, where that is known."""
    detail: str = ""
    """A traceback, or what was printed."""
    innocent: bool = False
    """It says nothing about the inputs (say, the store did not answer), and costs no attempt."""
