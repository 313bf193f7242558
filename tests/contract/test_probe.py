"""The probe before the first commit: stores that cheat are refused with the reason, an outage is
never taken for cheating.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.commit_log.format_marker import Marker, open_home, read_marker
from pipeline.commit_log.store_probe import Probed, probe
from pipeline.errors import PreconditionFailed, StoreUnavailable, StoreUnsafe
from pipeline.model.listing import Head, Page, Stored
from pipeline.testing.memory_store import MemoryStore
from tests.contract.test_store import KINDS, listed, make_store

HOME = "_tidemill/p/"


class OverwritesCreated(MemoryStore):
    async def put(
        self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None
    ) -> None:
        await super().put(key, body, if_match=if_match)


class ChecksThenWrites(MemoryStore):
    """Conditional creates without a lock: right for one writer at a time."""

    async def put(
        self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None
    ) -> None:
        if create_only and key in self._objects:
            raise PreconditionFailed(key)
        await asyncio.sleep(0)
        await super().put(key, body, if_match=if_match)


class LastWins(MemoryStore):
    """Tells one creator that it won, and keeps what the last one wrote."""

    async def put(
        self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None
    ) -> None:
        await asyncio.sleep(0)
        there = key in self._objects
        await super().put(key, body, if_match=if_match)
        if create_only and there:
            raise PreconditionFailed(key)


class SwapsAlways(MemoryStore):
    async def put(
        self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None
    ) -> None:
        await super().put(key, body, create_only=create_only)


class SwapsNever(MemoryStore):
    async def put(
        self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None
    ) -> None:
        if if_match is not None:
            raise PreconditionFailed(key)
        await super().put(key, body, create_only=create_only)


class ReadsAlways(MemoryStore):
    async def get(
        self, key: str, *, if_match: str | None = None, byte_range: tuple[int, int] | None = None
    ) -> Stored:
        return await super().get(key, byte_range=byte_range)


class ReadsTheVersionBefore(MemoryStore):
    """Refuses versions that never were, and answers one that was with what is there now."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[str] = set()

    async def head(self, key: str) -> Head:
        head = await super().head(key)
        self.known.add(head.etag)
        return head

    async def get(
        self, key: str, *, if_match: str | None = None, byte_range: tuple[int, int] | None = None
    ) -> Stored:
        return await super().get(
            key, if_match=None if if_match in self.known else if_match, byte_range=byte_range
        )


