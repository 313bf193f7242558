"""Starting worker processes: forked from a helper that never has threads (Linux), or as new
interpreters (elsewhere).

The helper is forked before the runner starts its first thread, or is a new interpreter where the
runner has some. It loads what workers need while the runner lists the bucket, and keeps it, so that
each worker costs milliseconds. It outlives its runner by the moment that it takes to end the
workers, all that user code started in them, and the folder of their temporary files.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from typing import Protocol

import msgspec

from pipeline.errors import StoreUnavailable
from pipeline.executors.local import process as child
from pipeline.executors.local import process_tree
from pipeline.executors.local.messages import SLOT


class _Order(msgspec.Struct):
    """Runner to helper: start a worker for this slot (its connection comes along), or say how one
    ended.
    """

    slot: int = -1
    reap: int = 0


PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from"
    " pipeline.executors.local.spawner import _main; _main()"
)
HELPER_ENDS_S = 15.0
"""For the helper to end what is left of the workers, before it is killed itself."""


class Spawner(Protocol):
    """Starts worker processes and tells how they ended."""

    board: mmap.mmap

    def start(self, slot: int, connection: socket.socket, printed: int) -> int:
        """The pid of a new worker that serves `connection`; `printed` is the file for its standard
        output and error.
        """
        ...

    def kill(self, pid: int) -> None:
        """Kill a worker, unless it has ended."""
        ...

    def reap(self, pid: int) -> int:
        """How a worker that has ended did so: a wait status.

        Nothing that it started runs on afterwards.
        """
        ...

    def close(self) -> None:
        """End all workers, and what they started."""
        ...


def make_spawner(entry: str, spec: bytes, slots: int, folder: str) -> Spawner:
    """The way that suits this system.

    Call it while the process has one thread. folder: of the workers' temporary files.
    """
    return (
        ForkSpawner(entry, spec, slots, folder)
        if sys.platform == "linux"
        else ExecSpawner(entry, spec, slots, folder)
    )


def make_fresh_spawner(entry: str, spec: bytes, slots: int, folder: str) -> Spawner:
    """The same, where the process may have threads."""
    return (
        FreshSpawner(entry, spec, slots, folder)
        if sys.platform == "linux"
        else ExecSpawner(entry, spec, slots, folder)
    )


class SpawnerGone(StoreUnavailable):
    """No worker can be started by this process any more: a new run can, a later pass of this one
    cannot.
    """


class ForkSpawner:
    """A single-threaded helper process that forks workers on request."""

    board: mmap.mmap

    def __init__(self, entry: str, spec: bytes, slots: int, folder: str) -> None:
        self._control, theirs = socket.socketpair()
        self._pid = self._begin(theirs, entry, spec, slots, folder)
        theirs.close()

    def _begin(
        self, theirs: socket.socket, entry: str, spec: bytes, slots: int, folder: str
    ) -> int:
        self.board = mmap.mmap(-1, SLOT.size * slots)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = _fork()
        if pid == 0:
            self._control.close()
            _helper(theirs, self.board, entry, spec, folder)
        return pid

    def start(self, slot: int, connection: socket.socket, printed: int) -> int:
        """See Spawner."""
        return self._ask(_Order(slot=slot), [connection.fileno(), printed])

    def kill(self, pid: int) -> None:
        """See Spawner. What it started is killed when it is reaped."""
        process_tree.kill(pid)

    def reap(self, pid: int) -> int:
        """See Spawner."""
        return self._ask(_Order(reap=pid), [])

    def _ask(self, order: _Order, descriptors: list[int]) -> int:
        with contextlib.suppress(ConnectionError):
            socket.send_fds(self._control, [msgspec.json.encode(order)], descriptors)
            body = self._control.recv(64)
            if body:
                return int(body)
        raise SpawnerGone("the process that starts workers was killed; run again, nothing is lost")

    def close(self) -> None:
        """See Spawner."""
        self._control.close()
        until = time.monotonic() + HELPER_ENDS_S
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > until:
                    process_tree.kill(self._pid)
                time.sleep(0.001)


class FreshSpawner(ForkSpawner):
    """The same helper as a new interpreter."""

    def _begin(
        self, theirs: socket.socket, entry: str, spec: bytes, slots: int, folder: str
    ) -> int:
        with tempfile.TemporaryFile(prefix="tidemill-", dir=folder) as file:
            file.truncate(SLOT.size * slots)
            self.board: mmap.mmap = mmap.mmap(file.fileno(), SLOT.size * slots)
            passed = [theirs.fileno(), file.fileno()]
            self._process = _interpreter(
                ["helper", *map(str, passed), folder, entry, spec.decode()], passed
            )
        return self._process.pid


def _fork() -> int:
    """os.fork. An interrupt waits until it is over: one that meets a library's own hook there would
    be reported and forgotten.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with warnings.catch_warnings():
            # threads of numeric libraries re-start themselves after a fork
            warnings.simplefilter("ignore", DeprecationWarning)
            return os.fork()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _helper(control: socket.socket, board: mmap.mmap, entry: str, spec: bytes, folder: str) -> None:
    """The helper's life. Ends when the runner closes its side, or dies."""
    workers: set[int] = set()
    try:
        signal.signal(signal.SIGINT, lambda *_: None)
        with contextlib.suppress(OSError):
            os.setsid()  # what ends the runner's group must not end us before our work is done
        process_tree.adopt_orphans()
        _preload(entry)
        _take_orders(control, board, entry, spec, workers)
    finally:
        process_tree.kill(*workers)
        process_tree.end_strays(())
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


