"""Dimension tables: files of the bucket that SQL may join.

Nobody commits them: they are as they are when somebody looks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pipeline.errors import ObjectNotFound, SettingsError
from pipeline.model.keys import is_folder_marker
from pipeline.model.settings import DimensionSettings
from pipeline.ports import Store

_READERS = {"csv": "read_csv", "tsv": "read_csv", "parquet": "read_parquet"}
_READERS |= dict.fromkeys(("json", "jsonl", "ndjson"), "read_json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """A dimension as it is now. version: another one where any of its files is."""

    name: str
    reader: str
    files: tuple[tuple[str, int], ...]
    version: str


async def look_up(store: Store, declared: Sequence[DimensionSettings]) -> list[Dimension]:
    """The declared dimensions as they are.

    Raises SettingsError for one without files, or of files that are no tables.
    """
    return [await _one(store, dimension) for dimension in declared]


async def _one(store: Store, declared: DimensionSettings) -> Dimension:
    found = await _files_at(store, declared.key)
    if not found:
        raise SettingsError(
            f"dimension {declared.name}: there is nothing at {declared.key!r} in the bucket"
        )
    reader = _reader_of([key for key, _, _ in found])
    if reader is None:
        raise SettingsError(
            f"dimension {declared.name}: {found[0][0]!r} and its like are not all CSV, all JSON or"
            " all Parquet"
        )
    return Dimension(
        name=declared.name,
        reader=reader,
        files=tuple((key, size) for key, size, _ in found),
        version=_version_of(found),
    )


async def _files_at(store: Store, key: str) -> list[tuple[str, int, str]]:
    """Key, size and etag of the file, or of all in the folder."""
    found: list[tuple[str, int, str]] = []
    if key.endswith("/"):
        async for page in store.list(key):
            listed = zip(page.keys, page.sizes, page.etags, strict=True)
            found += [one for one in listed if not is_folder_marker(one[0], one[1])]
    else:
        with suppress(ObjectNotFound):
            head = await store.head(key)
            found = [(head.key, head.size_bytes, head.etag)]
    return found


def _version_of(found: Sequence[tuple[str, int, str]]) -> str:
    etags = [(key, etag) for key, _, etag in found]
    return hashlib.sha256(repr(etags).encode()).hexdigest()[:16]


def _reader_of(keys: Sequence[str]) -> str | None:
    """DuckDB's function for files of these names; None where they are of several kinds, or of an
    unknown one.
    """
    endings = {key.removesuffix(".gz").rpartition(".")[2].lower() for key in keys}
    readers = {_READERS.get(ending) for ending in endings}
    return readers.pop() if len(readers) == 1 else None
