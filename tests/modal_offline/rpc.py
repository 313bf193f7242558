"""Modal's service as plain methods: one coroutine, or asynchronous generator, for each call, named
as in the proto.
"""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from grpclib import GRPCError, Status
from grpclib.const import Handler
from grpclib.server import Stream
from modal_proto.api_grpc import ModalClientBase

from tests.modal_offline.world import World

TASK_HEADER = "x-offline-task"


class Dispatcher:
    """Answers each call by the first part that has a method of its name; what no part has is
    UNIMPLEMENTED, and recorded.
    """

    def __init__(
        self, world: World, parts: list[object], push: Callable[[str], Awaitable[None]]
    ) -> None:
        """`push` uploads what a container wrote into directories that stand for mounts: before it
        calls others, who may look.
        """
        self._world = world
        self._parts = parts
        self._push = push

    def __mapping__(self) -> Mapping[str, Handler]:
        return ModalClientBase.__mapping__(self)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Callable[[Stream[Any, Any]], Any]:
        return functools.partial(self._answer, name)

    async def _answer(self, name: str, stream: Stream[Any, Any]) -> None:
        request = await stream.recv_message()
        method = next((found for part in self._parts if (found := getattr(part, name, None))), None)
        if method is None:
            text = f"the offline stand-in has no {name}"
            self._world.problems.append(text)
            raise GRPCError(Status.UNIMPLEMENTED, text)
        caller = str(dict(stream.metadata or ()).get(TASK_HEADER, ""))
        if caller and name == "FunctionMap":
            await self._push(caller)
        try:
            if inspect.isasyncgenfunction(method):
                async for message in method(request, caller):
                    await stream.send_message(message)
            else:
                await stream.send_message(await method(request, caller))
        except GRPCError:
            raise
        except Exception as error:
            self._world.problems.append(f"{name}: {traceback.format_exc()}")
            raise GRPCError(
                Status.INVALID_ARGUMENT, f"bug of the offline stand-in in {name}: {error!r}"
            ) from error


def missing(what: str) -> GRPCError:
    return GRPCError(Status.NOT_FOUND, what)
