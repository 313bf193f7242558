"""What a worker said last is heard, whatever became of it meanwhile."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from pipeline.executors.local.connection import CHUNK, Connection


def with_worker(talk: Callable[[Connection, socket.socket], Awaitable[None]]) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        connection = Connection(ours)
        try:
            await talk(connection, theirs)
        finally:
            await connection.close()
            theirs.close()

    asyncio.run(asyncio.wait_for(run(), 60))


async def nothing_more(connection: Connection) -> None:
    with pytest.raises((EOFError, ConnectionError)):
        await connection.read(1)


def test_a_worker_that_ended_before_it_was_sent_more() -> None:
    async def talk(connection: Connection, worker: socket.socket) -> None:
        worker.sendall(b"out of memory")
        worker.close()
        connection.write(b"job")
        await asyncio.sleep(0)  # it is being sent
        assert await connection.read(6) == b"out of"
        connection.write(b"job")
        assert await connection.read(7) == b" memory"
        await nothing_more(connection)

    with_worker(talk)


def test_a_worker_that_ended_without_reading_what_it_was_sent() -> None:
    async def talk(connection: Connection, worker: socket.socket) -> None:
        connection.write(b"job")
        await asyncio.sleep(0)
        worker.sendall(b"answer")
        worker.close()
        assert await connection.read(6) == b"answer"
        await nothing_more(connection)

    with_worker(talk)


def test_what_is_sent_arrives_whole_and_in_order() -> None:
    async def talk(connection: Connection, worker: socket.socket) -> None:
        bodies = [bytes([i]) * CHUNK for i in range(8)]
        for body in bodies:
            connection.write(body)
        worker.setblocking(False)
        received = b""
        while len(received) < 8 * CHUNK:
            received += await asyncio.get_running_loop().sock_recv(worker, CHUNK)
        assert received == b"".join(bodies)

    with_worker(talk)


def test_a_connection_that_a_stranger_holds_open_is_ended() -> None:
    async def talk(connection: Connection, worker: socket.socket) -> None:
        worker.sendall(b"said")  # and whoever was forked from it has the socket, too
        assert await connection.read(4) == b"said"
        waiting = asyncio.ensure_future(nothing_more(connection))
        await asyncio.sleep(0)  # it waits
        connection.end()
        await waiting

    with_worker(talk)
