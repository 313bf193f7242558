"""Rows and values that no column holds, as readable text."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputRejected

if TYPE_CHECKING:
    import pyarrow as pa


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
    """Half a surrogate pair, as JSON may have it, written out: Parquet's text is UTF-8, which has
    none.
    """
    return text.encode("utf-8", "backslashreplace").decode()


_encoded = json.JSONEncoder(ensure_ascii=False).encode


def json_of(value: Any) -> str:
    """Any value as JSON that every reader takes.

    Raises InputRejected for one that is nested too deeply.

    Whole numbers keep all digits. NaN and the infinities, dates and decimals are text. Bytes are
    text where they are UTF-8, else
    `{"base64": ...}`. Of anything else it is what `str` says.
    """
    try:
        return _encoded(_plain(value))
    except RecursionError:
        raise InputRejected("a value is nested too deeply to be kept as text: flatten it") from None


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool) or type(value) is int:
        return value
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, float):
        return (
            float(value)
            if math.isfinite(value)
            else {"nan": "NaN", "inf": "Infinity"}.get(str(value), "-Infinity")
        )
    if isinstance(value, bytes | bytearray | memoryview):
        return _of_bytes(bytes(value))
    if isinstance(value, Mapping):
        return {encodable(str(key)): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, date | time):
        return value.isoformat()
    if hasattr(value, "tolist") and not isinstance(value, Decimal):  # numpy's numbers and arrays
        return _plain(value.tolist())
    return encodable(str(value))


def _of_bytes(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def values_of(array: pa.Array) -> list[Any]:
    """`value_of` each."""
    try:
        found: list[Any] = array.to_pylist()
    except (UnicodeDecodeError, ValueError, OverflowError, ImportError):
        found = [value_of(scalar) for scalar in array]
    return found


def value_of(scalar: pa.Scalar) -> Any:
    """An Arrow value as a Python one; text that is no UTF-8 as bytes, nanoseconds as text (Python's
    own times have none).
    """
    import pyarrow as pa

    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        if isinstance(scalar, pa.StructScalar):
            return {name: value_of(scalar[name]) for name in scalar}
        if isinstance(scalar, pa.ListScalar):
            return [value_of(one) for one in scalar.values]
        return bytes(scalar.as_buffer()) if hasattr(scalar, "as_buffer") else str(scalar)
    except (ValueError, OverflowError, ImportError):
        return str(scalar)