class RemembersReads(MemoryStore):
    """A cache in front of reads."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Stored] = {}

    async def get(
        self, key: str, *, if_match: str | None = None, byte_range: tuple[int, int] | None = None
    ) -> Stored:
        found = await super().get(key, if_match=if_match, byte_range=byte_range)
        return self.cache.setdefault(key, found)


class RemembersAbsence(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.absent: set[str] = set()

    async def get(
        self, key: str, *, if_match: str | None = None, byte_range: tuple[int, int] | None = None
    ) -> Stored:
        if key not in self._objects:
            self.absent.add(key)
        return await super().get(
            key + "?" * (key in self.absent), if_match=if_match, byte_range=byte_range
        )


class RemembersHeads(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Head] = {}

    async def head(self, key: str) -> Head:
        return self.cache.setdefault(key, await super().head(key))


class OneEtag(MemoryStore):
    async def head(self, key: str) -> Head:
        head = await super().head(key)
        return Head(key=key, etag="same", size_bytes=head.size_bytes, modified_us=head.modified_us)

    async def get(
        self, key: str, *, if_match: str | None = None, byte_range: tuple[int, int] | None = None
    ) -> Stored:
        if if_match not in (None, "same"):
            raise PreconditionFailed(key)
        found = await super().get(key, byte_range=byte_range)
        return Stored(
            body=found.body, etag="same", size_bytes=found.size_bytes, modified_us=found.modified_us
        )

    async def put(
        self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None
    ) -> None:
        if if_match not in (None, "same"):
            raise PreconditionFailed(key)
        await super().put(key, body, create_only=create_only)


class Cheating(MemoryStore):
    """A listing that is changed before it is seen."""

    def changed(self, keys: list[str]) -> list[str]:
        return keys

    async def list(
        self, prefix: str, *, start_after: str = "", split_at: Sequence[str] = ()
    ) -> AsyncIterator[Page]:
        async for page in super().list(prefix, start_after=start_after, split_at=split_at):
            where = {key: i for i, key in enumerate(page.keys)}
            order = [where[key] for key in self.changed(list(page.keys))]
            columns: tuple[Sequence[Any], ...] = (
                page.keys,
                page.etags,
                page.sizes,
                page.modified_us,
            )
            keys, etags, sizes, modified = ([column[i] for i in order] for column in columns)
            yield Page(keys=keys, etags=etags, sizes=sizes, modified_us=modified)


class LeavesOutTheNewest(Cheating):
    def changed(self, keys: list[str]) -> list[str]:
        newest = list(self._objects)[-1]
        return [key for key in keys if key != newest]


class ListsBackwards(Cheating):
    def changed(self, keys: list[str]) -> list[str]:
        return keys[::-1]


class ListsWithoutCase(Cheating):
    def changed(self, keys: list[str]) -> list[str]:
        return sorted(keys, key=str.lower)


class ListsTwice(Cheating):
    def changed(self, keys: list[str]) -> list[str]:
        return sorted(keys * 2)


class BeginsAnew(MemoryStore):
    async def list(
        self, prefix: str, *, start_after: str = "", split_at: Sequence[str] = ()
    ) -> AsyncIterator[Page]:
        async for page in super().list(prefix):
            yield page


class LosesThePageInTheMiddle(MemoryStore):
    """Whole in pages of 1,000; pages of two leave something out."""

    sorts = False

    async def pages(
        self, prefix: str, start_after: str = "", *, size: int = 1000
    ) -> AsyncIterator[Page]:
        async for page in self.list(prefix):
            yield Page(
                keys=page.keys[:size],
                etags=page.etags[:size],
                sizes=page.sizes[:size],
                modified_us=page.modified_us[:size],
            )


CHEATS = [
    (OverwritesCreated, "told 8 of 8 writers at once"),
    (ChecksThenWrites, "told 8 of 8 writers at once"),
    (LastWins, "holds what another wrote"),
    (SwapsAlways, "overwrote an object at another version"),
    (SwapsNever, "refused to overwrite an object at the very version"),
    (ReadsAlways, "answered a read at another version"),
    (ReadsTheVersionBefore, "answered a read at the version before the last"),
    (RemembersReads, "showed older content of an object that had just been overwritten"),
    (RemembersAbsence, "did not show an object that had just been created"),
    (RemembersHeads, "answered HEAD with an older version"),
    (OneEtag, "kept an object's etag"),
    (LeavesOutTheNewest, "left 1 of 4 objects"),
    (ListsBackwards, "out of byte order"),
    (ListsWithoutCase, "out of byte order"),
    (ListsTwice, "or some of them twice"),
    (BeginsAnew, "start-after"),
    (LosesThePageInTheMiddle, "lost or repeated keys between two pages"),
]


@pytest.mark.parametrize(("kind", "words"), CHEATS)
def test_a_store_that_cheats_is_refused_with_what_was_seen(
    kind: type[MemoryStore], words: str
) -> None:
    store = kind()
    with pytest.raises(StoreUnsafe, match=words) as raised:
        asyncio.run(probe(store, HOME, "n"))
    assert "\n" not in str(raised.value)
    for part in (
        "memory:",
        ", so ",
        "use a service that honours If-None-Match",
        "Google Cloud Storage",
    ):
        assert part in str(raised.value), "what was seen, why it matters, what to use instead"
    assert store._objects == {}, "the probe's objects are removed"


@pytest.mark.parametrize("kind", KINDS)
def test_honest_stores_pass_and_keep_nothing(kind: str, tmp_path: Path) -> None:
    store = make_store(kind, tmp_path)
    assert asyncio.run(probe(store, HOME, "n")) == Probed(ordered=kind != "seaweed")
    assert asyncio.run(listed(store, "")) == []


def test_what_was_found_out_is_kept_and_older_markers_are_read() -> None:
    store, marker = MemoryStore(), Marker(format=1, pipeline="p", source="up/", output="out/")

    class Ids:
        def nonce(self) -> str:
            return "n"

    asyncio.run(open_home(store, marker, Ids()))
    body = store._objects[HOME + "format.json"].body
    assert read_marker(body, "x").probed == Probed(ordered=True)
    assert read_marker(b'{"format":1,"pipeline":"p","source":"up/","output":"out/"}', "x") == marker


class Losing(MemoryStore):
    """Loses every n-th request or its answer, by turns."""

    def __init__(self, every: int, first: int) -> None:
        super().__init__()
        self.every, self.count, self.lost = every, first, 0

    def due(self) -> bool:
        self.count += 1
        return self.count % self.every == 0

    def lose(self) -> None:
        self.lost += 1
        raise StoreUnavailable("the network")

    async def put(
        self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None
    ) -> None:
        await asyncio.sleep(0)
        due = self.due()
        if due and self.lost % 2:
            self.lose()
        await super().put(key, body, create_only=create_only, if_match=if_match)
        if due:
            self.lose()

    async def get(
        self, key: str, *, if_match: str | None = None, byte_range: tuple[int, int] | None = None
    ) -> Stored:
        if self.due():
            self.lose()
        return await super().get(key, if_match=if_match, byte_range=byte_range)

    async def head(self, key: str) -> Head:
        if self.due():
            self.lose()
        return await super().head(key)

    async def list(
        self, prefix: str, *, start_after: str = "", split_at: Sequence[str] = ()
    ) -> AsyncIterator[Page]:
        if self.due():
            self.lose()
        async for page in super().list(prefix, start_after=start_after, split_at=split_at):
            yield page

    async def delete(self, keys: Sequence[str]) -> None:
        await super().delete(keys)
        if self.due():
            self.lose()


@pytest.mark.parametrize("every", [2, 3, 5])
def test_lost_requests_and_answers_are_no_cheating(
    every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.commit_log.store_probe.PAUSE_S", 0.0)
    for first in range(every):
        store = Losing(every, first)
        assert asyncio.run(probe(store, HOME, "n")) == Probed(ordered=True)
        assert store.lost >= 3
        assert store._objects == {}


def test_a_store_that_never_answers_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.commit_log.store_probe.PAUSE_S", 0.0)
    with pytest.raises(StoreUnavailable):
        asyncio.run(probe(Losing(1, 0), HOME, "n"))
