"""Stored objects to bytes and back.

Everything read from the bucket is checked here before anyone believes it. Pure.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from pipeline.errors import InvariantViolated, StateInvalid
from pipeline.model.commit import FORMAT_VERSION, Commit, Settled
from pipeline.model.receipt import LossNote, Receipt
from pipeline.model.task import Task
from pipeline.state.checkpoint import Checkpoint
from pipeline.state.jobs import Job

T = TypeVar("T", Commit, Receipt, Checkpoint, LossNote, Job)

MIB = 2**20
STORED_BYTES_MAX: dict[type, int] = {
    Commit: 256 * MIB,
    Checkpoint: 1024 * MIB,
    Receipt: 64 * MIB,
    LossNote: MIB,
    Job: 64 * MIB,
}
"""A larger object of this kind is neither written nor read.

Commit: 1,000 tasks of 2,000 keys, at 130 bytes each. Checkpoint: two million outputs and
quarantined files, at 500 bytes each. Receipt: 2,000 sources that all failed, each with a traceback
of 4,000 characters and as much again. LossNote: one such, with room. Job: 10,000 keys of 1,024
bytes, all of them escaped. A decoder holds about three times as much.
"""

_encode = msgspec.json.Encoder(order="sorted").encode
_decoders: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind, strict=True)
    for kind in (Commit, Receipt, Checkpoint, LossNote, Job)
}


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are not what they should be."""


class _Marked(msgspec.Struct):
    format: int


class _Named(msgspec.Struct):
    id: str


def encode(value: Commit | Receipt | Checkpoint | LossNote | Job) -> bytes:
    """The value as JSON. Raises InvariantViolated rather than write what could not be
    read again.
    """
    body = _encode(value)
    if len(body) > STORED_BYTES_MAX[type(value)]:
        raise InvariantViolated(
            f"a {type(value).__name__.lower()} of {len(body)} bytes could not be read again: it is"
            " not written"
        )
    return body


def may_be(kind: type, size_bytes: int) -> bool:
    """Whether an object of so many bytes can be one of this kind: listings tell sizes before
    anything is read.
    """
    return size_bytes <= STORED_BYTES_MAX[kind]


def decode(kind: type[T], body: bytes, key: str) -> T:
    """The value stored under `key`, whole in itself: parallel columns are equally long, positions
    lie within them.

    Raises StateInvalid with one line that names the key and what is wrong, whatever the bytes are.
    """
    what = kind.__name__.lower()
    if not may_be(kind, len(body)):
        raise StateInvalid(f"{key} has {len(body)} bytes, more than any {what} Tidemill writes")
    value = _decoded(kind, body, key, what)
    if value.format > FORMAT_VERSION:
        _refuse_newer(body, key)
    wrong = _contradiction(value)
    if wrong:
        raise StateInvalid(f"{key} is not a valid {what}: {wrong}")
    return value


def _decoded(kind: type[T], body: bytes, key: str, what: str) -> T:
    try:
        value: T = _decoders[kind].decode(body)
    except UNREADABLE as error:
        _refuse_newer(body, key)
        raise StateInvalid(f"{key} is not a valid {what} (damaged or truncated): {error}") from None
    return value


def commit_id(body: bytes, key: str) -> str:
    """The id of the commit stored under `key`, without decoding the rest. Raises StateInvalid."""
    try:
        return msgspec.json.decode(body, type=_Named).id
    except UNREADABLE as error:
        raise StateInvalid(f"{key} is not a valid commit (damaged or truncated): {error}") from None


def _refuse_newer(body: bytes, key: str) -> None:
    try:
        written = msgspec.json.decode(body, type=_Marked).format
    except UNREADABLE:
        return
    if written > FORMAT_VERSION:
        raise StateInvalid(
            f"{key} was written by a newer Tidemill (format {written}, this one reads up to"
            f" {FORMAT_VERSION}): upgrade"
        ) from None


def _contradiction(value: object) -> str:
    """What is wrong with a value whose fields each have the right type; empty if nothing is."""
    if isinstance(value, Commit):
        return _contradiction_of_commit(value)
    if isinstance(value, Checkpoint):
        return _contradiction_of_checkpoint(value)
    if isinstance(value, Job) and value.etags and len(value.keys) != len(value.etags):
        return f"it has {len(value.keys)} keys and {len(value.etags)} etags"
    return ""


def _no_sequence(sequence: int) -> str:
    return "" if 0 < sequence < 10**20 else f"{sequence} is no sequence number"


def _named(what: str, wrong: list[str]) -> str:
    return f"{what} {wrong[0][:40]} contradicts itself" if wrong else ""


def is_even(task: Task) -> bool:
    """Whether the columns of the task's inputs are equally long."""
    inputs = task.inputs
    return (
        len(inputs.keys)
        == len(inputs.etags)
        == len(inputs.sizes)
        == len(inputs.modified_us)
        == len(inputs.replaces)
    )


def _is_whole(settled: Settled) -> bool:
    n = len(settled.rows)
    return len(settled.rejected) == n and all(
        0 <= problem.index < n for problem in settled.problems
    )


def _contradiction_of_commit(value: Commit) -> str:
    uneven = [task.id for task in value.plan if not is_even(task)]
    odd = [settled.task for settled in value.settle if not _is_whole(settled)]
    return _no_sequence(value.sequence) or _named("task", uneven) or _named("settled task", odd)


def _contradiction_of_checkpoint(value: Checkpoint) -> str:
    uneven = [name for name, task in value.tasks.items() if task.id != name or not is_even(task)]
    return _no_sequence(value.sequence) or _named("task", uneven)
