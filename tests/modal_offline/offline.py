"""The stand-in as a test uses it."""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from grpclib.server import Server
from modal._serialization import serialize
from modal_proto import api_pb2

from tests.modal_offline.box import Boxes
from tests.modal_offline.buckets import BucketMount, Buckets
from tests.modal_offline.catalogue import Catalogue
from tests.modal_offline.fleet import Fleet
from tests.modal_offline.rpc import Dispatcher
from tests.modal_offline.stores import Stores
from tests.modal_offline.web import Web
from tests.modal_offline.world import Container, Faults, Function, Input, World
from tests.support.warm import Template

T = TypeVar("T")
START_S = 20.0


class Offline:
    """A stand-in for Modal on the loopback interface.

    Ends all containers, servers and mounts when it is left.

    `folder` keeps what it stores and the logs. `s3_endpoint` and `aws` serve bucket mounts without
    an endpoint or secret. With a `template` its containers start warm.
    """

    def __init__(
        self,
        folder: Path,
        *,
        s3_endpoint: str | None = None,
        aws: dict[str, str] | None = None,
        mount_cache_s: float = 0.0,
        template: Template | None = None,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="modal-", dir=_made(Path(folder))))
        for name in ("files", "blobs", "volumes", "logs", "boxes"):
            (self._folder / name).mkdir()
        self._world = World(self._folder)
        self._buckets = Buckets(self._world, s3_endpoint, aws, mount_cache_s)
        self._boxes = Boxes(self._world, self._buckets, template)
        self._fleet = Fleet(self._world, self._boxes)
        self._web = Web(self._world, self._fleet.calls)
        catalogue = Catalogue(
            self._world, self._fleet.published, self._fleet.stop_app, self._web.endpoint
        )
        parts: list[object] = [
            catalogue,
            Stores(self._world),
            self._fleet.calls,
            self._fleet,
            self._web,
        ]
        self._dispatcher = Dispatcher(self._world, parts, self._buckets.push)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="modal-offline", daemon=True
        )
        self._server: Server | None = None
        self.env: dict[str, str] = {}

    def __enter__(self) -> Offline:
        self._thread.start()
        port = self._run(self._start())
        config = self._folder / "modal.toml"
        config.touch()
        self._boxes.server_url = f"http://127.0.0.1:{port}"
        self.env.update(
            MODAL_SERVER_URL=self._boxes.server_url,
            MODAL_TOKEN_ID="ak-offline",
            MODAL_TOKEN_SECRET="as-offline",
            MODAL_CONFIG_PATH=str(config),
            MODAL_ENVIRONMENT="main",
            MODAL_DISABLE_API_PROXY="1",
            MODAL_LOGS_TIMEOUT="1",
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._close_client()
            self._run(self._stop())
        finally:
            self._buckets.close()
            self._boxes.close()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    async def _start(self) -> int:
        await self._web.start()
        self._server = Server([self._dispatcher])
        listener = socket.create_server(("127.0.0.1", 0))
        await self._server.start(sock=listener)
        return int(listener.getsockname()[1])

    async def _stop(self) -> None:
        await self._fleet.close()
        await self._web.close()
        if self._server is not None:
            self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _close_client(self) -> None:
        """Modal keeps one client for each process; it must not outlive its server."""
        module = sys.modules.get("modal.client")
        client = module._Client._client_from_env if module else None
        if client is not None and client.server_url == self.env.get("MODAL_SERVER_URL"):
            module.Client.from_env().close()  # type: ignore[union-attr]

    # --- what was deployed
    def apps(self) -> list[str]:
        """Names of the deployed apps."""
        return [
            app.name
            for app in self._world.apps.values()
            if app.state == api_pb2.APP_STATE_DEPLOYED and app.published
        ]

    def functions(self, app: str) -> dict[str, api_pb2.Function]:
        """An app's definitions by function name; a class appears as `Cls.*` and once for each
        `Cls.method`.
        """
        found = {}
        for name in self._app_functions(app):
            definition = self._function(app, name).definition
            found[name] = definition
            found |= {
                f"{name.removesuffix('.*')}.{method}": definition
                for method in definition.method_definitions
            }
        return found

    def gpus(self, app: str, function: str) -> list[str]:
        """The GPUs a function asks for, in its order of preference, such as `A10:2`."""
        data = self._function(app, function).live
        assert data is not None
        wanted = [ranked.function.resources.gpu_config for ranked in data.ranked_functions]
        return [f"{gpu.gpu_type}:{gpu.count}" for gpu in wanted if gpu.gpu_type]

    def image_commands(self, app: str, function: str) -> list[str]:
        """The image's dockerfile commands, base layers first."""
        chain = self._world.image_chain(self._function(app, function).definition.image_id)
        return [command for image in chain for command in image.dockerfile_commands]

    def mounted_files(self, app: str, function: str) -> list[str]:
        """Remote paths of the files a container of this function gets."""
        mounts = self._function(app, function).definition.mount_ids
        return sorted(
            file.filename for mount_id in mounts for file in self._world.mounts.get(mount_id, [])
        )

    def url(self, app: str, function: str) -> str:
        """The URL of a web endpoint, without a slash at its end."""
        return self._function(app, function).handle.web_url

    @property
    def secrets(self) -> dict[str, dict[str, str]]:
        """The secrets that exist, by name; a change shows in containers that start later."""
        return self._world.secrets

    # --- making things happen
    def fire(self, app: str, function: str) -> str:
        """A schedule fires: one input without arguments. Returns the call's id."""
        return self._submit(
            app, function, api_pb2.FunctionInput(data_format=api_pb2.DATA_FORMAT_PICKLE)
        )

    def call(self, app: str, function: str, *args: Any, **kwargs: Any) -> str:
        """One input with arguments, like a `.spawn` from outside. Returns the call's id."""
        arguments = serialize((args, kwargs))
        return self._submit(
            app,
            function,
            api_pb2.FunctionInput(args=arguments, data_format=api_pb2.DATA_FORMAT_PICKLE),
        )

    def pause(self, function: str) -> None:
        """Hold the inputs of a function in its queue; `wait_idle` does not wait for them."""
        self._on_loop(lambda: self._world.paused.add(function))

    def resume(self, function: str) -> None:
        self._world.paused.discard(function)
        self._on_loop(self._world.changed)

    def kill(self, task_id: str) -> None:
        """SIGKILL a container: its inputs run again in another."""
        self._on_loop(lambda: self._fleet.end(self._world.containers[task_id]))

    def preempt(self, task_id: str) -> None:
        """SIGINT a container, as Modal does: its inputs run again in another."""
        self._on_loop(lambda: self._fleet.preempt(self._world.containers[task_id]))

    @property
    def faults(self) -> Faults:
        return self._world.faults

    # --- looking
    def inputs(self, app: str, function: str) -> list[Input]:
        """All inputs a function ever got, over all its versions, in order of submission."""
        every = self._on_loop(lambda: list(self._world.inputs.values()))
        return [one for one in every if one.call.function.app.name == app and function in one.names]

    def containers(self) -> list[Container]:
        """The containers that run now, those that retire included."""
        return self._on_loop(lambda: [one for one in self._world.containers.values() if one.pid])

    def problems(self) -> list[str]:
        """Calls that the stand-in lacks, containers that did not start, its own bugs."""
        return list(self._world.problems)

    def logs(self) -> str:
        """The output of all containers, oldest first."""
        return "\n".join(container.said() for container in self._world.ran)

    @property
    def bucket_mounts(self) -> list[BucketMount]:
        return list(self._buckets.active.values())

    def wait(self, condition: Callable[[], T], timeout_s: float = 60) -> T:
        """Wait until a condition is true and return its value; raises with a dump of all that is
        going on.
        """
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout_s} s:\n{self._on_loop(self._world.dump)}")
            time.sleep(0.03)
        return value

    def wait_idle(self, timeout_s: float = 120) -> None:
        """Wait until no input is queued or running; held and lost ones do not count."""
        self.wait(lambda: self._on_loop(lambda: self._world.idle), timeout_s)

    def _submit(self, app: str, name: str, body: api_pb2.FunctionInput) -> str:
        function = self._function(app, name)
        if "." in name:
            body.method_name = name.split(".")[1]
        call = self._on_loop(
            lambda: self._fleet.calls.open(
                function,
                api_pb2.FUNCTION_CALL_TYPE_UNARY,
                api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC,
            )
        )
        self._on_loop(
            lambda: self._fleet.calls.submit(
                call, [api_pb2.FunctionPutInputsItem(idx=0, input=body)]
            )
        )
        return call.call_id

    def _app_functions(self, app: str) -> list[str]:
        found = self._world.app_named(app)
        if found is None:
            raise KeyError(f"no app named {app!r} is deployed: {self.apps()}")
        return sorted(found.published)

    def _function(self, app: str, name: str) -> Function:
        names = self._app_functions(app)
        found = self._world.published(app, name)
        if found is None:
            raise KeyError(f"{app!r} has no function {name!r}: {names}")
        return found

    def _on_loop(self, action: Callable[[], T]) -> T:
        async def act() -> T:
            return action()

        return self._run(act())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(START_S)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
