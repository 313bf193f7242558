"""What an attempt needs from outside: code, content, a writer; and the errors that end it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from pipeline.errors import (
    SettingsError,
    TidemillError,
)
from pipeline.model.receipt import OutputFile
from pipeline.model.task import Inputs
from pipeline.ports import Content


@dataclass(frozen=True, slots=True)
class Code:
    """A transform as loaded in this process."""

    call: Callable[..., object]
    batch_size: int | None
    safe_to_rerun: bool = True


class WrittenFile(Protocol):
    """One finished output file, in memory or on local disk."""

    @property
    def file(self) -> OutputFile: ...
    @property
    def body(self) -> bytes | None: ...
    @property
    def path(self) -> Path | None: ...


class Written(Protocol):
    """What a writer made of all results; the maps are by input position and leave out zeros."""

    @property
    def rows(self) -> Mapping[int, int]: ...
    @property
    def rejected(self) -> Mapping[int, int]: ...
    @property
    def problems(self) -> Mapping[int, str]: ...
    @property
    def schema(self) -> str | None: ...
    @property
    def files(self) -> Sequence[WrittenFile]: ...
    @property
    def broken(self) -> Mapping[str, int]: ...


class Writer(Protocol):
    """Turns results into output files. `add` lets exceptions of the user's generators through."""

    def add(
        self,
        index: int,
        key: str,
        etag: str,
        result: object,
        rejected: Sequence[tuple[object, str]] = (),
    ) -> None: ...
    def finish(self) -> Written: ...
    def close(self) -> None: ...


class Contents(Protocol):
    """Opens source objects at their planned version; may fetch small ones at once."""

    mounted: bool
    """Whether objects are read through a file system that knows no versions (see
    `Receipt.mounted`).
    """

    def expect(self, inputs: Inputs) -> None: ...

    async def open(self, key: str, etag: str, size_bytes: int, modified_us: int) -> Content: ...


class AttemptLost(TidemillError):
    """The attempt cannot say anything about its inputs (no memory, no disk space): no receipt is
    written.
    """


class CodeBroken(SettingsError):
    """A transform cannot be loaded: that is no input's fault, and no attempt can do anything about
    it.
    """


class Calls(Protocol):
    """Around each call of user code (see `user_code.UserCode`).

    `settled`: what an async result comes to.
    """

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...
    def settled(self, result: object) -> object: ...


class PlainCalls:
    """User code that is called as it is, and not async."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is to be put right."""

    def settled(self, result: object) -> object:
        """The result."""
        return result
