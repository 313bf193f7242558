"""The home prefix of a pipeline: made and probed before its first commit, checked ever after."""

from __future__ import annotations

import msgspec

from pipeline import keys
from pipeline.errors import ObjectNotFound, PreconditionFailed, SettingsError, StateInvalid
from pipeline.model import FORMAT_VERSION
from pipeline.ports import Ids, Store
from pipeline.stores.probe import probe_conditional_writes


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """`format.json`: whose home this is, and where its rows go."""

    format: int
    pipeline: str
    source: str
    output: str


async def open_home(store: Store, marker: Marker, ids: Ids) -> None:
    """Make sure that the pipeline's home exists, in a format this version reads, on a store that keeps its promises.

    Raises StateInvalid for a newer or damaged format, SettingsError if the pipeline moved its source or output prefix,
    StoreUnsafe if the store ignores conditional writes.
    """
    home = keys.home(marker.pipeline)
    key = keys.format_marker(home)
    try:
        _check(read_marker((await store.get(key)).body, key), marker, key)
    except ObjectNotFound:
        await probe_conditional_writes(store, home, ids.nonce())
        try:
            await store.put(key, msgspec.json.encode(marker), create_only=True)
        except PreconditionFailed:  # another run was first
            _check(read_marker((await store.get(key)).body, key), marker, key)


def read_marker(body: bytes, key: str) -> Marker:
    """The marker stored under `key`. Raises StateInvalid."""
    try:
        found = msgspec.json.decode(body, type=Marker)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateInvalid(f"{key} is damaged: {error}") from None
    if found.format > FORMAT_VERSION:
        raise StateInvalid(
            f"{key} was written by a newer Tidemill (format {found.format}, this one reads up to {FORMAT_VERSION}): upgrade"
        )
    return found


def _check(found: Marker, wanted: Marker, key: str) -> None:
    for name in ("pipeline", "source", "output"):
        there, here = getattr(found, name), getattr(wanted, name)
        if there != here:
            raise SettingsError(
                f"pipeline {wanted.pipeline} of this bucket has {name}={there!r} ({key}), the file declares {here!r}:"
                " change it back, or give the pipeline another name"
            )
