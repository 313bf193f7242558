"""Single values as users give them, each checked.

Raises SettingsError, with one line, for what cannot be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pipeline.errors import SettingsError

T = TypeVar("T", bound=str)


def between(label: str, what: str, value: object, low: float, high: float) -> float:
    """A number within its bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise SettingsError(
            f"{label}: {what}={value!r} is not a number between {low:g} and {high:g}"
        )
    return value


def whole(label: str, what: str, value: object, low: float, high: float) -> int:
    """A whole number within its bounds; 2.0 is one, 2.5 is not rounded to one."""
    number = between(label, what, value, low, high)
    if number != int(number):
        raise SettingsError(f"{label}: {what}={value!r} is not a whole number")
    return int(number)


def optional(label: str, what: str, value: object, low: float, high: float) -> int | None:
    """A whole number within its bounds, or None."""
    return None if value is None else whole(label, what, value, low, high)


def boolean(label: str, what: str, value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise SettingsError(f"{label}: {what}={value!r} is neither True nor False")
    return value


def strings(label: str, what: str, values: object) -> tuple[str, ...]:
    """A list of strings, none of them empty; not one string, which is a list of letters too."""
    if (
        isinstance(values, str)
        or not isinstance(values, Sequence)
        or not all(isinstance(v, str) and v for v in values)
    ):
        raise SettingsError(f"{label}: {what}={values!r} must be a list of strings")
    return tuple(values)


def one_of(label: str, what: str, value: object, choices: Sequence[T]) -> T:
    """One of a few words."""
    for choice in choices:
        if value == choice and isinstance(value, str):
            return choice
    words = ", ".join(f'"{choice}"' for choice in choices)
    raise SettingsError(f"{label}: {what}={value!r} is not one of {words}")
