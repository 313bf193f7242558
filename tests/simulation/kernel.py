"""A deterministic world: one seed, one history.

Every await of the code under test is one request to a simulated store.

The scheduler picks who moves; requests may fail before or after they take effect, processes may be
killed or stall for longer than any deadline, and requests of dead processes may arrive later.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Coroutine, Generator
from typing import Any

from pipeline.errors import ObjectNotFound, PreconditionFailed, StoreUnavailable


class Violation(Exception):
    """An invariant does not hold."""


class Died(BaseException):
    """The simulated process is gone; nothing may catch this."""


class Request:
    """One request on its way to the store."""

    __slots__ = ("args", "error", "kwargs", "name", "result")

    def __init__(self, name: str, *args: Any, **kwargs: Any) -> None:
        self.name, self.args, self.kwargs = name, args, kwargs
        self.result: Any = None
        self.error: Exception | None = None

    def cut_off(self, share: float) -> Request:
        """What reaches the store of a dead process's request: through a mount, the part of an
        object that was written so far.
        """
        if self.name != "put" or not self.kwargs.get("mounted"):
            return self
        key, body, *rest = self.args
        return Request("put", key, body[: int(len(body) * share)], *rest)

    def __await__(self) -> Generator[Request, None, Any]:
        yield self
        if self.error is not None:
            raise self.error
        return self.result


class Process:
    """One simulated process running one coroutine."""

    __slots__ = ("alive", "coroutine", "kind", "name", "request", "sent", "wake")

    def __init__(self, kind: str, name: str, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.kind, self.name, self.coroutine = kind, name, coroutine
        self.wake = 0
        self.request: Request | None = None
        self.sent = False
        self.alive = True


class Kernel:
    """Scheduler and faults.

    `perform` is what executes a request against the store; set it before `step`.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 1_000
        self.processes: list[Process] = []
        self.dead_letters: list[Request] = []
        self.faults = True
        self.stats: Counter[str] = Counter()
        self.trace = hashlib.blake2b(digest_size=8)
        choose = self.rng.choice
        self.fail_before = choose([0, 0.02, 0.1])
        self.fail_after = choose([0, 0.02, 0.1])
        self.kill = choose([0, 0.005, 0.03])
        self.stall = choose([0, 0.01, 0.03])
        self.skew_max = choose([0, 30, 5000, 200_000])
        self.outages = choose([0, 0, 0.003])
        self.outage: tuple[str, int] = ("", 0)
        """Below which prefix requests fail, and until when."""
        self._serial = 0
        self.store: Any = None

    def nonce(self) -> str:
        self._serial += 1
        return f"x{self._serial:06d}"

    def start(self, kind: str, coroutine: Coroutine[Any, Any, Any], name: str = "") -> Process:
        process = Process(kind, name or self.nonce(), coroutine)
        self.processes.append(process)
        return process

    def end(self, process: Process) -> None:
        process.alive = False
        self.processes.remove(process)
        process.coroutine.close()

    def close(self) -> None:
        """Nobody goes on."""
        for process in list(self.processes):
            self.end(process)

    def perform(self, request: Request) -> None:
        request.error = request.result = None
        self.stats["requests"] += 1
        self.trace.update(f"{self.now} {request.name} {request.args[:1]}\n".encode())
        try:
            request.result = getattr(self.store, "do_" + request.name)(
                *request.args, **request.kwargs
            )
        except (ObjectNotFound, PreconditionFailed) as error:
            request.error = error

    def step(self) -> bool:
        """Let one process take half a step: advance to its next request, or have that request reach
        the store.
        """
        self.now += 1
        rng = self.rng
        if self.dead_letters and rng.random() < 0.1:
            self.stats["late"] += 1
            self.perform(self.dead_letters.pop(rng.randrange(len(self.dead_letters))))
        if self.outages and rng.random() < self.outages:
            self.outage = (
                rng.choice(["", "src/", "out/", "_tidemill/"]),
                self.now + rng.choice([20, 100, 400]),
            )
        ready = [p for p in self.processes if p.wake <= self.now]
        if not ready:
            return bool(self.processes)
        process = rng.choice(ready)
        shaky = self.faults and process.kind != "world"
        if shaky and rng.random() < self.kill:
            self.stats["kills"] += 1
            if process.request is not None and process.sent is False and rng.random() < 0.5:
                self.dead_letters.append(process.request.cut_off(rng.random()))
            self.end(process)
        elif shaky and rng.random() < self.stall:
            self.stats["stalls"] += 1
            process.wake = self.now + rng.choice([10, 100, 600])
        elif process.request is None or process.sent:
            self._advance(process)
        else:
            self._deliver(process, process.request, shaky)
        return True

    def _advance(self, process: Process) -> None:
        try:
            process.request = process.coroutine.send(None)
            process.sent = False
        except (StopIteration, Died):
            process.alive = False
            self.processes.remove(process)

    def _deliver(self, process: Process, request: Request, shaky: bool) -> None:
        process.sent = True
        if (
            shaky
            and request.name != "pause"
            and (self._is_out(request) or self.rng.random() < self.fail_before)
        ):
            self.stats["errors before"] += 1
            request.error, request.result = StoreUnavailable("lost on the way"), None
            return
        self.perform(request)
        if (
            shaky
            and request.name in ("put", "delete", "get")
            and self.rng.random() < self.fail_after
        ):
            self.stats["errors after"] += 1
            request.error, request.result = StoreUnavailable("answer lost"), None

    def _is_out(self, request: Request) -> bool:
        prefix, until = self.outage
        if self.now > until or not request.args[0].startswith(prefix):
            return False
        self.stats["in an outage"] += 1
        return True

    def run_alone(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end without faults and without anybody else moving."""
        try:
            request = coroutine.send(None)
            while True:
                self.perform(request)
                request = coroutine.send(None)
        except StopIteration as end:
            return end.value


class SimClock:
    """A process's own clock, wrong by its skew."""

    def __init__(self, kernel: Kernel, skew_s: int) -> None:
        self.kernel, self.skew_s = kernel, skew_s

    def now_ms(self) -> int:
        return 1000 * (self.kernel.now + self.skew_s)

    def monotonic_s(self) -> float:
        return float(self.kernel.now)

    async def sleep(self, seconds: float) -> None:
        await Request("pause")
