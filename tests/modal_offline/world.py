"""What the stand-in knows: apps, functions, calls, inputs, containers, and the faults a test asked
for.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from google.protobuf.message import Message
from grpclib import GRPCError, Status
from modal_proto import api_pb2

IDLE_S = 30.0
CONTAINERS_PER_FUNCTION_MAX = 2
CONTAINERS_MAX = 6
EXECUTIONS_MAX = 8
STARTUP_FAILURES_MAX = 2
STARTUP_CRASHES_MAX = 8
PREEMPTION_GRACE_S = 10.0


@dataclass(eq=False)
class App:
    """An app by its id.

    `published` maps tags to function ids; `classes` maps class names to class ids.
    """

    app_id: str
    name: str
    state: int
    published: dict[str, str] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    version: int = 0
    deployed_at: float = 0.0
    stopped: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class Function:
    """A function, or a class with all its methods (`Cls.*`), or a variant of one with parameters or
    options.
    """

    function_id: str
    app: App
    name: str
    handle: api_pb2.FunctionHandleMetadata
    staged: api_pb2.FunctionData | None = None
    live: api_pb2.FunctionData | None = None
    base: Function | None = None
    params: bytes = b""
    options: api_pb2.FunctionOptions | None = None
    generation: int = 0
    queue: list[Input] = field(default_factory=list)
    seekers: list[Seeker] = field(default_factory=list)
    linger_until: float | None = None
    startup_failures: int = 0
    autoscaler: api_pb2.AutoscalerSettings = field(default_factory=api_pb2.AutoscalerSettings)

    @property
    def definition(self) -> api_pb2.Function:
        """The definition that new containers run: the published one, with a variant's options laid
        over it.
        """
        data = (self.base or self).live
        if data is None:
            raise LookupError(f"{self.name} of {self.app.name} is not published")
        found = data.ranked_functions[0].function
        if self.options is None:
            return found
        merged = api_pb2.Function()
        merged.CopyFrom(found)
        for present, value in self.options.ListFields():
            name = present.name
            if name == "secret_ids" or name not in found.DESCRIPTOR.fields_by_name:
                continue
            if isinstance(value, Message):
                getattr(merged, name).CopyFrom(value)
            elif hasattr(value, "extend"):
                del getattr(merged, name)[:]
                getattr(merged, name).extend(value)
            else:
                setattr(merged, name, value)
        if self.options.replace_secret_ids:
            del merged.secret_ids[:]
        merged.secret_ids.extend(self.options.secret_ids)
        return merged

    @property
    def current_generation(self) -> int:
        return (self.base or self).generation

    @property
    def containers_max(self) -> int:
        """How many containers may run at once: what the app declares, at most two."""
        definition = self.definition
        declared = (
            self.autoscaler.max_containers
            or definition.concurrency_limit
            or definition.autoscaler_settings.max_containers
        )
        return min(declared or CONTAINERS_PER_FUNCTION_MAX, CONTAINERS_PER_FUNCTION_MAX)


@dataclass(eq=False)
class Call:
    """One function call: a `.remote`, `.spawn`, or a map with many inputs."""

    call_id: str
    function: Function
    kind: int
    invocation: int
    parent_input_id: str = ""
    inputs: list[Input] = field(default_factory=list)
    outputs: list[api_pb2.FunctionGetOutputsItem] = field(default_factory=list)
    data_in: list[api_pb2.DataChunk] = field(default_factory=list)
    data_out: list[api_pb2.DataChunk] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def retried_here(self) -> bool:
        """Whether the server owns the retries (`.spawn*`); else the caller does (`.remote`,
        `.map`).
        """
        return self.invocation == api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC

    @property
    def unfinished(self) -> int:
        return sum(one.result is None for one in self.inputs)

    def tell(self) -> None:
        """Wake everyone who waits for something new in this call."""
        self.news.set()
        self.news = asyncio.Event()


@dataclass(eq=False)
class Input:
    """One input and what became of it. This is also the record that a test sees."""

    input_id: str
    call: Call
    idx: int
    body: api_pb2.FunctionInput
    status: str = "queued"
    executions: int = 0
    retry_count: int = 0
    error: str = ""
    tasks: list[str] = field(default_factory=list)
    result: api_pb2.FunctionGetOutputsItem | None = None
    due: float = 0.0
    running_in: set[str] = field(default_factory=set)

    def __repr__(self) -> str:
        ran = f"executions={self.executions} in={sorted(self.running_in)}"
        return f"{self.call.function.name} {self.input_id} {self.status} {ran} {self.error}"

    @property
    def call_id(self) -> str:
        return self.call.call_id

    @property
    def names(self) -> set[str]:
        """The names a test may use: the function's, and the method's."""
        function = self.call.function.name
        return (
            {function, f"{function.removesuffix('.*')}.{self.body.method_name}"}
            if self.body.method_name
            else {function}
        )


@dataclass(eq=False)
class Seeker:
    """A container that waits in FunctionGetInputs. The future gets its inputs; none means: stop."""

    container: Container
    batch_max: int
    answer: asyncio.Future[list[Input]]


class Running(Protocol):
    """A container's process."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    async def wait(self) -> int: ...


