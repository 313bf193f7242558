"""What a replay puts around the user's code, and in place of a bucket, so as to see it all."""

from __future__ import annotations

import bdb
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import KeyUnsupported
from pipeline.model.commit import Quarantined
from pipeline.model.listing import Head
from pipeline.model.task import Inputs
from pipeline.ports import Content, Store
from pipeline.work.seams import Writer, Written


class Watch:
    """Sees what the user's code raises, at the moment when it does."""

    def __init__(self, debug: Debug | None) -> None:
        self._debug = debug
        self.seen: BaseException | None = None

    def calling(self, target: Callable[..., object]) -> Callable[[Any], object]:
        """The user's function. A batch that failed is not called again for its only object."""

        def call(argument: Any) -> object:
            if self.seen is not None:
                raise self.seen
            try:
                return target(argument)
            except BaseException as error:
                self.note(error)
                raise

        return call

    def note(self, error: BaseException) -> None:
        """Open the debugger, once. Leaving it from within the code is leaving the replay."""
        if isinstance(error, bdb.BdbQuit):
            raise KeyboardInterrupt from None
        if self.seen is None and isinstance(error, Exception | SystemExit):
            self.seen = error
            if self._debug is not None:
                self._debug(error)


class Watched:
    """A writer in which the user's generators are watched."""

    def __init__(self, writer: Writer, watch: Watch) -> None:
        self._writer = writer
        self._watch = watch

    def add(
        self,
        index: int,
        key: str,
        etag: str,
        result: object,
        rejected: Sequence[tuple[object, str]] = (),
    ) -> None:
        """See `Writer`."""
        try:
            self._writer.add(index, key, etag, result, rejected)
        except BaseException as error:
            self._watch.note(error)
            raise

    def finish(self) -> Written:
        """See `Writer`."""
        return self._writer.finish()

    def close(self) -> None:
        """See `Writer`."""
        self._writer.close()


# -- the attempt -----------------------------------------------------------------------------------


class WatchedContents:
    """Opens the one version that is replayed."""

    mounted = False

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def expect(self, inputs: Inputs) -> None:
        """Nothing is done beforehand."""

    async def open(self, key: str, etag: str, size_bytes: int, modified_us: int) -> Content:
        return self._subject.open()


class KeptOutputs:
    """Keeps what an attempt writes in a directory.

    Keys that the store could not hold are refused as it would.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self._local = store.traits.local_root is not None
        self._folder = folder
        self._paths: dict[str, Path] = {}

    async def put(self, key: str, body: bytes) -> None:
        self._place(key).write_bytes(body)

    async def put_file(self, key: str, path: Path) -> None:
        path.rename(self._place(key))

    def path(self, key: str) -> Path:
        """Where the object lies."""
        return self._paths[key]

    def _place(self, key: str) -> Path:
        if self._local:
            from pipeline.stores.local.store import unsupported

            reason = unsupported(key)
            if reason is not None:
                raise KeyUnsupported(f"{key[:200]!r} cannot be a file: {reason}")
        return self._paths.setdefault(key, self._folder / f"output-{len(self._paths)}")


Debug = Callable[[BaseException], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is replayed: one version of one object, and the transform that takes it."""

    head: Head
    open: Callable[[], Content]
    transform: str
    entry: Quarantined | None
    notes: list[str]
    """What a person should know, a line each."""
