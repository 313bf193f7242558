"""Calls that submit inputs and fetch results, as the client makes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpclib import GRPCError, Status
from modal._utils.jwt_utils import DecodedJwt
from modal_proto import api_pb2

from tests.modal_offline.rpc import missing
from tests.modal_offline.world import Call, Faults, Function, Input, World, failure

GET_OUTPUTS_MAX_S = 55.0
TERMINATED = api_pb2.GenericResult.GENERIC_STATUS_TERMINATED


class Calls:
    """Function calls from submission to result.

    `cancel_running` tells the containers of an input to give it up.
    """

    def __init__(self, world: World, cancel_running: Callable[[Input, bool], None]) -> None:
        self._world = world
        self._cancel_running = cancel_running

    def open(
        self, function: Function, kind: int, invocation: int, parent_input_id: str = ""
    ) -> Call:
        """A new call without inputs."""
        call = Call(self._world.new_id("fc"), function, kind, invocation, parent_input_id)
        self._world.calls[call.call_id] = call
        return call

    def submit(self, call: Call, items: Iterable[api_pb2.FunctionPutInputsItem]) -> list[Input]:
        """Queue inputs for a call, subject to the faults that a test set."""
        accepted = []
        for item in items:
            one = Input(self._world.new_id("in"), call, item.idx, item.input)
            call.inputs.append(one)
            self._world.inputs[one.input_id] = one
            accepted.append(one)
            if Faults.strikes(self._world.faults.losses, one.names):
                one.status = "lost"
                continue
            call.function.queue.append(one)
            if Faults.strikes(self._world.faults.duplicates, one.names):
                call.function.queue.append(one)
        self._world.changed()
        return accepted

    async def FunctionMap(self, request: api_pb2.FunctionMapRequest, _: str) -> Message:
        function = self._function(request.function_id)
        faults = self._world.faults
        if faults.exhausted > 0:
            faults.exhausted -= 1
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED, "the offline stand-in was asked to be out of resources"
            )
        methods = {
            f"{function.name.removesuffix('.*')}.{item.input.method_name}"
            for item in request.pipelined_inputs
        }
        for name in faults.cuts.keys() & {function.name, *methods}:
            if faults.cuts[name] <= 0:
                raise GRPCError(
                    Status.FAILED_PRECONDITION,
                    "the offline stand-in was asked to cut this submission",
                )
            faults.cuts[name] -= len(request.pipelined_inputs)
        call = self.open(
            function,
            request.function_call_type,
            request.function_call_invocation_type,
            request.parent_input_id,
        )
        accepted = self.submit(call, request.pipelined_inputs)
        return api_pb2.FunctionMapResponse(
            function_call_id=call.call_id,
            pipelined_inputs=[_receipt(one) for one in accepted],
            retry_policy=function.definition.retry_policy,
            function_call_jwt=DecodedJwt.encode_without_signature({"call": call.call_id}),
            sync_client_retries_enabled=True,
            max_inputs_outstanding=1000,
        )

    async def FunctionPutInputs(self, request: api_pb2.FunctionPutInputsRequest, _: str) -> Message:
        accepted = self.submit(self._call(request.function_call_id), request.inputs)
        return api_pb2.FunctionPutInputsResponse(inputs=[_receipt(one) for one in accepted])

    async def FunctionFinishInputs(self, _: Message, __: str) -> Message:
        return Empty()

    async def FunctionRetryInputs(
        self, request: api_pb2.FunctionRetryInputsRequest, _: str
    ) -> Message:
        for item in request.inputs:
            one = self._world.inputs[
                DecodedJwt.decode_without_verification(item.input_jwt).payload["input"]
            ]
            one.body, one.result, one.error, one.status = item.input, None, "", "queued"
            one.retry_count = item.retry_count or one.retry_count + 1
            one.call.function.queue.append(one)
        self._world.changed()
        return api_pb2.FunctionRetryInputsResponse(
            input_jwts=[item.input_jwt for item in request.inputs]
        )

    async def FunctionGetOutputs(
        self, request: api_pb2.FunctionGetOutputsRequest, _: str
    ) -> Message:
        call = self._call(request.function_call_id)
        deadline = time.monotonic() + min(request.timeout, GET_OUTPUTS_MAX_S)
        after = int((request.last_entry_id or "0-0").split("-")[0])
        while True:
            if request.HasField("start_idx"):
                wanted = range(request.start_idx, request.end_idx + 1)
                found = [
                    one.result
                    for one in call.inputs
                    if one.idx in wanted and one.result is not None
                ]
            else:
                found = call.outputs[after:]
            left = deadline - time.monotonic()
            if found or left <= 0:
                break
            with_news = call.news
            try:
                await asyncio.wait_for(with_news.wait(), left)
            except TimeoutError:
                continue
        return api_pb2.FunctionGetOutputsResponse(
            outputs=found,
            idxs=[one.idx for one in found],
            last_entry_id=f"{after + len(found)}-0",
            num_unfinished_inputs=call.unfinished,
        )

    async def FunctionCallFromId(
        self, request: api_pb2.FunctionCallFromIdRequest, _: str
    ) -> Message:
        call = self._call(request.function_call_id)
        handle = api_pb2.FunctionCallHandleMetadata(
            app_id=call.function.app.app_id, function_id=call.function.function_id
        )
        return api_pb2.FunctionCallFromIdResponse(
            function_call_id=call.call_id, num_inputs=len(call.inputs), metadata=handle
        )

    async def FunctionCallCancel(
        self, request: api_pb2.FunctionCallCancelRequest, _: str
    ) -> Message:
        for one in self._call(request.function_call_id).inputs:
            self.cancel(one, request.terminate_containers)
        return Empty()

    def cancel(self, one: Input, terminate_containers: bool = False) -> None:
        """Cancel an input that has no result yet: it leaves the queue, and its
        container is told.
        """
        if one.result is not None:
            return
        self.finish(one, "cancelled", failure(TERMINATED, "the call was cancelled"))
        one.call.function.queue = [other for other in one.call.function.queue if other is not one]
        self._cancel_running(one, terminate_containers)

    def finish(
        self,
        one: Input,
        status: str,
        result: api_pb2.GenericResult,
        *,
        data_format: int = 0,
        task_id: str = "",
        started_at: float = 0,
    ) -> None:
        """Give an input its result and tell whoever waits for it."""
        one.status, one.error = status, result.exception
        one.result = api_pb2.FunctionGetOutputsItem(
            result=result,
            idx=one.idx,
            input_id=one.input_id,
            data_format=data_format,  # type: ignore[arg-type]
            task_id=task_id,
            input_started_at=started_at,
            output_created_at=time.time(),
            retry_count=one.retry_count,
        )
        one.call.outputs.append(one.result)
        one.call.tell()

    async def FunctionGetCallGraph(
        self, request: api_pb2.FunctionGetCallGraphRequest, _: str
    ) -> Message:
        response = api_pb2.FunctionGetCallGraphResponse()
        waiting = [self._call(request.function_call_id)]
        while waiting:
            call = waiting.pop()
            definition = call.function.definition
            response.function_calls.add(
                function_call_id=call.call_id,
                parent_input_id=call.parent_input_id,
                function_name=definition.function_name,
                module_name=definition.module_name,
            )
            for one in call.inputs:
                status = (
                    one.result.result.status
                    if one.result
                    else api_pb2.GenericResult.GENERIC_STATUS_UNSPECIFIED
                )
                response.inputs.add(
                    input_id=one.input_id,
                    status=status,
                    function_call_id=call.call_id,
                    task_id=one.tasks[-1] if one.tasks else "",
                )
                waiting += [
                    other
                    for other in self._world.calls.values()
                    if other.parent_input_id == one.input_id
                ]
        return response

    # --- streams beside a call: web requests and answers, generators
    async def FunctionCallGetDataIn(
        self, request: api_pb2.FunctionCallGetDataRequest, _: str
    ) -> AsyncIterator[Message]:
        call = self._call(request.function_call_id)
        async for chunk in self.stream(call, call.data_in, request.last_index):
            yield chunk

    async def FunctionCallGetDataOut(
        self, request: api_pb2.FunctionCallGetDataRequest, _: str
    ) -> AsyncIterator[Message]:
        call = self._call(request.function_call_id)
        async for chunk in self.stream(call, call.data_out, request.last_index):
            yield chunk

    async def FunctionCallPutDataOut(
        self, request: api_pb2.FunctionCallPutDataRequest, _: str
    ) -> Message:
        call = self._call(request.function_call_id)
        call.data_out.extend(request.data_chunks)
        call.tell()
        return Empty()

    async def stream(
        self, call: Call, chunks: list[api_pb2.DataChunk], last: int = 0
    ) -> AsyncIterator[api_pb2.DataChunk]:
        """The chunks after `last` as they come, until the call is over."""
        sent = 0
        while True:
            news = call.news
            for chunk in chunks[sent:]:
                sent += 1
                if chunk.index > last:
                    yield chunk
            if call.unfinished == 0 and call.inputs:
                return
            await news.wait()

    def _function(self, function_id: str) -> Function:
        found = self._world.functions.get(function_id)
        if found is None or (found.base or found).live is None:
            raise missing(f"Function {function_id} not found")
        return found

    def _call(self, call_id: str) -> Call:
        found = self._world.calls.get(call_id)
        if found is None:
            raise missing(f"Function call {call_id} not found")
        return found


def _receipt(one: Input) -> api_pb2.FunctionPutInputsResponseItem:
    jwt = DecodedJwt.encode_without_signature({"idx": one.idx, "input": one.input_id})
    return api_pb2.FunctionPutInputsResponseItem(idx=one.idx, input_id=one.input_id, input_jwt=jwt)
