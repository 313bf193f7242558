"""HTTP in front of the stand-in: blobs, and the web endpoints of apps, each on a port
of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from aiohttp import web
from google.protobuf.message import Message
from modal._serialization import deserialize_data_format, serialize, serialize_data_format
from modal_proto import api_pb2

from tests.modal_offline.calls import Calls
from tests.modal_offline.world import Function, World

ASGI = api_pb2.DATA_FORMAT_ASGI
BODY_BYTES_MAX = 1 << 30
FUNCTION = web.AppKey("function", Function)


class Web:
    """The HTTP servers of one stand-in."""

    def __init__(self, world: World, calls: Calls) -> None:
        self._world = world
        self._calls = calls
        self._runners: list[web.AppRunner] = []
        self._endpoints: dict[tuple[str, str], str] = {}
        self._blobs_url = ""

    async def start(self) -> None:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_put("/{blob}", self._put_blob)
        app.router.add_get("/{blob}", self._get_blob)
        self._blobs_url = await self._serve(app)

    async def close(self) -> None:
        for runner in self._runners:
            await runner.cleanup()

    async def endpoint(
        self, function: Function, sent: api_pb2.Function | api_pb2.FunctionData
    ) -> str:
        """The URL of a function that is a web endpoint, the same at each deploy; else nothing."""
        if not sent.webhook_config.type:
            return ""
        place = (function.app.app_id, function.name)
        if place not in self._endpoints:
            app = web.Application(client_max_size=BODY_BYTES_MAX)
            app[FUNCTION] = function
            app.router.add_route("*", "/{path:.*}", self._request)
            self._endpoints[place] = await self._serve(app)
        return self._endpoints[place]

    async def _serve(self, app: web.Application) -> str:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    # --- blobs
    async def BlobCreate(self, _: api_pb2.BlobCreateRequest, __: str) -> Message:
        blob_id = self._world.new_id("bl")
        urls = api_pb2.UploadUrlList(items=[f"{self._blobs_url}/{blob_id}"])
        return api_pb2.BlobCreateResponse(blob_id=blob_id, blob_ids=[blob_id], upload_urls=urls)

    async def BlobGet(self, request: api_pb2.BlobGetRequest, _: str) -> Message:
        return api_pb2.BlobGetResponse(download_url=f"{self._blobs_url}/{request.blob_id}")

    async def _put_blob(self, request: web.Request) -> web.Response:
        body = await request.read()
        (self._world.folder / "blobs" / request.match_info["blob"]).write_bytes(body)
        return web.Response(headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})  # noqa: S324

    async def _get_blob(self, request: web.Request) -> web.Response:
        path = self._world.folder / "blobs" / request.match_info["blob"]
        return web.Response(body=path.read_bytes()) if path.exists() else web.Response(status=404)

    # --- endpoints
    async def _request(self, request: web.Request) -> web.StreamResponse:
        """Run a request as an input of the endpoint's function, and stream its answer back."""
        call = self._calls.open(
            request.app[FUNCTION],
            api_pb2.FUNCTION_CALL_TYPE_UNARY,
            api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC,
        )
        peer = (
            request.transport.get_extra_info("peername") if request.transport else ("127.0.0.1", 0)
        )
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": request.path,
            "query_string": request.query_string.encode(),
            "headers": [(name.lower(), value) for name, value in request.raw_headers],
            "client": tuple(peer[:2]),
        }
        call.data_in += _chunks(
            [{"type": "http.request", "body": await request.read(), "more_body": False}]
        )
        body = api_pb2.FunctionInput(
            args=serialize(((scope,), {})), data_format=api_pb2.DATA_FORMAT_PICKLE
        )
        [one] = self._calls.submit(call, [api_pb2.FunctionPutInputsItem(idx=0, input=body)])
        response = web.StreamResponse()
        try:
            async for chunk in self._calls.stream(call, call.data_out):
                await _relay(deserialize_data_format(chunk.data, ASGI, None), request, response)
        finally:
            self._calls.cancel(one)
        if not response.prepared:
            return web.Response(status=500, text=f"modal-http: internal error: {one.error}")
        await response.write_eof()
        return response


async def _relay(
    message: dict[str, Any], request: web.Request, response: web.StreamResponse
) -> None:
    if message["type"] == "http.response.start":
        response.set_status(message["status"])
        for name, value in message["headers"]:
            if name.lower() not in (b"content-length", b"transfer-encoding", b"connection"):
                response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
        await response.prepare(request)
    elif message["type"] == "http.response.body" and message["body"]:
        await response.write(message["body"])


def _chunks(messages: Iterable[dict[str, Any]]) -> list[api_pb2.DataChunk]:
    coded = [serialize_data_format(message, ASGI) for message in messages]
    return [
        api_pb2.DataChunk(data_format=ASGI, data=data, index=index)
        for index, data in enumerate(coded, 1)
    ]