def _take_orders(
    control: socket.socket, board: mmap.mmap, entry: str, spec: bytes, workers: set[int]
) -> None:
    while True:
        body, descriptors, _, _ = socket.recv_fds(control, 4096, 2)
        if not body:
            return
        order = msgspec.json.decode(body, type=_Order)
        if order.reap:
            answer = os.waitpid(order.reap, 0)[1]
            workers.discard(order.reap)
            process_tree.end_strays(workers)
        else:
            answer = _start_worker(control, board, order.slot, entry, spec, descriptors)
            workers.add(answer)
        control.sendall(str(answer).encode())


def _start_worker(  # noqa: PLR0917
    control: socket.socket,
    board: mmap.mmap,
    slot: int,
    entry: str,
    spec: bytes,
    descriptors: list[int],
) -> int:
    helper = os.getpid()
    connection, printed = socket.socket(fileno=descriptors[0]), descriptors[1]
    pid = _fork()
    if pid == 0:
        process_tree.end_with(helper)
        control.close()
        child.serve(connection, board, slot, entry, spec, printed)
    connection.close()
    os.close(printed)
    return pid


def _preload(entry: str) -> None:
    """Import once what every worker needs.

    What fails here fails again in the worker, where it is reported.
    """
    with contextlib.suppress(Exception):
        preload = getattr(importlib.import_module(entry.partition(":")[0]), "preload", None)
        if preload is not None:
            preload()


class ExecSpawner:
    """A new interpreter for each worker, where forking is not safe.

    What user code starts is in the worker's process group.
    """

    def __init__(self, entry: str, spec: bytes, slots: int, folder: str) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="tidemill-", dir=folder)  # noqa: SIM115 - closed in `close`
        self._file.truncate(SLOT.size * slots)
        self.board: mmap.mmap = mmap.mmap(self._file.fileno(), SLOT.size * slots)
        self._entry = entry
        self._spec = spec
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, slot: int, connection: socket.socket, printed: int) -> int:
        """See Spawner."""
        passed = [connection.fileno(), self._file.fileno(), printed]
        process = _interpreter(
            ["worker", *map(str, passed), str(slot), self._entry, self._spec.decode()], passed
        )
        self._running[process.pid] = process
        return process.pid

    def kill(self, pid: int) -> None:
        """See Spawner."""
        if pid in self._running:
            process_tree.kill_tree(pid)

    def reap(self, pid: int) -> int:
        """See Spawner. Where a worker died by itself, what left its group before is not found."""
        process = self._running.pop(pid)
        process_tree.kill_group(pid)
        code = process.wait()
        return -code if code < 0 else code << 8

    def close(self) -> None:
        """See Spawner."""
        for pid in list(self._running):
            self.kill(pid)
            self.reap(pid)
        self._file.close()


def _interpreter(arguments: list[str], descriptors: list[int]) -> subprocess.Popen[bytes]:
    """This module as a program of its own (see `_main`), in a session of its own.

    It finds modules where this process does, and not where it happens to be: a folder of the user's
    may have one named like ours.
    """
    command = [sys.executable, "-P", "-c", PROGRAM, json.dumps(sys.path), *arguments]
    return subprocess.Popen(command, pass_fds=descriptors, start_new_session=True)


def _main() -> None:
    """A helper (see FreshSpawner), or a worker (see ExecSpawner)."""
    what, connection, board, *rest = sys.argv[1:]
    shared = mmap.mmap(int(board), 0)
    os.close(int(board))
    if what == "helper":
        folder, entry, spec = rest
        _helper(socket.socket(fileno=int(connection)), shared, entry, spec.encode(), folder)
    printed, slot, entry, spec = rest
    importlib.import_module(entry.partition(":")[0])
    child.serve(
        socket.socket(fileno=int(connection)), shared, int(slot), entry, spec.encode(), int(printed)
    )
