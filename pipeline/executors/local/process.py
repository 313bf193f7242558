"""A worker process: loads the user's code once, then runs one job after another until its runner is
gone.
"""

from __future__ import annotations

import gc
import importlib
import mmap
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from pipeline.errors import TidemillError, is_outage
from pipeline.executors.local import process_tree
from pipeline.executors.local.messages import LENGTH, NO_MEMORY, SLOT, Answer, Job, pack
from pipeline.model.loss import Loss
from pipeline.tracebacks import describe, one_line, whole_traceback
from pipeline.work import memory_limit, printed_output
from pipeline.work.worker import CodeBroken


def serve(  # noqa: PLR0917
    connection: socket.socket, board: mmap.mmap, slot: int, entry: str, spec: bytes, output: int
) -> None:
    """Run jobs from `connection` until it ends.

    Never returns: the process exits. output: a file for what user code prints.
    """
    code = 1
    try:
        # Ctrl-C on the terminal is for the runner, which ends us
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _keep_apart(connection, output)
        _work(connection, board, slot * SLOT.size, entry, spec)
        code = 0
    except ConnectionError:
        pass  # the runner is gone: nobody wants to know
    except BaseException as error:  # noqa: BLE001 - reported, then the process ends whatever happens
        sys.stderr.write(whole_traceback(error) + "\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


def _keep_apart(connection: socket.socket, output: int) -> None:
    """What user code starts, reads and prints stays below this process; what it forks has no part
    in our connection.
    """
    if os.getpgrp() != os.getpid():
        os.setsid()
    process_tree.adopt_orphans()
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)  # a program that asks for input must not take it from the terminal
    printed_output.keep_in(output)
    ours = connection.fileno()

    def forked() -> None:
        # else the runner would wait for our children once we are dead
        os.dup2(nothing, ours, inheritable=False)
        for descriptor in memory_limit.files_in_scratch():
            # nor may they write to files that we have begun
            os.dup2(nothing, descriptor, inheritable=False)

    os.register_at_fork(after_in_child=forked)


def resolve(entry: str) -> Callable[[bytes], Any]:
    """The function named `module:function`."""
    module, _, name = entry.partition(":")
    found: Callable[[bytes], Any] = getattr(importlib.import_module(module), name)
    return found


def _work(connection: socket.socket, board: mmap.mmap, at: int, entry: str, spec: bytes) -> None:
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, jobs), daemon=True).start()
    attempts = _loaded(connection, entry, spec)
    if attempts is None:
        return
    connection.sendall(pack(Answer()))
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)

    slot = _Slot(board, at)
    while True:
        answer = _do(attempts, msgspec.json.decode(jobs.get(), type=Job), slot)
        connection.sendall(pack(answer))
        if answer.ends:
            return


def _loaded(connection: socket.socket, entry: str, spec: bytes) -> Any:
    """What runs attempts; None, and the runner knows why, where it cannot be made."""
    try:
        return resolve(entry)(spec)
    except Exception as error:  # noqa: BLE001 - whatever the user's module or `load` raises
        connection.sendall(pack(Answer(broken=_lost(error, detail=whole_traceback(error)))))
        return None


class _Slot:
    """This worker's part of the board: which call is at hand."""

    def __init__(self, board: mmap.mmap, at: int) -> None:
        self._board = board
        self._at = at

    def at_hand(self) -> tuple[int, int]:
        serial, index, _ = SLOT.unpack_from(self._board, self._at)
        return serial, index

    def starting(self, serial: int, index: int) -> None:
        printed_output.call_ends(self.at_hand)
        SLOT.pack_into(self._board, self._at, serial, index, time.monotonic())


def _do(attempts: Any, job: Job, slot: _Slot) -> Answer:
    slot.starting(job.serial, -1)
    if job.scratch:
        memory_limit.use_scratch(f"{job.scratch}/{os.getpid()}")
    memory_limit.hold_memory(job.memory_mb)
    answer = _run(attempts, job, partial(slot.starting, job.serial))
    if answer.ends and answer.loss is not None:
        _, index = slot.at_hand()
        answer = msgspec.structs.replace(answer, loss=_blaming(answer.loss, index))
    printed_output.call_ends(slot.at_hand)
    process_tree.bury()
    return answer


def _blaming(loss: Loss, index: int) -> Loss:
    return msgspec.structs.replace(loss, suspect=index if index >= 0 else None)


def _run(attempts: Any, job: Job, starting: Callable[[int], None]) -> Answer:
    try:
        return Answer(serial=job.serial, receipt=attempts.run(job.assignment, starting))
    except CodeBroken as error:
        return Answer(serial=job.serial, broken=_lost(error))
    except TidemillError as error:
        if memory_limit.is_out_of_memory(error):
            return _out_of_memory(job)
        return Answer(serial=job.serial, loss=_lost(error, innocent=is_outage(error)))
    except Exception as error:  # noqa: BLE001 - a bug of ours must not end the worker
        if memory_limit.is_out_of_memory(error):
            return _out_of_memory(job)
        return Answer(serial=job.serial, loss=_lost(error, detail=whole_traceback(error)))


def _lost(error: BaseException, *, detail: str = "", innocent: bool = False) -> Loss:
    return Loss(reason=_one_line(error), detail=detail, innocent=innocent)


def _out_of_memory(job: Job) -> Answer:
    """The process ends: it holds what the code at hand left behind, and the next file would be
    blamed for that.
    """
    loss = Loss(reason=memory_limit.memory_exceeded(job.memory_mb))
    return Answer(serial=job.serial, loss=loss, ends=True)


def _receive(connection: socket.socket, jobs: queue.SimpleQueue[bytes]) -> None:
    """Frames into the queue; the end of the connection means that the runner is gone, and so are
    we.
    """
    file, code = connection.makefile("rb"), 0
    try:
        while len(head := file.read(LENGTH.size)) == LENGTH.size:
            (size,) = LENGTH.unpack(head)
            jobs.put(file.read(size))
    except MemoryError:
        code = NO_MEMORY
    finally:
        os._exit(code)


def _one_line(error: BaseException) -> str:
    return one_line(str(error)) if isinstance(error, TidemillError) else describe(error)
