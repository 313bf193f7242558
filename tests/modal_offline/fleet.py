"""Containers: when they start, what they are given to do, and what becomes of their inputs when
they die.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
from collections.abc import Iterable

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from modal_proto import api_pb2

from tests.modal_offline import world as limits
from tests.modal_offline.box import Boxes
from tests.modal_offline.calls import Calls
from tests.modal_offline.world import App, Container, Function, Input, Seeker, World, failure

HEARTBEAT_HOLD_S = 14.0
Result = api_pb2.GenericResult


class Fleet:
    """Hands queued inputs to containers.

    Every change of state ends in one pass over all queues, on the event loop.
    """

    def __init__(self, world: World, boxes: Boxes) -> None:
        self._world = world
        self._boxes = boxes
        self.calls = Calls(world, self._cancel_running)
        self._pass_due = False
        self._tasks: set[asyncio.Task[None]] = set()
        world.changed = self._pass_soon

    # --- one pass
    def _pass_soon(self, delay_s: float = 0.0) -> None:
        if delay_s > 0:
            asyncio.get_running_loop().call_later(delay_s, self._pass_soon)
        elif not self._pass_due:
            self._pass_due = True
            asyncio.get_running_loop().call_soon(self._pass)

    def _pass(self) -> None:
        self._pass_due = False
        for function in list(self._world.functions.values()):
            if function.queue and (function.base or function).live is not None:
                self._serve(function)

    def _serve(self, function: Function) -> None:
        """Give a function's due inputs to the containers that wait, and start more where that does
        not suffice.
        """
        now = time.monotonic()
        due = [one for one in function.queue if one.due <= now and not self._world.held(one)]
        later = [one.due for one in function.queue if one.due > now]
        if later:
            self._pass_soon(min(later) - now)
        for seeker in list(function.seekers):
            batch = _batch(due, seeker)
            if not batch or (
                seeker.batch_max > 1
                and len(batch) < seeker.batch_max
                and self._lingers(function, now)
            ):
                continue
            function.linger_until = None
            for one in batch:
                due.remove(one)
                function.queue.remove(one)
            self._deliver(seeker, batch)
        self._scale(function, due)

    def _lingers(self, function: Function, now: float) -> bool:
        """Whether a batch that is not full should wait for more inputs."""
        if function.linger_until is None:
            function.linger_until = now + function.definition.batch_linger_ms / 1000
            self._pass_soon(max(function.linger_until - now, 0.001))
        return now < function.linger_until

    def _scale(self, function: Function, due: list[Input]) -> None:
        definition = function.definition
        serving = [
            c for c in self._world.containers.values() if c.function is function and not c.retiring
        ]
        starting = sum(not c.asked for c in serving) + len(function.seekers)
        slots = max(definition.batch_max_size, definition.max_concurrent_inputs, 1)
        for _ in range(math.ceil(len(due) / slots) - starting):
            if len(serving) >= function.containers_max or not self._room(bool(serving)):
                return
            serving.append(self._start(function))

    def _room(self, served_already: bool) -> bool:
        """Whether another container may run; an idle one makes room.

        A function's first one may always.
        """
        running = [c for c in self._world.containers.values() if not c.retiring]
        if len(running) < limits.CONTAINERS_MAX:
            return True
        for function in self._world.functions.values():
            if not function.queue and function.seekers:
                self._dismiss(function.seekers[0])
                return True
        return not served_already

    def _deliver(self, seeker: Seeker, batch: list[Input]) -> None:
        container = seeker.container
        container.function.seekers.remove(seeker)
        for one in batch:
            one.executions += 1
            one.tasks.append(container.task_id)
            one.running_in.add(container.task_id)
            container.running[one.input_id] = one
            if one.result is None:
                one.status = "running"
        timeout_s = container.function.definition.timeout_secs
        if timeout_s:
            timer = asyncio.get_running_loop().call_later(
                timeout_s, self._time_out, container, batch, timeout_s
            )
            container.timers.update({one.input_id: timer for one in batch})
        container.retiring |= container.function.definition.single_use_containers
        seeker.answer.set_result(batch)

    def _dismiss(self, seeker: Seeker) -> None:
        seeker.container.retiring = True
        seeker.container.function.seekers.remove(seeker)
        seeker.answer.set_result([])

    # --- the life of a container
    def _start(self, function: Function) -> Container:
        task_id = self._world.new_id("ta")
        container = Container(
            task_id,
            function,
            function.current_generation,
            self._world.folder / "logs" / f"{task_id}-{function.name.replace('*', 'all')}.log",
            self._world.folder / "boxes" / task_id,
        )
        self._world.containers[task_id] = container
        self._world.ran.append(container)
        task = asyncio.get_running_loop().create_task(self._live(container))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return container

    async def _live(self, container: Container) -> None:
        """Run a container's process to its end, then settle what it left behind."""
        try:
            container.process = await self._boxes.start(container)
            if container.retiring:
                self.end(container)
            await container.process.wait()
            end_group(container)
        except Exception as error:
            self._world.problems.append(
                f"{container.task_id} of {container.function.name} did not start: {error!r}"
            )
            container.failure = failure(
                Result.GENERIC_STATUS_FAILURE, f"the container did not start: {error!r}"
            )
        del self._world.containers[container.task_id]
        function = container.function
        function.seekers = [s for s in function.seekers if s.container is not container]
        for one in reversed(list(container.running.values())):
            self._release(container, one)
            if one.result is None and one.executions >= limits.EXECUTIONS_MAX:
                self.calls.finish(
                    one,
                    "failed",
                    failure(Result.GENERIC_STATUS_FAILURE, "its containers died too often"),
                )
            elif one.result is None:
                one.status = "queued"
                function.queue.insert(0, one)
        if not container.asked and not container.retiring:
            self._startup_failed(container)
        await self._boxes.clear(container)
        self._world.changed()

    def _startup_failed(self, container: Container) -> None:
        """After a few failures to start in a row the queued inputs fail, with the reason."""
        function = container.function
        function.startup_failures += 1
        patience = limits.STARTUP_FAILURES_MAX if container.failure else limits.STARTUP_CRASHES_MAX
        if function.startup_failures >= patience:
            reason = container.failure or failure(
                Result.GENERIC_STATUS_FAILURE, "the containers crash while they start"
            )
            waiting, function.queue, function.startup_failures = function.queue, [], 0
            for one in waiting:
                if one.result is None:
                    self.calls.finish(one, "failed", reason)

    def end(self, container: Container) -> None:
        """SIGKILL, as when a machine is lost: the container's inputs are rescheduled."""
        container.retiring = True
        end_group(container)

    def preempt(self, container: Container) -> None:
        """SIGINT, and SIGKILL after a grace period."""
        container.retiring = True
        if container.process and container.process.returncode is None:
            os.kill(container.pid, signal.SIGINT)
        asyncio.get_running_loop().call_later(limits.PREEMPTION_GRACE_S, end_group, container)

    def published(self, app: App) -> None:
        """A new version: containers of older ones finish what they run and go."""
        for container in self._world.containers.values():
            if (
                container.function.app is app
                and container.generation != container.function.current_generation
            ):
                container.retiring = True
        for function in self._world.functions.values():
            if function.app is app:
                function.startup_failures = 0
            if (
                function.app is app
                and (function.base or function).function_id not in app.published.values()
            ):
                self._abandon(function)
            for seeker in list(function.seekers):
                if seeker.container.retiring:
                    self._dismiss(seeker)
        self._world.changed()

    def _abandon(self, function: Function) -> None:
        """The new version lacks this function: what waits is cancelled, what runs finishes."""
        for one in list(function.queue):
            self.calls.cancel(one)
        for container in self._world.containers.values():
            container.retiring |= container.function is function

    def stop_app(self, app: App) -> None:
        app.state = api_pb2.APP_STATE_STOPPED
        app.stopped.set()
        for one in list(self._world.inputs.values()):
            if one.call.function.app is app and one.status in ("queued", "running"):
                self.calls.cancel(one)
        for container in list(self._world.containers.values()):
            if container.function.app is app:
                self.end(container)

    async def close(self) -> None:
        """End every container and wait until it is gone."""
        for container in list(self._world.containers.values()):
            self.end(container)
        self._world.changed = lambda: None
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)

    # --- inputs that do not end well
    def _time_out(self, container: Container, batch: list[Input], timeout_s: int) -> None:
        """A container that exceeds its time limit is killed, and its input has failed; others in it
        run again.
        """
        for one in batch:
            if container.running.get(one.input_id) is one:
                self._release(container, one)
                text = f"Task's current input {one.input_id} hit its timeout of {timeout_s}s"
                self._fail(one, failure(Result.GENERIC_STATUS_TIMEOUT, text), 0, container, 0)
        self.end(container)

    def _fail(
        self, one: Input, result: Result, data_format: int, container: Container, started_at: float
    ) -> None:
        """Retry by the function's policy where the server owns the retries, else report the
        failure.
        """
        if one.result is not None:
            return
        policy = one.call.function.definition.retry_policy
        if one.call.retried_here and one.retry_count < policy.retries:
            delay_ms = (
                policy.initial_delay_ms * (policy.backoff_coefficient or 1) ** one.retry_count
            )
            one.due = time.monotonic() + min(delay_ms, policy.max_delay_ms or delay_ms) / 1000
            one.retry_count, one.status, one.error = one.retry_count + 1, "queued", result.exception
            one.call.function.queue.append(one)
        else:
            self.calls.finish(
                one,
                "failed",
                result,
                data_format=data_format,
                task_id=container.task_id,
                started_at=started_at,
            )
        self._world.changed()

    def _release(self, container: Container, one: Input) -> None:
        container.running.pop(one.input_id, None)
        one.running_in.discard(container.task_id)
        timer = container.timers.pop(one.input_id, None)
        if timer and timer not in container.timers.values():
            timer.cancel()

    def _cancel_running(self, one: Input, terminate: bool) -> None:
        for task_id in list(one.running_in):
            container = self._world.containers[task_id]
            if terminate:
                self.end(container)
            else:
                container.to_cancel.append(one.input_id)
                container.cancel_news.set()

    # --- what containers call
    async def ContainerHello(self, _: Message, __: str) -> Message:
        return Empty()

    async def ContainerHeartbeat(self, _: Message, caller: str) -> Message:
        """Held open, so that a cancellation arrives at once."""
        container = self._world.container_of(caller)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(container.cancel_news.wait(), HEARTBEAT_HOLD_S)
        container.cancel_news.clear()
        to_cancel, container.to_cancel = container.to_cancel, []
        if not to_cancel:
            return api_pb2.ContainerHeartbeatResponse()
        return api_pb2.ContainerHeartbeatResponse(
            cancel_input_event=api_pb2.CancelInputEvent(input_ids=to_cancel)
        )

    async def FunctionGetInputs(
        self, request: api_pb2.FunctionGetInputsRequest, caller: str
    ) -> Message:
        container = self._world.container_of(caller)
        container.asked, container.function.startup_failures = True, 0
        response = api_pb2.FunctionGetInputsResponse()
        found = [] if container.retiring else await self._seek(container, request.batch_max_size)
        if found is None:
            return response
        if not found:
            container.retiring = True
            response.inputs.add(kill_switch=True)
            return response
        await self._boxes.before_inputs(container)
        for one in found:
            response.inputs.add(
                input_id=one.input_id,
                input=one.body,
                function_call_id=one.call_id,
                function_call_invocation_type=one.call.invocation,
                retry_count=one.retry_count,
                function_map_idx=one.idx,
            )
        return response

    async def _seek(self, container: Container, batch_max: int) -> list[Input] | None:
        """The next inputs for a container; an empty list once it was idle for long; None to ask
        again.
        """
        seeker = Seeker(container, batch_max, asyncio.get_running_loop().create_future())
        container.function.seekers.append(seeker)
        self._world.changed()
        declared = container.function.definition.task_idle_timeout_secs or limits.IDLE_S
        try:
            return await asyncio.wait_for(
                asyncio.shield(seeker.answer), min(declared, limits.IDLE_S)
            )
        except TimeoutError:
            if seeker.answer.done():
                return seeker.answer.result()
            container.function.seekers.remove(seeker)
            return None if container.running else []
        except asyncio.CancelledError:
            if seeker in container.function.seekers:
                container.function.seekers.remove(seeker)
            raise

    async def FunctionPutOutputs(
        self, request: api_pb2.FunctionPutOutputsRequest, caller: str
    ) -> Message:
        container = self._world.container_of(caller)
        await self._boxes.after_inputs(container)
        for item in request.outputs:
            one = container.running.get(item.input_id)
            if one is None:
                continue
            self._release(container, one)
            if one.result is not None or item.retry_count != one.retry_count:
                continue
            if item.result.status == Result.GENERIC_STATUS_SUCCESS:
                self.calls.finish(
                    one,
                    "done",
                    item.result,
                    data_format=item.data_format,
                    task_id=caller,
                    started_at=item.input_started_at,
                )
            elif item.result.status == Result.GENERIC_STATUS_TERMINATED:
                self.calls.finish(one, "cancelled", item.result)
            else:
                self._fail(one, item.result, item.data_format, container, item.input_started_at)
        self._world.changed()
        return Empty()

    async def FunctionGetDynamicConcurrency(
        self, request: api_pb2.FunctionGetDynamicConcurrencyRequest, _: str
    ) -> Message:
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.max_concurrency)

    async def TaskResult(self, request: api_pb2.TaskResultRequest, caller: str) -> Message:
        self._world.container_of(caller).failure = request.result
        return Empty()

    async def ContainerStop(self, request: api_pb2.ContainerStopRequest, caller: str) -> Message:
        container = self._world.containers.get(request.task_id or caller)
        if container is not None:
            container.retiring = True
            if not request.graceful:
                self.end(container)
        return api_pb2.ContainerStopResponse()

    async def TaskList(self, request: api_pb2.TaskListRequest, _: str) -> Message:
        response = api_pb2.TaskListResponse()
        for container in self._world.containers.values():
            if container.function.app.app_id == request.app_id:
                response.tasks.add(
                    task_id=container.task_id,
                    app_id=request.app_id,
                    enqueued_at=container.started_at,
                )
        return response


def end_group(container: Container) -> None:
    """SIGKILL a container with all processes it started."""
    if container.process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(container.pid, signal.SIGKILL)


def _batch(due: Iterable[Input], seeker: Seeker) -> list[Input]:
    """Inputs for one container: as many as fit, of one method, none twice."""
    found: list[Input] = []
    for one in due:
        if one.input_id in seeker.container.running or one in found:
            continue
        if found and one.body.method_name != found[0].body.method_name:
            continue
        found.append(one)
        if len(found) >= max(seeker.batch_max, 1):
            break
    return found