@dataclass(eq=False)
class Container:
    """A running container process."""

    task_id: str
    function: Function
    generation: int
    log: Path
    root: Path
    process: Running | None = None
    running: dict[str, Input] = field(default_factory=dict)
    timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)
    retiring: bool = False
    asked: bool = False
    to_cancel: list[str] = field(default_factory=list)
    cancel_news: asyncio.Event = field(default_factory=asyncio.Event)
    failure: api_pb2.GenericResult | None = None
    started_at: float = field(default_factory=time.time)

    def __repr__(self) -> str:
        return (
            f"{self.function.name} {self.task_id} pid={self.pid} retiring={self.retiring}"
            f" runs={sorted(self.running)}"
        )

    @property
    def app(self) -> str:
        return self.function.app.name

    def said(self) -> str:
        """What the container printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0


class Faults:
    """Switches that a test sets; each is used up as it strikes.

    Names are a function's, or `Cls.method`.
    """

    def __init__(self) -> None:
        self.duplicates: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self.exhausted = 0
        self.cuts: dict[str, int] = {}

    def duplicate(self, name: str, n: int = 1) -> None:
        """The next n inputs run twice; the first result counts."""
        self.duplicates[name] += n

    def lose(self, name: str, n: int = 1) -> None:
        """The next n inputs are accepted and never run."""
        self.losses[name] += n

    def exhaust(self, n: int) -> None:
        """The next n FunctionMap calls answer RESOURCE_EXHAUSTED."""
        self.exhausted += n

    def cut_submission(self, name: str, after: int) -> None:
        """Once `after` more inputs came by FunctionMap, further ones fail in a way that the client
        does not retry.
        """
        self.cuts[name] = after

    @staticmethod
    def strikes(counter: Counter[str], names: set[str]) -> bool:
        """Whether a fault hits this input, using it up."""
        for name in names:
            if counter[name] > 0:
                counter[name] -= 1
                return True
        return False


class World:
    """All state of one stand-in; touched on its event loop only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.apps: dict[str, App] = {}
        self.functions: dict[str, Function] = {}
        self.calls: dict[str, Call] = {}
        self.inputs: dict[str, Input] = {}
        self.containers: dict[str, Container] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.secret_ids: dict[str, str | dict[str, str]] = {}
        self.images: dict[str, api_pb2.Image] = {}
        self.mounts: dict[str, list[api_pb2.MountFile]] = {}
        self.dicts: dict[str, dict[bytes, bytes]] = defaultdict(dict)
        self.volumes: dict[str, str] = {}
        self.paused: set[str] = set()
        self.faults = Faults()
        self.problems: list[str] = []
        self.ran: list[Container] = []
        self.changed: Callable[[], None] = lambda: None
        self._run = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    def new_id(self, prefix: str) -> str:
        return f"{prefix}-{self._run}{next(self._numbers):06d}"

    def secret(self, secret_id: str) -> dict[str, str]:
        """A secret's values now: a named one may have changed since the deploy."""
        found = self.secret_ids.get(secret_id, {})
        return dict(self.secrets.get(found, {})) if isinstance(found, str) else dict(found)

    def app_named(self, name: str) -> App | None:
        deployed = [
            a
            for a in self.apps.values()
            if a.name == name and a.state == api_pb2.APP_STATE_DEPLOYED
        ]
        return deployed[-1] if deployed else None

    def published(self, app: str, name: str) -> Function | None:
        """A deployed app's function by its tag; `Cls.method` finds the class."""
        found = self.app_named(app)
        if found is None:
            return None
        tag = name if name in found.published else name.split(".", maxsplit=1)[0] + ".*"
        return self.functions.get(found.published.get(tag, ""))

    def image_chain(self, image_id: str) -> list[api_pb2.Image]:
        """An image's layers, base first."""
        image = self.images.get(image_id)
        if image is None:
            return []
        below = [layer for base in image.base_images for layer in self.image_chain(base.image_id)]
        return [*below, image]

    def container_of(self, caller: str) -> Container:
        found = self.containers.get(caller)
        if found is None:
            raise GRPCError(Status.NOT_FOUND, f"no container {caller!r}")
        return found

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing is queued, but for what a test holds."""
        queued = (one for function in self.functions.values() for one in function.queue)
        return not any(one.running for one in self.containers.values()) and all(
            self.held(one) for one in queued
        )

    def held(self, one: Input) -> bool:
        return bool(self.paused) and bool(one.names & self.paused)

    def dump(self) -> str:
        """Everything that helps to see why nothing moves."""
        lines = [f"problems: {self.problems}"] if self.problems else []
        for one in self.inputs.values():
            if one.status in ("queued", "running") or one.running_in:
                lines.append(repr(one))
        lines += map(repr, self.containers.values())
        for container in self.ran[-6:]:
            lines.append(f"--- {container.log.name}\n{container.said()[-2000:]}")
        return "\n".join(lines)


def failure(status: Any, text: str) -> api_pb2.GenericResult:
    return api_pb2.GenericResult(status=status, exception=text)
