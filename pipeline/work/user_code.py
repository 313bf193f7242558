"""User code as it is called in this process: with no event loop around it, and with an end for the
processes that it forks.

An attempt runs in an event loop, which stands still while user code runs. So it is hidden
meanwhile: `asyncio.run` works there as it does anywhere. What user code declares `async` runs in
one loop of its own for the life of the process, so that a client that was opened in `load` can be
used in each call; between calls that loop stands still.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from types import TracebackType
from typing import Any

from pipeline.tracebacks import whole_traceback

ROWS_TOGETHER = 64
"""Rows taken from an async generator before the loop stands still again: starting it costs as much
as many rows.
"""

_SETTLED = (list, dict, type(None))

Hidden = tuple[asyncio.AbstractEventLoop, Any]


class UserCode:
    """`with` it around each call of user code.

    `settled` is for what the call returns, within the same `with`.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._hidden: list[Hidden | None] = []
        self._runner: asyncio.Runner | None = None

    def __enter__(self) -> UserCode:
        loop = asyncio._get_running_loop()
        self._hidden.append(None if loop is None else _hide(loop))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if os.getpid() != self._process:
            _end_fork(error)
        hidden = self._hidden.pop()
        if hidden is not None:
            _show(*hidden)

    def settled(self, result: object) -> object:
        """The result itself; of a coroutine, what it returns; of an async generator,
        a plain one.
        """
        if type(result) in _SETTLED:  # mostly
            return result
        while hasattr(type(result), "__await__"):
            result = self._run(_awaited(result))  # type: ignore[arg-type]
        return self._pulled(result) if hasattr(type(result), "__anext__") else result  # type: ignore[arg-type]

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(work)

    def _pulled(self, rows: AsyncIterator[object]) -> Iterator[object]:
        try:
            while some := self._run(_some(rows)):
                yield from some
        finally:
            close = getattr(rows, "aclose", None)
            if close is not None:
                self._run(close())


async def _awaited(result: Awaitable[object]) -> object:
    return await result


async def _some(rows: AsyncIterator[object]) -> list[object]:
    """The next few; none at the end."""
    found: list[object] = []
    while len(found) < ROWS_TOGETHER:
        try:
            found.append(await anext(rows))
        except StopAsyncIteration:
            break
    return found


def _hide(loop: asyncio.AbstractEventLoop) -> Hidden:
    """No loop runs in this thread from now on, for all that asks."""
    task = None
    if sys.version_info >= (3, 14):
        task = asyncio.tasks._swap_current_task(loop, None)
    asyncio._set_running_loop(None)
    return loop, task


def _show(loop: asyncio.AbstractEventLoop, task: Any) -> None:
    asyncio._set_running_loop(loop)
    if sys.version_info >= (3, 14):
        asyncio.tasks._swap_current_task(loop, task)


def _end_fork(error: BaseException | None) -> None:
    """End a process that user code forked and let out: it must not go on as a second worker with
    the same work.
    """
    code = 0
    try:
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None:
            code = 1
            sys.stderr.write(whole_traceback(error) + "\n")
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)
