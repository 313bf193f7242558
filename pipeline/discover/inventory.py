"""S3 Inventory as the listing of a first run: files that S3 writes each day or week with all keys
of a bucket.

An inventory is up to two days old. So it only says what to look at: keys that are not known at all
are planned at the version that it names, workers read that very version or find that it is gone,
and nothing is judged deleted. Listings see to the rest.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from pipeline.errors import ObjectNotFound, SettingsError
from pipeline.model.listing import Page

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.ports import Content, Store

ROWS = 10_000
"""Keys of one page."""
CHUNK_BYTES = 8 * 2**20
MANIFEST_BYTES_MAX = 64 * 2**20
NEEDED = {"key": "Key", "size": "Size", "lastmodifieddate": "LastModifiedDate", "etag": "ETag"}
"""Columns that must be there, as S3 calls the fields; of each format's names letters alone count
(`e_tag`, `ETag`).
"""
VERSIONED = ("islatest", "isdeletemarker")
"""Columns of inventories of all versions."""


@dataclass(frozen=True, slots=True)
class _File:
    key: str
    md5: str


class Inventory:
    """One inventory report. store: of the bucket that the reports are written to. manifest: the key
    of its manifest.json.

    bucket, prefix: whose objects are wanted; pages hold keys without `prefix`, as the store of the
    sources does.
    """

    def __init__(self, store: Store, manifest: str, *, bucket: str, prefix: str = "") -> None:
        self._store, self._manifest = store, manifest
        self._bucket, self._prefix = bucket, prefix
        self._format, self._columns = "", [""]
        self._files: list[_File] = []

    async def open(self) -> None:
        """Read the manifest.

        Raises SettingsError where it is none, of another bucket, or lacks a field that is needed.
        """
        where = f"{self._store.url}{self._manifest}"
        source, self._format, schema, self._files = _parsed(await self._read_manifest(where), where)
        if source != self._bucket:
            raise SettingsError(
                f"{where} is an inventory of bucket {source!r}, not of {self._bucket!r}"
            )
        if self._format not in _READERS:
            raise SettingsError(
                f"{where}: files are {self._format!r}; CSV, ORC and Parquet can be read"
            )
        self._columns = _column_names(schema) if self._format == "CSV" else []
        if self._columns:
            self._require(self._columns, where)

    async def _read_manifest(self, where: str) -> bytes:
        """Its bytes; none where it is too large to be one."""
        try:
            head = await self._store.head(self._manifest)
            return (
                (await self._store.get(self._manifest)).body
                if head.size_bytes <= MANIFEST_BYTES_MAX
                else b""
            )
        except ObjectNotFound:
            raise SettingsError(f"{where}: there is no such manifest") from None

    async def pages(self, source: str) -> AsyncIterator[Page]:
        """The newest versions below `source`, file by file, each in its own order.

        Raises SettingsError for a damaged file.
        """
        for file in self._files:
            content = await self._fetch(file)
            try:
                batches = self._batches(file, content.path())
                while (table := await asyncio.to_thread(next, batches, None)) is not None:
                    page = self._page(table, source)
                    if page.keys:
                        yield page
            finally:
                content.close()

    async def _fetch(self, file: _File) -> Content:
        """The file, as it is on this machine's disk."""
        where = f"{self._store.url}{file.key}"
        try:
            head = await self._store.head(file.key)
        except ObjectNotFound:
            raise SettingsError(f"{where}, which the manifest names, does not exist") from None
        content = self._store.open_content(file.key, head.etag, head.size_bytes)
        if await asyncio.to_thread(_md5, content.path) != file.md5:
            content.close()
            raise SettingsError(
                f"{where} is not what the manifest says (its MD5 differs): it was changed or"
                " damaged"
            )
        return content

    def _batches(self, file: _File, path: Path) -> Iterator[pa.Table]:
        """Tables with plain column names, of at most ROWS rows."""
        import pyarrow as pa

        where = f"{self._store.url}{file.key}"
        try:
            for found in _READERS[self._format](path, self._columns):
                table = found.rename_columns([_plain(name) for name in found.column_names])
                self._require(table.column_names, where)
                for start in range(0, table.num_rows, ROWS):
                    yield table.slice(start, ROWS)
        except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"{where} cannot be read as {self._format}: {' '.join(str(error).split())[:200]}"
            ) from None

    def _require(self, columns: Iterable[str], where: str) -> None:
        absent = [NEEDED[name] for name in NEEDED if name not in columns]
        if absent:
            raise SettingsError(
                f"{where}: the inventory lacks {', '.join(absent)}: add it to the inventory's"
                " optional fields"
            )

    def _page(self, table: pa.Table, source: str) -> Page:
        columns = {
            name: table.column(name).to_pylist()
            for name in (*NEEDED, *VERSIONED)
            if name in table.column_names
        }
        rows: list[tuple[str, str, int, int]] = []
        below, encoded = self._prefix + source, self._format == "CSV"
        for i, name in enumerate(columns["key"]):
            key = unquote_plus(_text(name)) if encoded else _text(name)
            old = "islatest" in columns and not _true(columns["islatest"][i])
            marker = "isdeletemarker" in columns and _true(columns["isdeletemarker"][i])
            if old or marker or not key.startswith(below) or key == below:
                continue
            etag, size = _text(columns["etag"][i]).strip('"'), int(columns["size"][i] or 0)
            changed_us = _microseconds(columns["lastmodifieddate"][i])
            rows.append((key[len(self._prefix) :], etag, size, changed_us))
        return Page.of(rows)


