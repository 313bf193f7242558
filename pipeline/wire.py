"""Stored objects to bytes and back. Everything read from the bucket is checked here before anyone believes it. Pure."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from pipeline.errors import StateInvalid
from pipeline.jobs import Job
from pipeline.model import FORMAT_VERSION, Commit, LossNote, Receipt
from pipeline.state import Checkpoint

T = TypeVar("T", Commit, Receipt, Checkpoint, LossNote, Job)

STORED_BYTES_MAX = 256 * 2**20
"""A log entry, receipt or checkpoint above this size is refused unread."""

_encode = msgspec.json.Encoder(order="sorted").encode
_decoders: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind, strict=True) for kind in (Commit, Receipt, Checkpoint, LossNote, Job)
}


class _Marked(msgspec.Struct):
    format: int


class _Named(msgspec.Struct):
    id: str


def encode(value: Commit | Receipt | Checkpoint | LossNote | Job) -> bytes:
    """The value as JSON."""
    return _encode(value)


def decode(kind: type[T], body: bytes, key: str) -> T:
    """The value stored under `key`. Raises StateInvalid with one line that names the key and what is wrong."""
    if len(body) > STORED_BYTES_MAX:
        raise StateInvalid(f"{key} has {len(body)} bytes, more than any {kind.__name__.lower()} Tidemill writes")
    try:
        value: T = _decoders[kind].decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _refuse_newer(body, key)
        raise StateInvalid(f"{key} is not a valid {kind.__name__.lower()} (damaged or truncated): {error}") from None
    if value.format > FORMAT_VERSION:
        _refuse_newer(body, key)
    return value


def commit_id(body: bytes, key: str) -> str:
    """The id of the commit stored under `key`, without decoding the rest. Raises StateInvalid."""
    try:
        return msgspec.json.decode(body, type=_Named).id
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateInvalid(f"{key} is not a valid commit (damaged or truncated): {error}") from None


def _refuse_newer(body: bytes, key: str) -> None:
    try:
        written = msgspec.json.decode(body, type=_Marked).format
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    if written > FORMAT_VERSION:
        raise StateInvalid(
            f"{key} was written by a newer Tidemill (format {written}, this one reads up to {FORMAT_VERSION}): upgrade"
        ) from None
