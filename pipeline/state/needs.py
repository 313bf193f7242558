"""What must be looked up in the sorted runs before a state can answer for it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Needs:
    """Sources and outputs about which the state will be asked (see `Log.learn`)."""

    sources: list[str] = field(default_factory=list)
    holders: list[str] = field(default_factory=list)
    """Sources, and the outputs that hold their rows."""
    outputs: list[str] = field(default_factory=list)
