"""Rows and values that no column holds, as readable text."""

from __future__ import annotations

import json
from typing import Any


def as_json(row: Any) -> str:
    """A rejected row as readable text, whatever it is."""
    if isinstance(row, str):
        return row
    if isinstance(row, bytes):
        return row.decode("utf-8", "backslashreplace")
    try:
        return json.dumps(row, default=str, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(row)


def encodable(text: str) -> str:
    """Half a surrogate pair, as JSON may have it, written out: Parquet's text is UTF-8, which has none."""
    return text.encode("utf-8", "backslashreplace").decode()
