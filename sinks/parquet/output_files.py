"""The files of one attempt: Parquet bodies in memory, or on local disk where they are large, until
they are put into the store.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.model import keys
from pipeline.model.receipt import MAIN_TABLE, REJECTED_TABLE, OutputFile
from sinks.parquet.encodings import digest_of, write_large
from sinks.parquet.partitions import folders
from sinks.values.schema import fingerprint

if TYPE_CHECKING:
    import pyarrow as pa

BODY_BYTES = 16 * 2**20
"""Files up to this size are handed over in memory."""


@dataclass(frozen=True, slots=True)
class FinishedFile:
    """One output file: small ones as `body`, large ones as `path`."""

    file: OutputFile
    body: bytes | None
    path: Path | None


class OutputFiles:
    """Writes the files of one attempt, each under a name of its own. finished: those that are
    written, in order.
    """

    def __init__(self, output: str, task: str, nonce: str, scratch: Path) -> None:
        self._prefixes = {
            MAIN_TABLE: keys.rows_prefix(output),
            REJECTED_TABLE: keys.rejected_prefix(output),
        }
        self._task = task
        self._nonce = nonce
        self._scratch = scratch
        self.finished: list[FinishedFile] = []

    def close(self) -> None:
        """Remove scratch files."""
        for finished in self.finished:
            if finished.path is not None:
                finished.path.unlink(missing_ok=True)

    def write(self, table_name: str, partition: dict[str, str | None], table: pa.Table) -> None:
        """One file of one partition."""
        name = f"{self._task}.{self._nonce}.{len(self.finished)}.parquet"
        path = self._scratch / name
        body, size, digest = _encoded(table, path)
        described = OutputFile(
            table=table_name,
            key=f"{self._prefixes[table_name]}{folders(partition)}{name}",
            size_bytes=size,
            rows=table.num_rows,
            partition=partition,
            schema_id=fingerprint(table.schema),
            sha256=digest,
        )
        self.finished.append(FinishedFile(described, body, path if body is None else None))

    def write_rejected(self, lines: Sequence[tuple[str, str, str, str]]) -> None:
        """Rejected rows, each as its source's key and etag, its text, and the reason."""
        import pyarrow as pa

        columns = {
            "row": _texts([row for _, _, row, _ in lines]),
            "reason": _texts([reason for _, _, _, reason in lines]),
            "_source_key": _texts([key for key, _, _, _ in lines]).dictionary_encode(),
            "_source_etag": _texts([etag for _, etag, _, _ in lines]).dictionary_encode(),
            "_task": _texts([self._task] * len(lines)).dictionary_encode(),
        }
        self.write(REJECTED_TABLE, {}, pa.table(columns))


def _texts(values: Sequence[str]) -> pa.Array:
    import pyarrow as pa

    return pa.array(values, pa.string())


def _encoded(table: pa.Table, path: Path) -> tuple[bytes | None, int, str]:
    """The file's body, None for a large one, which is at `path` then; its size and digest."""
    import pyarrow.parquet as pq

    if table.nbytes > BODY_BYTES:
        return None, *_on_disk(table, path)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", compression_level=1)
    body = sink.getvalue()
    return body, len(body), hashlib.sha256(body).hexdigest()


def _on_disk(table: pa.Table, path: Path) -> tuple[int, str]:
    """Write a large file, none where that fails; its size and digest."""
    try:
        write_large(table, path, compression_level=1)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path.stat().st_size, digest_of(path)
