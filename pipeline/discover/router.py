"""Which transform an object goes to, by its key. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pipeline.model.settings import PipelineSettings

_WILDCARDS = (("**/", "(?:[^/]*/)*"), ("**", ".*"), ("*", "[^/]*"), ("?", "[^/]"))


def glob_to_regex(pattern: str) -> str:
    """A glob over keys as a regular expression: `*` and `?` stay within one path part, `**/` spans
    any number of parts.

    `[abc]`, `[a-z]`, `[!x]` as in the shell. `**` at the end matches everything below.
    """
    out, i = "", 0
    while i < len(pattern):
        part, i = _translated(pattern, i)
        out += part
    return out


def _translated(pattern: str, i: int) -> tuple[str, int]:
    """What begins at a position, and where the next begins."""
    for glob, regex in _WILDCARDS:
        if pattern.startswith(glob, i):
            return regex, i + len(glob)
    if pattern[i] == "[" and (end := pattern.find("]", i + 2)) > 0:
        return _one_of(pattern[i + 1 : end]), end + 1
    return re.escape(pattern[i]), i + 1


def _one_of(characters: str) -> str:
    body = characters.replace("\\", "\\\\")
    return "[" + ("^" + body[1:] if body[0] == "!" else body) + "]"


def _matcher(globs: Sequence[str]) -> Callable[[str], object] | None:
    """A test for any of the globs; None where everything matches."""
    if any(glob == "**" for glob in globs):
        return None
    return re.compile("|".join(f"(?:{glob_to_regex(g)})" for g in globs), re.DOTALL).fullmatch


class Router:
    """Which transform takes a key: the first whose `match` fits, within the pipeline's include and
    exclude.
    """

    __slots__ = ("_cut", "_exclude", "_include", "_routes", "everything")

    def __init__(self, settings: PipelineSettings) -> None:
        self._cut = len(settings.source)
        self._include = _matcher(settings.include)
        self._exclude = _matcher(settings.exclude) if settings.exclude else lambda _: False
        self._routes = [(t.name, _matcher(t.match)) for t in settings.transforms]
        unfiltered = self._include is None and not settings.exclude
        self.everything: str | None = (
            self._routes[0][0]
            if unfiltered and self._routes and self._routes[0][1] is None
            else None
        )
        """The transform that takes every key, where there is one: no key needs to be looked at."""

    def includes(self, key: str) -> bool:
        """Whether the key belongs to the pipeline at all."""
        name = key[self._cut :]
        if self._include is not None and not self._include(name):
            return False
        return self._exclude is not None and not self._exclude(name)

    def route(self, key: str) -> str | None:
        """The name of the transform that takes the key, None if none does."""
        name = key[self._cut :]
        for transform, matches in self._routes:
            if matches is None or matches(name):
                return transform
        return None
