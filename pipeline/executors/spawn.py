"""Starting worker processes: forked from a helper that never has threads (Linux), or as new interpreters (elsewhere).

The helper is forked before the runner starts its first thread. It loads what workers need while the runner lists the bucket,
and keeps it, so that each worker costs milliseconds.
"""

from __future__ import annotations

import contextlib
import importlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from typing import Protocol

import msgspec

from pipeline.errors import StoreUnavailable
from pipeline.executors import child
from pipeline.executors.frames import SLOT


class _Order(msgspec.Struct):
    """Runner to helper: start a worker for this slot (its connection comes along), or say how one ended."""

    slot: int = -1
    reap: int = 0


class Spawner(Protocol):
    """Starts worker processes and tells how they ended."""

    board: mmap.mmap

    def start(self, slot: int, connection: socket.socket) -> int: ...
    def reap(self, pid: int) -> int: ...
    def close(self) -> None: ...


def make_spawner(entry: str, spec: bytes, slots: int) -> Spawner:
    """The way that suits this system. Call it while the process has one thread."""
    return ForkSpawner(entry, spec, slots) if sys.platform == "linux" else ExecSpawner(entry, spec, slots)


class SpawnerGone(StoreUnavailable):
    """No worker can be started by this process any more: a new run can, a later pass of this one cannot."""


class ForkSpawner:
    """A single-threaded helper process that forks workers on request."""

    def __init__(self, entry: str, spec: bytes, slots: int) -> None:
        self.board = mmap.mmap(-1, SLOT.size * slots)
        self._control, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = _fork()
        if self._pid == 0:
            self._control.close()
            _helper(theirs, self.board, entry, spec)
        theirs.close()

    def start(self, slot: int, connection: socket.socket) -> int:
        """The pid of a new worker that serves `connection`."""
        return self._ask(_Order(slot=slot), [connection.fileno()])

    def reap(self, pid: int) -> int:
        """How a worker that has ended did so: a wait status."""
        return self._ask(_Order(reap=pid), [])

    def _ask(self, order: _Order, descriptors: list[int]) -> int:
        with contextlib.suppress(ConnectionError):
            socket.send_fds(self._control, [msgspec.json.encode(order)], descriptors)
            body = self._control.recv(64)
            if body:
                return int(body)
        raise SpawnerGone("the process that starts workers was killed; run again, nothing is lost")

    def close(self) -> None:
        """End the helper; workers end with their connections."""
        self._control.close()
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _fork() -> int:
    """os.fork. An interrupt waits until it is over: one that meets a library's own hook there would be reported and forgotten."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads of numeric libraries re-start themselves after a fork
            return os.fork()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _helper(control: socket.socket, board: mmap.mmap, entry: str, spec: bytes) -> None:
    """The helper's life. Ends when the runner closes its side, or dies."""
    try:
        signal.signal(signal.SIGINT, lambda *_: None)
        _preload(entry)
        while True:
            body, descriptors, _, _ = socket.recv_fds(control, 4096, 1)
            if not body:
                break
            order = msgspec.json.decode(body, type=_Order)
            if order.reap:
                control.sendall(str(os.waitpid(order.reap, 0)[1]).encode())
                continue
            connection = socket.socket(fileno=descriptors[0])
            pid = _fork()
            if pid == 0:
                control.close()
                child.serve(connection, board, order.slot, entry, spec)
            connection.close()
            control.sendall(str(pid).encode())
    finally:
        os._exit(0)


def _preload(entry: str) -> None:
    """Import once what every worker needs. What fails here fails again in the worker, where it is reported."""
    with contextlib.suppress(Exception):
        preload = getattr(importlib.import_module(entry.partition(":")[0]), "preload", None)
        if preload is not None:
            preload()


class ExecSpawner:
    """A new interpreter for each worker, where forking is not safe."""

    def __init__(self, entry: str, spec: bytes, slots: int) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="tidemill-")  # noqa: SIM115 - closed in `close`
        self._file.truncate(SLOT.size * slots)
        self.board = mmap.mmap(self._file.fileno(), SLOT.size * slots)
        self._entry = entry
        self._spec = spec
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, slot: int, connection: socket.socket) -> int:
        """The pid of a new worker that serves `connection`."""
        arguments = [str(connection.fileno()), self._file.name, str(slot), self._entry, self._spec.decode()]
        command = [sys.executable, "-m", "pipeline.executors.spawn", *arguments]
        process = subprocess.Popen(command, pass_fds=[connection.fileno()])
        self._running[process.pid] = process
        return process.pid

    def reap(self, pid: int) -> int:
        """How a worker that has ended did so: a wait status."""
        code = self._running.pop(pid).wait()
        return -code if code < 0 else code << 8

    def close(self) -> None:
        """Forget the workers; they end with their connections."""
        for process in self._running.values():
            process.wait()
        self._file.close()


def _main() -> None:
    """A worker as a new interpreter (see ExecSpawner)."""
    descriptor, board, slot, entry, spec = sys.argv[1:]
    connection = socket.socket(fileno=int(descriptor))
    with open(board, "r+b") as file:  # noqa: PTH123
        shared = mmap.mmap(file.fileno(), 0)
    importlib.import_module(entry.partition(":")[0])
    child.serve(connection, shared, int(slot), entry, spec.encode())


if __name__ == "__main__":
    _main()
