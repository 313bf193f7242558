"""Calls that define apps, their functions and classes."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from modal_proto import api_pb2

from tests.modal_offline.rpc import missing
from tests.modal_offline.stores import BUILDER, ENVIRONMENT
from tests.modal_offline.world import App, Function, World


class Catalogue:
    """Apps and what they consist of. `publish` and `stop` say what the containers
    must do about it.
    """

    def __init__(
        self,
        world: World,
        publish: Callable[[App], None],
        stop: Callable[[App], None],
        web_url: Callable[[Function, api_pb2.Function | api_pb2.FunctionData], Awaitable[str]],
    ) -> None:
        self._world = world
        self._publish = publish
        self._stop = stop
        self._web_url = web_url

    # --- who and where
    async def ClientHello(self, _: Message, __: str) -> Message:
        return api_pb2.ClientHelloResponse(image_builder_version=BUILDER)

    async def WorkspaceNameLookup(self, _: Message, __: str) -> Message:
        return api_pb2.WorkspaceNameLookupResponse(workspace_name="offline", username="offline")

    async def TokenInfoGet(self, _: Message, __: str) -> Message:
        return api_pb2.TokenInfoGetResponse(
            token_id="ak-offline", workspace_id="wo-offline", workspace_name="offline"
        )

    async def AuthTokenGet(self, _: Message, __: str) -> Message:
        parts = ({"alg": "none"}, {"exp": time.time() + 3600})
        coded = [
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
            for part in parts
        ]
        return api_pb2.AuthTokenGetResponse(token=f"{coded[0]}.{coded[1]}.offline")

    async def EnvironmentGetOrCreate(
        self, request: api_pb2.EnvironmentGetOrCreateRequest, _: str
    ) -> Message:
        settings = api_pb2.EnvironmentSettings(image_builder_version=BUILDER)
        metadata = api_pb2.EnvironmentMetadata(
            name=request.deployment_name or ENVIRONMENT, settings=settings
        )
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id="en-offline", metadata=metadata
        )

    async def EnvironmentList(self, _: Message, __: str) -> Message:
        return api_pb2.EnvironmentListResponse(
            items=[api_pb2.EnvironmentListItem(name=ENVIRONMENT, default=True)]
        )

    # --- apps
    async def AppCreate(self, request: api_pb2.AppCreateRequest, _: str) -> Message:
        app = App(
            self._world.new_id("ap"),
            request.description,
            request.app_state,
            tags=dict(request.tags),
        )
        self._world.apps[app.app_id] = app
        return api_pb2.AppCreateResponse(
            app_id=app.app_id, app_page_url=f"http://offline/{app.app_id}"
        )

    async def AppGetOrCreate(self, request: api_pb2.AppGetOrCreateRequest, _: str) -> Message:
        app = self._world.app_named(request.app_name)
        if (
            app is None
            and request.object_creation_type != api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
        ):
            raise missing(f"App '{request.app_name}' not found in environment '{ENVIRONMENT}'")
        if app is None:
            app = App(self._world.new_id("ap"), request.app_name, api_pb2.APP_STATE_DEPLOYED)
            self._world.apps[app.app_id] = app
        handle = api_pb2.AppHandleMetadata(
            app_id=app.app_id, description=app.name, environment_name=ENVIRONMENT
        )
        return api_pb2.AppGetOrCreateResponse(app_id=app.app_id, handle_metadata=handle)

    async def AppGetByDeploymentName(
        self, request: api_pb2.AppGetByDeploymentNameRequest, _: str
    ) -> Message:
        app = self._world.app_named(request.name)
        if app is None:
            return api_pb2.AppGetByDeploymentNameResponse()
        return api_pb2.AppGetByDeploymentNameResponse(
            app_id=app.app_id, environment_name=ENVIRONMENT, lifecycle=_lifecycle(app)
        )

    async def AppGetLifecycle(self, request: api_pb2.AppGetLifecycleRequest, _: str) -> Message:
        return api_pb2.AppGetLifecycleResponse(lifecycle=_lifecycle(self._app(request.app_id)))

    async def AppGetLayout(self, request: api_pb2.AppGetLayoutRequest, _: str) -> Message:
        return api_pb2.AppGetLayoutResponse(
            app_layout=layout(self._world, self._app(request.app_id))
        )

    async def AppList(self, _: Message, __: str) -> Message:
        response = api_pb2.AppListResponse()
        for app in self._world.apps.values():
            response.apps.add(
                app_id=app.app_id,
                name=app.name,
                description=app.name,
                state=app.state,
                created_at=app.deployed_at or time.time(),
            )
        return response

    async def AppHeartbeat(self, _: Message, __: str) -> Message:
        return Empty()

    async def AppPublish(self, request: api_pb2.AppPublishRequest, _: str) -> Message:
        app = self._app(request.app_id)
        app.name, app.state = request.name or app.name, request.app_state or app.state
        app.published, app.classes = dict(request.function_ids), dict(request.class_ids)
        app.tags, app.version, app.deployed_at = dict(request.tags), app.version + 1, time.time()
        for function_id in app.published.values():
            function = self._world.functions[function_id]
            if function.staged is not None:
                function.live, function.staged = function.staged, None
                function.generation += 1
        self._publish(app)
        return api_pb2.AppPublishResponse(
            url=f"http://offline/apps/{app.name}", deployed_at=app.deployed_at
        )

    async def AppClientDisconnect(
        self, request: api_pb2.AppClientDisconnectRequest, _: str
    ) -> Message:
        app = self._app(request.app_id)
        if app.state in (api_pb2.APP_STATE_EPHEMERAL, api_pb2.APP_STATE_INITIALIZING):
            self._stop(app)
        return Empty()

    async def AppStop(self, request: api_pb2.AppStopRequest, _: str) -> Message:
        self._stop(self._app(request.app_id))
        return Empty()

    async def AppGetTags(self, request: api_pb2.AppGetTagsRequest, _: str) -> Message:
        return api_pb2.AppGetTagsResponse(tags=self._app(request.app_id).tags)

    async def AppSetTags(self, request: api_pb2.AppSetTagsRequest, _: str) -> Message:
        self._app(request.app_id).tags = dict(request.tags)
        return Empty()

    async def AppDeploymentHistory(
        self, request: api_pb2.AppDeploymentHistoryRequest, _: str
    ) -> Message:
        app = self._app(request.app_id)
        past = [
            api_pb2.AppDeploymentHistory(app_id=app.app_id, version=n)
            for n in range(app.version, 0, -1)
        ]
        return api_pb2.AppDeploymentHistoryResponse(
            app_deployment_histories=past, production_app_version=app.version
        )

    async def AppGetLogs(
        self, request: api_pb2.AppGetLogsRequest, _: str
    ) -> AsyncIterator[Message]:
        await self._app(request.app_id).stopped.wait()
        yield api_pb2.TaskLogsBatch(app_done=True)

    async def AppFetchLogs(self, request: api_pb2.AppFetchLogsRequest, _: str) -> Message:
        response = api_pb2.AppFetchLogsResponse()
        for container in self._world.ran:
            if container.function.app.app_id == request.app_id:
                batch = response.batches.add(
                    task_id=container.task_id, function_id=container.function.function_id
                )
                for line in container.said().splitlines(keepends=True):
                    batch.items.add(
                        data=line,
                        timestamp=container.started_at,
                        file_descriptor=api_pb2.FILE_DESCRIPTOR_STDOUT,
                    )
        return response

    # --- functions and classes
    async def FunctionPrecreate(self, request: api_pb2.FunctionPrecreateRequest, _: str) -> Message:
        app = self._app(request.app_id)
        function = self._world.functions.get(request.existing_function_id)
        if function is None:
            handle = api_pb2.FunctionHandleMetadata(app_id=app.app_id)
            function = Function(self._world.new_id("fu"), app, request.function_name, handle)
            self._world.functions[function.function_id] = function
        _describe(function, request, "")
        return api_pb2.FunctionPrecreateResponse(
            function_id=function.function_id, handle_metadata=function.handle
        )

    async def FunctionCreate(self, request: api_pb2.FunctionCreateRequest, _: str) -> Message:
        sent = request.function if request.HasField("function") else request.function_data
        function = self._world.functions.get(request.existing_function_id)
        if function is None:
            handle = api_pb2.FunctionHandleMetadata(app_id=request.app_id)
            function = Function(
                self._world.new_id("fu"), self._app(request.app_id), sent.function_name, handle
            )
            self._world.functions[function.function_id] = function
        data = api_pb2.FunctionData()
        if request.HasField("function_data"):
            data.CopyFrom(request.function_data)
            for ranked in data.ranked_functions:
                ranked.function.schedule.CopyFrom(data.schedule)
        else:
            data.ranked_functions.add(function=request.function)
            _copy_shared_fields(request.function, data)
        function.staged = data
        _describe(function, sent, await self._web_url(function, sent))
        function.handle.definition_id = self._world.new_id("de")
        return api_pb2.FunctionCreateResponse(
            function_id=function.function_id,
            function=data.ranked_functions[0].function,
            function_data=data,
            handle_metadata=function.handle,
        )

    async def FunctionGet(self, request: api_pb2.FunctionGetRequest, _: str) -> Message:
        app = self._world.app_named(request.app_name)
        if app is None or request.object_tag not in app.published:
            known = sorted(app.published) if app else "no such app"
            raise missing(
                f"Function '{request.object_tag}' of app '{request.app_name}' not found ({known})"
            )
        function = self._world.functions[app.published[request.object_tag]]
        return api_pb2.FunctionGetResponse(
            function_id=function.function_id,
            handle_metadata=function.handle,
            function=function.live,
        )

    async def FunctionGetById(self, request: api_pb2.FunctionGetByIdRequest, _: str) -> Message:
        function = self.function(request.function_id)
        return api_pb2.FunctionGetByIdResponse(
            function=(function.base or function).live, handle_metadata=function.handle
        )

    async def FunctionBindParams(
        self, request: api_pb2.FunctionBindParamsRequest, _: str
    ) -> Message:
        base = self.function(request.function_id)
        options = request.function_options if request.HasField("function_options") else None
        wanted = (
            base,
            request.serialized_params,
            options.SerializeToString(deterministic=True) if options else b"",
        )
        for known in self._world.functions.values():
            laid_over = (
                known.options.SerializeToString(deterministic=True) if known.options else b""
            )
            if known.base is not None and (known.base, known.params, laid_over) == wanted:
                return api_pb2.FunctionBindParamsResponse(
                    bound_function_id=known.function_id, handle_metadata=known.handle
                )
        handle = api_pb2.FunctionHandleMetadata()
        handle.CopyFrom(base.handle)
        bound = Function(
            self._world.new_id("fu"),
            base.app,
            base.name,
            handle,
            base=base,
            params=request.serialized_params,
        )
        if options is not None:
            bound.options = api_pb2.FunctionOptions()
            bound.options.CopyFrom(options)
        self._world.functions[bound.function_id] = bound
        return api_pb2.FunctionBindParamsResponse(
            bound_function_id=bound.function_id, handle_metadata=handle
        )

    async def FunctionUpdateSchedulingParams(
        self, request: api_pb2.FunctionUpdateSchedulingParamsRequest, _: str
    ) -> Message:
        function = self.function(request.function_id)
        function.autoscaler.MergeFrom(request.settings)
        self._world.changed()
        return api_pb2.FunctionUpdateSchedulingParamsResponse(current_settings=function.autoscaler)

    async def FunctionGetSchedulingParams(
        self, request: api_pb2.FunctionGetSchedulingParamsRequest, _: str
    ) -> Message:
        now = api_pb2.AutoscalerConfiguration(
            settings=self.function(request.function_id).autoscaler
        )
        return api_pb2.FunctionGetSchedulingParamsResponse(autoscaler_configuration=now)

    async def FunctionGetCurrentStats(
        self, request: api_pb2.FunctionGetCurrentStatsRequest, _: str
    ) -> Message:
        function = self.function(request.function_id)
        containers = [c for c in self._world.containers.values() if c.function is function]
        return api_pb2.FunctionStats(
            backlog=len(function.queue),
            num_total_tasks=len(containers),
            num_running_inputs=sum(len(c.running) for c in containers),
        )

    async def ClassCreate(self, request: api_pb2.ClassCreateRequest, _: str) -> Message:
        class_id = request.existing_class_id or self._world.new_id("cs")
        return api_pb2.ClassCreateResponse(
            class_id=class_id, handle_metadata=api_pb2.ClassHandleMetadata()
        )

    async def ClassGet(self, request: api_pb2.ClassGetRequest, _: str) -> Message:
        app = self._world.app_named(request.app_name)
        if app is None or request.object_tag not in app.classes:
            raise missing(f"Class '{request.object_tag}' of app '{request.app_name}' not found")
        return api_pb2.ClassGetResponse(
            class_id=app.classes[request.object_tag], handle_metadata=api_pb2.ClassHandleMetadata()
        )

    def function(self, function_id: str) -> Function:
        found = self._world.functions.get(function_id)
        if found is None:
            raise missing(f"Function {function_id} not found")
        return found

    def _app(self, app_id: str) -> App:
        found = self._world.apps.get(app_id)
        if found is None:
            raise missing(f"App {app_id} not found")
        return found


def layout(world: World, app: App) -> api_pb2.AppLayout:
    """An app's functions and classes with the metadata that a client or a container needs to use
    them.
    """
    found = api_pb2.AppLayout(function_ids=app.published, class_ids=app.classes)
    for function_id in app.published.values():
        found.objects.add(
            object_id=function_id, function_handle_metadata=world.functions[function_id].handle
        )
    for class_id in app.classes.values():
        found.objects.add(object_id=class_id, class_handle_metadata=api_pb2.ClassHandleMetadata())
    return found


def _describe(
    function: Function,
    sent: api_pb2.FunctionPrecreateRequest | api_pb2.Function | api_pb2.FunctionData,
    web_url: str,
) -> None:
    """Bring a function's handle up to date with what the client sent."""
    handle = function.handle
    handle.function_name, handle.function_type, handle.web_url = (
        sent.function_name,
        sent.function_type,
        web_url,
    )
    handle.function_schema.CopyFrom(sent.function_schema)
    if not isinstance(sent, api_pb2.FunctionPrecreateRequest):
        handle.class_parameter_info.CopyFrom(sent.class_parameter_info)
    for field in ("supported_input_formats", "supported_output_formats"):
        del getattr(handle, field)[:]
        getattr(handle, field).extend(getattr(sent, field))
    handle.method_handle_metadata.clear()
    for name, method in sent.method_definitions.items():
        one = handle.method_handle_metadata[name]
        one.function_name, one.function_type = method.function_name, method.function_type
        one.use_method_name, one.is_method = name, True
        one.function_schema.CopyFrom(method.function_schema)
        one.app_id = handle.app_id
        one.supported_input_formats.extend(method.supported_input_formats)
        one.supported_output_formats.extend(method.supported_output_formats)


def _copy_shared_fields(sent: api_pb2.Function, data: api_pb2.FunctionData) -> None:
    for present, value in sent.ListFields():
        if present.name in data.DESCRIPTOR.fields_by_name:
            data.MergeFrom(type(data)(**{present.name: value}))


def _lifecycle(app: App) -> api_pb2.AppLifecycle:
    return api_pb2.AppLifecycle(
        app_state=app.state, deployed_at=app.deployed_at, version=app.version
    )
