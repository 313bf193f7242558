"""Proves before the first commit that a store keeps the promises that exactly-once commits stand
on.

What a service documents is not asked: what it does is looked at, with a few small objects below the
home prefix, about twenty requests. An answer that is lost or a store that asks to slow down proves
nothing: then the probe asks again, and gives up with StoreUnavailable, never with StoreUnsafe. That
a store passes is no proof for a race that it loses seldom; eight creators at once are what a check
followed by a write, the usual mistake, does not get through.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

from pipeline.errors import (
    ObjectNotFound,
    PreconditionFailed,
    StoreDenied,
    StoreUnavailable,
    StoreUnsafe,
)
from pipeline.model.backoff import backoff
from pipeline.model.listing import Page
from pipeline.ports import Store

T = TypeVar("T")

CREATORS = 8
TRIES_MAX = 6
PAUSE_S = 0.05
"""Before the second try of an unanswered request; doubled before each further one."""
_NAMES = ("B", "a-", "a/b", "a0")
"""In the order of their bytes; sorted as words, without regard to case, or folder by folder they
come in another one.
"""
_WRONG = "0" * 32


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What the probe found out about a store that it let pass."""

    ordered: bool = True
    """Whether the service lists in byte order; otherwise each listing is collected and sorted in
    memory.
    """


@runtime_checkable
class Paged(Protocol):
    """A store whose service lists in pages, in an order of its own."""

    @property
    def sorts(self) -> bool: ...
    def pages(
        self, prefix: str, start_after: str = "", *, size: int = 1000
    ) -> AsyncIterator[Page]: ...


async def probe(store: Store, home: str, nonce: str) -> Probed:
    """Try what the protocol relies on with objects of our own below `home`, and take them away
    again.

    Raises StoreUnsafe with what was seen, why it matters and what to use instead; StoreUnavailable
    where the store does not answer; StoreDenied where it may not be written.
    """
    prefix = f"{home}probe-{nonce}/"
    names = [prefix + name for name in _NAMES]
    try:
        await _prove_conditions(store, names[0])
        return await _prove_listings(store, prefix, names)
    finally:
        with suppress(StoreUnavailable, StoreDenied):  # what went wrong before says more
            await _answered(lambda: store.delete(names))


# -- one object ------------------------------------------------------------------------------------


async def _prove_conditions(store: Store, key: str) -> None:
    with suppress(ObjectNotFound):  # a store that remembers this answer serves it below
        await _answered(lambda: store.get(key))
    body = await _race(store, key)
    if await _lets_through(lambda: store.put(key, b"again", create_only=True)):
        raise _unsafe(
            store,
            "overwrote an object that was to be created only if it is absent (If-None-Match: *)",
            _TWICE,
        )
    if await _lets_through(lambda: store.put(key, b"at another", if_match=_WRONG)):
        raise _unsafe(
            store,
            "overwrote an object at another version than the one that was named (If-Match)",
            _TWICE,
        )
    if await _lets_through(lambda: store.get(key, if_match=_WRONG)):
        raise _unsafe(
            store,
            "answered a read at another version than the one that was named (If-Match)",
            _MIXED,
        )
    await _prove_etags(store, key, body)


async def _prove_etags(store: Store, key: str, body: bytes) -> None:
    before = await _seen(store, key, body, "an object that had just been created")
    await _swap(store, key, before, b"swapped")
    after = await _seen(store, key, b"swapped", "an object that had just been overwritten")
    if after == before:
        raise _unsafe(store, "kept an object's etag when its content changed", _MIXED)
    if await _lets_through(lambda: store.get(key, if_match=before)):
        raise _unsafe(store, "answered a read at the version before the last (If-Match)", _MIXED)


async def _race(store: Store, key: str) -> bytes:
    """Several creators of one key at once, of which one may succeed: what it wrote."""
    why = StoreUnavailable("")
    for wait_s in _waits_s():
        results, winners = await _create_at_once(store, key)
        try:
            found = (await _answered(lambda: store.get(key))).body
        except ObjectNotFound:
            problem = _of_absence(store, winners, results)
            if problem is not None:
                raise problem from None
            why = next(won for won in results if isinstance(won, StoreUnavailable))
            await asyncio.sleep(wait_s)
            continue
        _refuse_another(store, winners, found)
        return found
    raise why


async def _create_at_once(
    store: Store, key: str
) -> tuple[list[bool | StoreUnavailable], list[bytes]]:
    """What each creator was answered, and what those that succeeded wrote: one at the most."""
    bodies = [b"by %d" % number for number in range(CREATORS)]
    results = await asyncio.gather(*(_created(store, key, body) for body in bodies))
    winners = [body for body, won in zip(bodies, results, strict=True) if won is True]
    if len(winners) > 1:
        what = (
            f"told {len(winners)} of {CREATORS} writers at once that each had created the same"
            " object (If-None-Match: *)"
        )
        raise _unsafe(store, what, _TWICE)
    return results, winners


def _refuse_another(store: Store, winners: Sequence[bytes], found: bytes) -> None:
    if winners and found != winners[0]:
        raise _unsafe(
            store,
            "told one writer that it had created an object, and holds what another wrote",
            _TWICE,
        )


