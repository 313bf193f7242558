"""Which transform an object goes to, by its key. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pipeline.model.settings import PipelineSettings


def glob_to_regex(pattern: str) -> str:
    """A glob over keys as a regular expression: `*` and `?` stay within one path part, `**/` spans
    any number of parts.

    `[abc]`, `[a-z]`, `[!x]` as in the shell. `**` at the end matches everything below.
    """
    out, i = "", 0
    while i < len(pattern):
        if pattern.startswith("**/", i):
            out, i = out + "(?:[^/]*/)*", i + 3
        elif pattern.startswith("**", i):
            out, i = out + ".*", i + 2
        elif pattern[i] in "*?":
            out, i = out + ("[^/]*" if pattern[i] == "*" else "[^/]"), i + 1
        elif pattern[i] == "[" and (end := pattern.find("]", i + 2)) > 0:
            body = pattern[i + 1 : end].replace("\\", "\\\\")
            out, i = out + "[" + ("^" + body[1:] if body[0] == "!" else body) + "]", end + 1
        else:
            out, i = out + re.escape(pattern[i]), i + 1
    return out


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
