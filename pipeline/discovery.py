"""From a page of a listing to what is new, changed or missing. The comparison is pure; the two requests it needs are named."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.errors import ObjectNotFound
from pipeline.ledger import overlay_between
from pipeline.model import Inputs, Page, Quarantined
from pipeline.planner import Found
from pipeline.ports import Store
from pipeline.settings import PipelineSettings
from pipeline.state import State


@dataclass(slots=True)
class Judged:
    """What one page says: objects to process by transform, known keys that the page lacks, and what no route takes."""

    found: list[Found] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    listed: int = 0
    unmatched: int = 0
    unmatched_sample: list[str] = field(default_factory=list)
    unusable: list[Quarantined] = field(default_factory=list)


def glob_to_regex(pattern: str) -> str:
    """A glob over keys as a regular expression: `*` and `?` stay within one path part, `**/` spans any number of parts.

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
    """Which transform takes a key: the first whose `match` fits, within the pipeline's include and exclude."""

    __slots__ = ("_cut", "_exclude", "_include", "_routes", "everything")

    def __init__(self, settings: PipelineSettings) -> None:
        self._cut = len(settings.source)
        self._include = _matcher(settings.include)
        self._exclude = _matcher(settings.exclude) if settings.exclude else lambda _: False
        self._routes = [(t.name, _matcher(t.match)) for t in settings.transforms]
        unfiltered = self._include is None and not settings.exclude
        self.everything = self._routes[0][0] if unfiltered and self._routes and self._routes[0][1] is None else None
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


def judge(page: Page, state: State, router: Router, after: str, upto: str | None) -> Judged:
    """Compare a page that covers the keys in (`after`, `upto`] with the ledger.

    Objects at their committed version cost nothing further. `replaces` of what is found is exact as long as no commit
    decides about the key before it is planned (the planner checks that).
    """
    judged = Judged(listed=len(page.keys))
    judged.unusable = [_unusable(name) for name in page.unusable]
    if _is_unchanged(page, state, after, upto):
        return judged
    known = _known(state, after, upto)
    if not known and router.everything is not None:
        judged.found = [Found(router.everything, _all_new(page))] if page.keys else []
        judged.absent = sorted(_absent_quarantined(page, state, known, after, upto))
        return judged
    columns: dict[str, Inputs] = {}
    for key, etag, size, modified in zip(page.keys, page.etags, page.sizes, page.modified_us, strict=True):
        before = known.pop(key, None)
        if before is not None and before[0] == etag:
            continue
        if not router.includes(key):
            continue
        transform = router.route(key)
        if transform is None:
            judged.unmatched += 1
            if len(judged.unmatched_sample) < 5:
                judged.unmatched_sample.append(key)
            continue
        inputs = columns.get(transform)
        if inputs is None:
            inputs = columns[transform] = Inputs(keys=[], etags=[], sizes=[], modified_us=[], replaces=[])
        inputs.keys.append(key)
        inputs.etags.append(etag)
        inputs.sizes.append(size)
        inputs.modified_us.append(modified)
        inputs.replaces.append(before[1] if before is not None else None)
    judged.found = [Found(name, inputs) for name, inputs in columns.items()]
    judged.absent = sorted([*known, *_absent_quarantined(page, state, known, after, upto)])
    return judged


def _all_new(page: Page) -> Inputs:
    return Inputs(
        keys=page.keys, etags=page.etags, sizes=page.sizes, modified_us=page.modified_us, replaces=[None] * len(page.keys)
    )


def _is_unchanged(page: Page, state: State, after: str, upto: str | None) -> bool:
    """The common case, decided on whole columns: the page is exactly what the ledger's runs hold for its range."""
    if any(overlay_between(state.overlay, after, upto)) or any(after < k and (upto is None or k <= upto) for k in state.quarantine):
        return False
    table = state.ledger.between(after, upto)
    if table is None:
        return not page.keys
    if table.num_rows != len(page.keys):
        return False
    import pyarrow as pa

    known_keys, known_etags = table.column("key"), table.column("etag")
    return bool(
        known_keys.equals(pa.chunked_array([pa.array(page.keys, pa.string())]))
        and known_etags.equals(pa.chunked_array([pa.array(page.etags, pa.string())]))
    )


def _known(state: State, after: str, upto: str | None) -> dict[str, tuple[str, str]]:
    """Committed keys of a range: key -> (etag, output)."""
    table = state.ledger.between(after, upto)
    known: dict[str, tuple[str, str]] = {}
    if table is not None:
        columns = (table.column(name).to_pylist() for name in ("key", "etag", "output"))
        known = {key: (etag, output) for key, etag, output in zip(*columns, strict=True)}
    for key, entry in overlay_between(state.overlay, after, upto):
        if entry is None:
            known.pop(key, None)
        else:
            known[key] = (entry.etag, entry.output)
    return known


def _absent_quarantined(page: Page, state: State, known: Iterable[str], after: str, upto: str | None) -> list[str]:
    """Quarantined keys of the range that the page lacks. Names that can be no key are listed nowhere: they stay."""
    candidates = [
        key for key, entry in state.quarantine.items() if after < key and (upto is None or key <= upto) and entry.kind != "key"
    ]
    if not candidates:
        return []
    present = set(page.keys)
    present.update(known)
    return [key for key in candidates if key not in present]


def _unusable(name: str) -> Quarantined:
    return Quarantined(
        key=name,
        etag="",
        kind="key",
        reason="the name is not valid UTF-8, so it cannot be an object key: rename the file",
    )


async def confirm_missing(store: Store, absent: Iterable[str]) -> list[str]:
    """Those keys of `absent` that a request for each does not find either: a listing may be stale, a HEAD is not."""
    missing = []
    for key in absent:
        try:
            await store.head(key)
        except ObjectNotFound:
            missing.append(key)
    return missing