def _of_absence(
    store: Store, winners: Sequence[bytes], results: Sequence[object]
) -> StoreUnsafe | None:
    """What the store did wrong where there is no object after the race."""
    if winners:
        return _unsafe(store, "did not show an object that had just been created", _STALE)
    if all(won is False for won in results):
        return _unsafe(
            store, f"refused all {CREATORS} creators of an object that does not exist", _TWICE
        )
    return None


async def _created(store: Store, key: str, body: bytes) -> bool | StoreUnavailable:
    """Whether the store said so; why it did not say."""
    try:
        await store.put(key, body, create_only=True)
    except PreconditionFailed:
        return False
    except StoreUnavailable as error:
        return error
    return True


async def _seen(store: Store, key: str, body: bytes, what: str) -> str:
    """The etag, by a read and by a head, of an object that must be seen as it was just written."""
    try:
        stored, head = (
            await _answered(lambda: store.get(key)),
            await _answered(lambda: store.head(key)),
        )
    except ObjectNotFound:
        raise _unsafe(store, f"did not show {what}", _STALE) from None
    if stored.body != body:
        raise _unsafe(store, f"showed older content of {what}", _STALE)
    if head.etag != stored.etag or head.size_bytes != len(body):
        raise _unsafe(store, f"answered HEAD with an older version of {what}", _STALE)
    return head.etag


async def _swap(store: Store, key: str, etag: str, body: bytes) -> None:
    """Overwrite at the version that is there, though answers may be lost."""
    why = StoreUnavailable("")
    for wait_s in _waits_s():
        try:
            await store.put(key, body, if_match=etag)
        except PreconditionFailed:
            if (await _answered(lambda: store.get(key))).body == body:
                return  # an earlier try took effect
            raise _unsafe(
                store,
                "refused to overwrite an object at the very version that it has (If-Match)",
                _FLOOR,
            ) from None
        except StoreUnavailable as error:
            why = error
            await asyncio.sleep(wait_s)
            continue
        return
    raise why


# -- listings --------------------------------------------------------------------------------------


async def _prove_listings(store: Store, prefix: str, names: Sequence[str]) -> Probed:
    for name in names[1:]:
        await _answered(partial(store.put, name, b"listed"))
    listed = await _answered(lambda: _listed(store, prefix))
    _require_all(store, names, listed)
    if await _answered(lambda: _listed(store, prefix, names[1])) != list(names[2:]):
        raise _unsafe(
            store,
            "did not go on with a listing after the key that was named (start-after)",
            _UNLISTED,
        )
    return await _prove_pages(store, prefix, names)


def _require_all(store: Store, names: Sequence[str], listed: Sequence[str]) -> None:
    if lost := sorted(set(names) - set(listed)):
        raise _unsafe(
            store,
            f"left {len(lost)} of {len(names)} objects that had just been written out of a listing",
            _UNLISTED,
        )
    if listed != list(names):
        raise _unsafe(store, "listed keys out of byte order, or some of them twice", _UNLISTED)


async def _prove_pages(store: Store, prefix: str, names: Sequence[str]) -> Probed:
    if not isinstance(store, Paged):
        return Probed()
    raw = await _answered(lambda: _in_pages(store, prefix))
    if sorted(raw, key=str.encode) != list(names):
        raise _unsafe(store, "lost or repeated keys between two pages of a listing", _UNLISTED)
    return Probed(ordered=raw == list(names) and not store.sorts)


async def _listed(store: Store, prefix: str, after: str = "") -> list[str]:
    return [key async for page in store.list(prefix, start_after=after) for key in page.keys]


async def _in_pages(store: Paged, prefix: str) -> list[str]:
    return [key async for page in store.pages(prefix, size=2) for key in page.keys]


# -- answers ---------------------------------------------------------------------------------------


def _waits_s() -> Iterator[float]:
    """How long to wait after each try."""
    return islice(backoff(PAUSE_S), TRIES_MAX)


async def _answered(ask: Callable[[], Awaitable[T]]) -> T:
    """What the store answers, asked again where it does not: for requests that may be repeated."""
    for wait_s in islice(_waits_s(), TRIES_MAX - 1):
        try:
            return await ask()
        except StoreUnavailable:
            await asyncio.sleep(wait_s)
    return await ask()


async def _lets_through(ask: Callable[[], Awaitable[object]]) -> bool:
    """Whether the store does what it has to refuse."""
    try:
        await _answered(ask)
    except PreconditionFailed:
        return False
    except StoreUnsafe:  # by itself the client noticed that the answer is another version's
        return True
    return True


_TWICE = "so two runs could commit the same files twice"
_MIXED = "so rows of one version of a file could be committed as another's"
_STALE = "so a run could go on from a state that is over, and commit files twice"
_FLOOR = "so the log could never be cleared"
_UNLISTED = "so files could be missed, or taken for deleted"
ALTERNATIVE = (
    "use a service that honours If-None-Match and If-Match (AWS S3, Cloudflare R2, MinIO; the S3"
    " interface of Google Cloud Storage ignores them), and copy the files there"
)


UNORDERED = (
    "the service lists keys in another order than that of their bytes: each listing is collected"
    " and sorted in memory"
)
ORDERED = "for many millions of objects use a service that lists in byte order, as AWS S3 does"


def _unsafe(store: Store, what: str, why: str) -> StoreUnsafe:
    return StoreUnsafe(f"{store.url} {what}, {why}: {ALTERNATIVE}")
