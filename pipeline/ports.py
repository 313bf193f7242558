"""The seams: what the protocol needs from the outside world.

Production and simulation implement the same ones.

All protocol code is `async` over these and uses nothing of asyncio itself, so that a simulation can
step it request by request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from pipeline.model.listing import Head, Page, Stored
from pipeline.model.loss import Loss
from pipeline.model.receipt import Receipt
from pipeline.model.task import Assignment


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreTraits:
    """What a store is, for those who may treat some stores better than others.

    The defaults are right for every store.
    """

    local_root: Path | None = None
    """The directory of this machine that the keys are paths below, where it is one."""
    opens_cheaply: bool = False
    """Opening an object costs little: reading ahead gains nothing."""
    is_mountable: bool = False
    """Containers elsewhere can have its prefixes as directories."""
    foreign_options: Callable[[], dict[str, str]] = dict
    """How other clients in this process reach it by its URL, in the words of object_store (Rust),
    with the keys of now.
    """
    old_version: Callable[[str, str], Awaitable[OldVersion | None]] | None = None
    """An older version of an object (key, etag) that it keeps beside the present one."""


class OldVersion(Protocol):
    """A version that is not the present one."""

    head: Head

    def content(self) -> Content:
        """Read access for user code."""
        ...


PLAIN = StoreTraits()


class Store(Protocol):
    """Objects under keys. Every method may raise StoreUnavailable or StoreDenied.

    Keys are relative to the bucket URL (its prefix is added and removed by the store). An etag
    changes with every overwrite. `modified_us` comes from the store's clock, never from the
    caller's.
    """

    url: str
    traits: StoreTraits

    def list(
        self, prefix: str, *, start_after: str = "", split_at: Sequence[str] = ()
    ) -> AsyncIterator[Page]:
        """Objects whose key starts with `prefix`, in UTF-8 byte order of the whole key, above
        `start_after`.

        Complete: every object that existed before the call and still exists is listed. Never lists
        temporary files. A prefix without objects gives no page, or empty pages.

        split_at: keys, in order, at which a store may begin to list before it has come to them, so
        as to list several ranges at once. They change nothing about what is listed or its order,
        need not exist, and pages do not end at them. Good ones lie about 16,000 keys apart: nearer
        ones cost requests, and of a much larger range only the beginning is listed ahead, since
        what a store holds ahead of its reader is bounded. Closing the iterator ends all that was
        begun.
        """
        ...

    async def get(
        self, key: str, *, if_match: str | None = None, byte_range: tuple[int, int] | None = None
    ) -> Stored:
        """The object, or its bytes [start, end) for `byte_range` (clipped to its size).

        Raises ObjectNotFound; PreconditionFailed where `if_match` is not the current etag. Never
        returns fewer bytes than the object (or range) has.
        """
        ...

    async def get_many(self, keys: Sequence[str]) -> Sequence[Stored | None]:
        """The objects in the order of `keys`, None where there is none; fetched concurrently where
        that helps.
        """
        ...

    async def put(
        self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None
    ) -> None:
        """Write the whole object, durably, and only then return.

        create_only: PreconditionFailed if the key exists. if_match: PreconditionFailed if the
        current etag is another (or the object is missing). Both are decided atomically by the
        store. Raises KeyUnsupported. No automatic re-send of conditional writes: an unclear outcome
        is StoreUnavailable, and the caller reads back.
        """
        ...

    async def put_file(self, key: str, path: Path) -> None:
        """Like a plain `put` of the file's bytes, in bounded memory (multipart for large files).

        The file may be consumed.
        """
        ...

    async def head(self, key: str) -> Head:
        """Raises ObjectNotFound."""
        ...

    async def head_many(self, keys: Sequence[str]) -> Sequence[Head | None]:
        """The heads in the order of `keys`, None where there is no object; asked for concurrently
        where that helps.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove the objects; keys that do not exist are no error."""
        ...

    def open_content(self, key: str, etag: str, size_bytes: int) -> Content:
        """Read access for user code to one version of one object. Does no request yet.

        etag "": whatever is there, for objects that are written once.
        """
        ...

    async def check(self, prefix: str = "") -> None:
        """Raises SettingsError where the bucket does not exist, StoreDenied where `prefix` may not
        be listed.
        """
        ...

    async def close(self) -> None:
        """Release connections. The store is not used afterwards."""
        ...


class Outbox(Protocol):
    """Where an attempt's outputs and notes go: a store, or a mounted bucket.

    Every key is written once.
    """

    async def put(self, key: str, body: bytes) -> None:
        """Write the whole object, and return only when it is there."""
        ...

    async def put_file(self, key: str, path: Path) -> None:
        """Like `put` of the file's bytes, in bounded memory. The file may be consumed."""
        ...


class Content(Protocol):
    """One version of one object, for synchronous user code.

    Reads fail with SourceChanged once the version is gone.

    User code may swallow that error, so the worker asks `problem()` afterwards.
    """

    def read(self) -> bytes:
        """All bytes."""
        ...

    def open(self) -> BinaryIO:
        """A seekable binary file, read in ranges of bounded memory."""
        ...

    def path(self) -> Path:
        """A real file with these bytes: the object itself where it is one, else a temporary copy
        that `close` removes.
        """
        ...

    def problem(self) -> Exception | None:
        """None if everything read so far surely belongs to the version; else SourceChanged,
        ObjectNotFound or StoreUnavailable.
        """
        ...

    @property
    def unverified(self) -> bool:
        """Whether what was read could not be tied to the version here: then whoever settles asks
        the store.
        """
        ...

    @property
    def bytes_read(self) -> int:
        """Bytes delivered so far (for `path`, the object's size)."""
        ...

    def close(self) -> None:
        """Release what `open` and `path` hold."""
        ...


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that ended: with a receipt, or with a loss."""

    task: str
    nonce: str
    receipt: Receipt | None = None
    loss: Loss | None = None
    broken: bool = False
    """The workers cannot run this code at all: no further attempt of theirs can."""


class Executor(Protocol):
    """Runs assignments somewhere.

    Loses and repeats nothing on purpose, but the protocol survives both.
    """

    owner: str
    """Names this runner for `is_gone`: for example `local:host:boot:pid:start`."""
    detached: bool
    """Whether attempts run elsewhere: they may wait in a queue there, note in the bucket that they
    began, and outlive this process.
    """

    @property
    def outstanding(self) -> int:
        """Attempts dispatched here whose end `finished` has not reported.

        Always 0 for a detached executor.
        """
        ...

    @property
    def parallelism(self) -> int:
        """How many attempts run at the same time."""
        ...

    async def dispatch(self, assignments: Sequence[Assignment]) -> None:
        """Start attempts; returns when they are handed over, not when they end."""
        ...

    async def finished(self) -> list[Finished]:
        """Wait until at least one outstanding attempt ends; return all that ended.

        Empty if none is outstanding.
        """
        ...

    def is_gone(self, owner: str) -> bool:
        """Whether the runner of that name surely no longer runs (False where nobody can tell)."""
        ...

    async def close(self) -> None:
        """End all workers.

        Attempts still running are abandoned: their receipts, if any, are found later.
        """
        ...


class Clock(Protocol):
    """Local time. Only deadlines and what people see depend on it, never what is deleted."""

    def now_ms(self) -> int: ...

    def monotonic_s(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class Ids(Protocol):
    """Unique names."""

    def nonce(self) -> str:
        """Never the same twice, in any process: letters and digits only."""
        ...
