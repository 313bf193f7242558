"""Processes that start warm: forked from a template that has imported what they need.

`python warm.py` is the template.

A process started here has arguments, environment, folder, standard streams, exit code and `-m` of
its own, like one that an interpreter was started for; it saves the third of a second of imports
that each interpreter burns. What it cannot show is that a module is imported at all and in time: so
every command also runs as a real process somewhere in the tests.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import site
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

HERE = Path(__file__)


def _is_possible() -> bool:
    """On Linux alone, and where its sandbox lets a process be watched."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


POSSIBLE = _is_possible()
"""Elsewhere libraries do not survive a fork, and each process is a new interpreter."""


class Started:
    """A process that was started: its number, and its exit code once it is over (minus the signal
    that ended it).
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.pid = int(connection.recv(64) or "0")
        if not self.pid:
            raise RuntimeError("the template of processes is gone")
        self.returncode: int | None = None

    def wait(self, timeout_s: float | None = None) -> int:
        """Raises TimeoutError."""
        self.connection.settimeout(timeout_s)
        return self.ended(self.connection.recv(64))

    def ended(self, said: bytes) -> int:
        self.connection.close()
        # without a template there is none of its children
        self.returncode = int(said) if said else -signal.SIGKILL
        return self.returncode


class Template:
    """A process that has imported the given modules, from installed packages or the given folder.
    Begins when first needed.
    """

    def __init__(self, *modules: str, folder: Path | None = None, **environment: str) -> None:
        self._modules = modules
        self._environment = environment
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        self._begin()
        assert self._process is not None
        return self._process.pid

    def _begin(self) -> socket.socket:
        with self._lock:
            return self._control or self._started()

    def _started(self) -> socket.socket:
        self._control, theirs = socket.socketpair()
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "MODAL_"))
        }
        if self._folder is not None:
            environment["PYTHONPATH"] = str(self._folder)
        command = [sys.executable, "-P", str(HERE), str(theirs.fileno()), *self._modules]
        self._process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env=environment | self._environment,
            stdin=subprocess.DEVNULL,
            cwd="/",
        )
        theirs.close()
        atexit.register(self.close)
        return self._control

    def start(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        out: IO[bytes],
        err: IO[bytes],
        session: bool = False,
    ) -> Started:
        """`python -m ARGUMENTS`, in a session of its own if wanted."""
        ours, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as order, theirs:
            request = {
                "arguments": list(arguments),
                "env": dict(env),
                "cwd": str(cwd),
                "session": session,
            }
            order.write(json.dumps(request).encode())
            order.flush()
            socket.send_fds(
                self._begin(), [b"."], [theirs.fileno(), order.fileno(), out.fileno(), err.fileno()]
            )
            return Started(ours)

    def run(
        self, arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Like `subprocess.run` with its output captured as text."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            started = self.start(arguments, env=env, cwd=cwd, out=out, err=err)
            try:
                code = started.wait(timeout)
            except TimeoutError:
                os.kill(started.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(
                    list(arguments), timeout, _text(out), _text(err)
                ) from None
            return subprocess.CompletedProcess(
                list(arguments), code, _text(out).decode(), _text(err).decode()
            )

    def close(self) -> None:
        """Ends the template, which waits for what it started."""
        if self._control is not None and self._process is not None:
            self._control.close()
            self._process.wait()
            self._control = None


def _text(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read().replace(b"\r\n", b"\n").replace(b"\r", b"\n")


USED_BY_COMMANDS = ("pipeline.cli.runs.debugger", "pipeline.cli.tables.sql_process")
LIBRARIES = (
    "duckdb",
    "numpy",
    "obstore.store",
    "psutil",
    "pyarrow.compute",
    "pyarrow.dataset",
    "pyarrow.parquet",
)


@cache
def command_line(*more: str) -> Template:
    """The template of `python -m pipeline.cli`, one for all tests of a process."""
    from pipeline.cli import COMMANDS

    modules = sorted({module for module, _ in COMMANDS.values()})
    return Template(*LIBRARIES, *modules, *USED_BY_COMMANDS, *more, folder=HERE.parents[2])


@cache
def containers() -> Template | None:
    """The template of Modal's containers: it knows installed packages alone, the code is what each
    container was sent.
    """
    if not POSSIBLE:
        return None
    used = (
        "boto3.s3.transfer",
        "msgspec",
        "obstore.auth.boto3",
        "packaging.requirements",
        "modal._container_entrypoint",
    )
    return Template(*LIBRARIES, *used, MODAL_CONFIG_PATH=os.devnull)


# --- the template


def _serve(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Forks a process for each request, until nobody asks any more.

    Returns in the new processes alone: what each is to be.
    """
    watched = selectors.DefaultSelector()
    watched.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in watched.select():
            if key.fileobj is control:
                body, descriptors, _, _ = socket.recv_fds(control, 1, 4)
                if not body:
                    _end(watched)
                connection, order, *streams = descriptors
                pid = os.fork()
                if pid == 0:
                    watched.close()
                    control.close()
                    os.close(connection)
                    with os.fdopen(order, "rb") as file:
                        file.seek(0)
                        return json.load(file), streams
                os.write(connection, str(pid).encode())
                for descriptor in (order, *streams):
                    os.close(descriptor)
                watched.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
            else:
                pid, connection = key.data
                watched.unregister(key.fd)
                os.close(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(OSError):  # nobody waits for it any more
                    os.write(connection, str(code).encode())
                os.close(connection)


def _end(watched: selectors.BaseSelector) -> NoReturn:
    """Nobody is there to want what still runs."""
    for key in list(watched.get_map().values()):
        if key.data is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(key.data[0], signal.SIGKILL)
            os.waitpid(key.data[0], 0)
    os._exit(0)


def _become(order: dict[str, Any], streams: list[int], installed: list[str]) -> None:
    """Make this fork what a new interpreter with these arguments would be, and run the module."""
    if order["session"]:
        os.setsid()
    os.dup2(streams[0], 1)
    os.dup2(streams[1], 2)
    for stream in streams:
        os.close(stream)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    tempfile.tempdir = None  # as it is in a new interpreter
    unbuffered = "PYTHONUNBUFFERED" in os.environ
    for name, number in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        new = open(number, "w", encoding=old.encoding, errors=old.errors, closefd=False)  # noqa: SIM115
        new.reconfigure(line_buffering=number == 2 or new.isatty(), write_through=unbuffered)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    module, *arguments = order["arguments"]
    sys.path[:] = [
        order["cwd"],
        *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)),
        *installed,
    ]
    sys.path_importer_cache.clear()
    sys.modules.pop("sitecustomize", None)
    site.execsitecustomize()
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv[:] = ["-m", *arguments]
    runpy._run_module_as_main(module)  # type: ignore[attr-defined]


def _main() -> None:
    control, *modules = sys.argv[1:]
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    for module in modules:
        importlib.import_module(module)
    sys.modules.pop("modal._container_entrypoint", None)  # it is to run as __main__
    installed = [path for path in sys.path if path not in added]
    gc.collect()
    gc.freeze()  # no collection in a fork looks at, and so copies, what all of them share
    with socket.socket(fileno=int(control)) as asked:
        order, streams = _serve(asked)
    _become(order, streams, installed)


if __name__ == "__main__":
    _main()
