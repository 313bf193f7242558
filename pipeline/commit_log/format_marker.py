"""The home prefix of a pipeline: made and probed before its first commit, checked ever after."""

from __future__ import annotations

import msgspec

from pipeline.commit_log.store_probe import Probed, probe
from pipeline.errors import ObjectNotFound, PreconditionFailed, SettingsError, StateInvalid
from pipeline.model import keys
from pipeline.model.commit import FORMAT_VERSION
from pipeline.model.listing import Stored
from pipeline.ports import Ids, Store
from pipeline.state import codec


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """`format.json`: whose home this is, and where its rows go."""

    format: int
    pipeline: str
    source: str
    output: str
    generation: int = 0
    probed: Probed | None = None
    """What was found out about the store when the home was made. For people: nothing depends on it.
    """


async def open_home(store: Store, marker: Marker, ids: Ids) -> None:
    """Make sure that the pipeline's home exists, in a format this version reads, on a store that
    keeps its promises.

    Raises StateInvalid for a newer or damaged format, SettingsError if the pipeline moved its
    source or output prefix, StoreUnsafe if the store does not keep what commits rely on (see
    `stores.probe`).
    """
    home = keys.of_generation(keys.home(marker.pipeline), marker.generation)
    key = keys.format_marker(home)
    try:
        stored = await store.get(key)
        if not await _moved(store, stored, marker, key):
            _check(read_marker(stored.body, key), marker, key)
    except ObjectNotFound:
        await _refuse_remains(store, marker, home, key)
        marker = msgspec.structs.replace(marker, probed=await probe(store, home, ids.nonce()))
        await _create(store, marker, key)


async def _create(store: Store, marker: Marker, key: str) -> None:
    try:
        await store.put(key, msgspec.json.encode(marker), create_only=True)
    except PreconditionFailed:  # another run was first
        _check(read_marker((await store.get(key)).body, key), marker, key)


async def _moved(store: Store, stored: Stored, wanted: Marker, key: str) -> bool:
    """Whether the source was moved just now: as long as nothing was ever committed, a misspelt one
    may be fixed.
    """
    found = read_marker(stored.body, key)
    if found.source == wanted.source or (found.pipeline, found.output) != (
        wanted.pipeline,
        wanted.output,
    ):
        return False
    if await _has_commits(store, key.removesuffix(keys.format_marker(""))):
        return False
    try:
        moved = msgspec.structs.replace(found, source=wanted.source)
        await store.put(key, msgspec.json.encode(moved), if_match=stored.etag)
    except PreconditionFailed:  # somebody else moved it, or deleted it
        return False
    return True


async def _has_commits(store: Store, home: str) -> bool:
    for prefix in (keys.log_prefix(home), keys.checkpoint_prefix(home)):
        async for page in store.list(prefix):
            if page.keys:
                return True
    return False


async def require_home(store: Store, home: str) -> None:
    """Raises SettingsError if the home is gone that was there before: what a process remembers of
    it must not be added to.
    """
    try:
        await store.head(keys.format_marker(home))
    except ObjectNotFound:
        raise SettingsError(
            f"{keys.format_marker(home)} was deleted under this run: bring {home} back from a"
            " backup, then run again"
        ) from None


async def _refuse_remains(store: Store, marker: Marker, home: str, key: str) -> None:
    """Raises SettingsError where there is no marker but something that a pipeline left: its home
    was deleted, in part or whole, or the output prefix is another pipeline's. A new beginning there
    would process every file again, beside the rows of before.
    """
    for prefix in (
        keys.log_prefix(home),
        keys.checkpoint_prefix(home),
        keys.rows_prefix(marker.output),
    ):
        async for page in store.list(prefix):
            if not page.keys:
                continue
            try:
                await store.head(key)
            except ObjectNotFound:
                raise SettingsError(
                    f"{key} is missing, but {page.keys[0]} is there: the state of pipeline"
                    f" {marker.pipeline} was deleted; bring {home} back from a backup, or, to start"
                    f" over, delete both {home} and {marker.output}"
                ) from None
            return  # another run is making the home right now


def read_marker(body: bytes, key: str) -> Marker:
    """The marker stored under `key`. Raises StateInvalid."""
    try:
        found = msgspec.json.decode(body, type=Marker)
    except codec.UNREADABLE as error:
        raise StateInvalid(f"{key} is damaged: {error}") from None
    if found.format > FORMAT_VERSION:
        raise StateInvalid(
            f"{key} was written by a newer Tidemill (format {found.format}, this one reads up to"
            f" {FORMAT_VERSION}): upgrade"
        )
    return found


def _check(found: Marker, wanted: Marker, key: str) -> None:
    for name in ("pipeline", "source", "output"):
        there, here = getattr(found, name), getattr(wanted, name)
        if there != here:
            raise SettingsError(
                f"pipeline {wanted.pipeline} of this bucket has {name}={there!r} ({key}), the file"
                f" declares {here!r}: change it back, or give the pipeline another name"
            )