def _md5(copy: Callable[[], Path]) -> str:
    with copy().open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _true(value: Any) -> bool:
    return value is True or _text(value).lower() == "true"


def _microseconds(value: Any) -> int:
    from datetime import UTC, datetime

    if isinstance(value, int):  # milliseconds, where a file does not say that it is a time
        return value * 1000
    when = value if isinstance(value, datetime) else datetime.fromisoformat(_text(value))
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1e6)


def _parquet(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        wanted = [name for name in file.schema_arrow.names if _plain(name) in (*NEEDED, *VERSIONED)]
        for batch in file.iter_batches(batch_size=ROWS, columns=wanted):
            yield pa.Table.from_batches([batch])


def _orc(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    import pyarrow as pa
    from pyarrow import orc

    file = orc.ORCFile(str(path))
    wanted = [name for name in file.schema.names if _plain(name) in (*NEEDED, *VERSIONED)]
    for stripe in range(file.nstripes):
        yield pa.Table.from_batches([file.read_stripe(stripe, columns=wanted)])


def _csv(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    import pyarrow as pa
    from pyarrow import csv

    types = dict.fromkeys(columns, pa.string())
    read = csv.ReadOptions(column_names=columns, block_size=CHUNK_BYTES)
    convert = csv.ConvertOptions(
        column_types=types, include_columns=[c for c in columns if c in (*NEEDED, *VERSIONED)]
    )
    with gzip.open(path) as stream:
        for batch in csv.open_csv(stream, read_options=read, convert_options=convert):
            yield pa.Table.from_batches([batch])


_READERS = {"Parquet": _parquet, "ORC": _orc, "CSV": _csv}


def _parsed(body: bytes, where: str) -> tuple[str, str, str, list[_File]]:
    """The manifest's bucket, format, columns and files."""
    try:
        manifest = json.loads(body)
        file_format, schema = str(manifest["fileFormat"]), str(manifest["fileSchema"])
        files = [_File(str(file["key"]), str(file["MD5checksum"])) for file in manifest["files"]]
        return str(manifest["sourceBucket"]), file_format, schema, files
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SettingsError(
            f"{where} is no manifest of S3 Inventory: give the URL of its manifest.json"
        ) from None


def _column_names(schema: str) -> list[str]:
    return [_plain(name) for name in re.split(r"[\s,]+", schema)]
