"""One end of the socket between a runner and a worker, in an event loop.

asyncio's streams give up reading where writing fails: what a worker said last, before it ended and
while it was being sent more, would be lost. Here reading goes on until all is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque

CHUNK = 2**18


class Connection:
    """Make it within the loop. It takes the socket over."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._unsent: deque[bytes] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def read(self, count: int) -> bytes:
        """So many bytes. Raises EOFError, or ConnectionError, where no more will come."""
        while len(self._received) < count:
            some = await self._loop.sock_recv(self._socket, max(CHUNK, count - len(self._received)))
            if not some:
                raise EOFError
            self._received += some
        found = bytes(self._received[:count])
        del self._received[:count]
        return found

    def write(self, body: bytes) -> None:
        """Send it as soon as that is possible.

        Nothing is said where nobody is there any more: `read` will.
        """
        self._unsent.append(body)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        with contextlib.suppress(OSError):
            while self._unsent:
                await self._loop.sock_sendall(self._socket, self._unsent.popleft())

    def end(self) -> None:
        """What was received can still be read; more will not come."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Let go of the socket."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
        self._socket.close()
