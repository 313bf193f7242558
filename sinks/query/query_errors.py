"""DuckDB's errors in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import ObjectNotFound, SettingsError, StoreDenied, StoreUnavailable
from sinks.query.query_limits import Guard

_STORE_ERROR = re.compile(
    r"\ATraceback .*^(?:[\w.]+\.)?(ObjectNotFound|StoreUnavailable|StoreDenied|ObjectArchived):"
    r" ([^\n]*)",
    re.S | re.M,
)
"""What DuckDB 2.0 says when a registered file system raises: a bare `duckdb.Error` with the whole
traceback as its text.
"""


_KINDS: dict[str, type[Exception]] = {
    "ObjectNotFound": ObjectNotFound,
    "StoreDenied": StoreDenied,
    "ObjectArchived": StoreDenied,
}


@contextmanager
def explained(guard: Guard | None, memory_exceeded: str) -> Iterator[None]:
    """DuckDB's errors in the words of this module.

    Those of batches come through Arrow, as OSError with the same text. memory_exceeded: what to say
    where the memory did not suffice.
    """
    import duckdb

    try:
        yield
    except (duckdb.Error, OSError) as error:
        text = str(error)
        reason = guard.reason if guard is not None else ""
        is_interrupt = isinstance(error, duckdb.InterruptException)
        if reason or is_interrupt or text.startswith("INTERRUPT Error"):
            raise SettingsError(reason or "the query was interrupted") from None
        is_memory = isinstance(error, duckdb.OutOfMemoryException)
        if is_memory or text.startswith("Out of Memory Error"):
            raise SettingsError(memory_exceeded) from None
        raise translated(error) from None


def translated(error: Exception) -> Exception:
    """The error to raise in its place: of the store, where that is where it began."""
    import duckdb

    ours = _STORE_ERROR.search(str(error))
    if ours is not None:  # raised by the store's file system, below DuckDB
        return _of_store(_KINDS.get(ours[1], StoreUnavailable), ours[2])
    text = one_line(error)
    if isinstance(error, duckdb.IOException) or text.startswith("IO Error"):
        gone = "No such file" in text or "No files found" in text
        return _of_store(ObjectNotFound if gone else StoreUnavailable, text)
    if isinstance(error, duckdb.PermissionException) or text.startswith("Permission Error"):
        return SettingsError(f"{text}: queries read the pipeline's tables only")
    return SettingsError(text)


def _of_store(kind: type[Exception], text: str) -> Exception:
    if kind is ObjectNotFound:
        return kind(f"{text} (the vacuum removed it meanwhile: ask again)")
    return kind(text)


def one_line(error: Exception) -> str:
    """DuckDB's message without its list of candidates and its drawing of the place."""
    text = str(error).partition("\n\nLINE ")[0].partition("Candidate functions:")[0]
    return " ".join(text.split())
