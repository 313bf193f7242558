"""Calls that store things: images, mounts, secrets, volumes, dictionaries."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.modal_offline.rpc import missing
from tests.modal_offline.world import World

BUILDER = "2025.06"
ENVIRONMENT = "main"


class Stores:
    """What apps refer to. Nothing is built: an image is its definition."""

    def __init__(self, world: World) -> None:
        self._world = world

    # --- images and mounts
    async def ImageGetOrCreate(self, request: api_pb2.ImageGetOrCreateRequest, _: str) -> Message:
        image_id = self._world.new_id("im")
        self._world.images[image_id] = request.image
        done = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)
        return api_pb2.ImageGetOrCreateResponse(
            image_id=image_id, result=done, metadata=_image_metadata()
        )

    async def ImageFromId(self, request: api_pb2.ImageFromIdRequest, _: str) -> Message:
        return api_pb2.ImageFromIdResponse(image_id=request.image_id, metadata=_image_metadata())

    async def ImageJoinStreaming(self, _: Message, __: str) -> AsyncIterator[Message]:
        done = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)
        yield api_pb2.ImageJoinStreamingResponse(result=done, metadata=_image_metadata(), eof=True)

    async def MountBatchedCheckExistence(
        self, request: api_pb2.MountBatchedCheckExistenceRequest, _: str
    ) -> Message:
        absent = [one for one in request.sha256_hex_hashes if not self.stored_file(one).exists()]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=absent)

    async def MountPutFile(self, request: api_pb2.MountPutFileRequest, _: str) -> Message:
        path = self.stored_file(request.sha256_hex)
        if request.data_blob_id:
            path.write_bytes((self._world.folder / "blobs" / request.data_blob_id).read_bytes())
        elif request.WhichOneof("data_oneof") == "data":
            path.write_bytes(request.data)
        return api_pb2.MountPutFileResponse(exists=path.exists())

    async def MountGetOrCreate(self, request: api_pb2.MountGetOrCreateRequest, _: str) -> Message:
        mount_id = self._world.new_id("mo")
        self._world.mounts[mount_id] = list(request.files)
        return api_pb2.MountGetOrCreateResponse(
            mount_id=mount_id, handle_metadata=api_pb2.MountHandleMetadata()
        )

    # --- secrets, volumes, dictionaries
    async def SecretGetOrCreate(self, request: api_pb2.SecretGetOrCreateRequest, _: str) -> Message:
        known, name, kind = (
            self._world.secrets,
            request.deployment_name,
            request.object_creation_type,
        )
        secret_id = self._world.new_id("st")
        if not name:
            self._world.secret_ids[secret_id] = dict(request.env_dict)
            return api_pb2.SecretGetOrCreateResponse(
                secret_id=secret_id, metadata=_secret_metadata("", request.env_dict)
            )
        if kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS and name in known:
            raise GRPCError(Status.ALREADY_EXISTS, f"Secret '{name}' already exists")
        overwrite = kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS
        if overwrite or (kind != api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED and name not in known):
            known[name] = dict(request.env_dict)
        if name not in known:
            raise missing(f"Secret '{name}' not found in environment '{ENVIRONMENT}'")
        absent = [key for key in request.required_keys if key not in known[name]]
        if absent:
            raise missing(f"Secret '{name}' is missing key(s): {', '.join(absent)}")
        self._world.secret_ids[secret_id] = name
        return api_pb2.SecretGetOrCreateResponse(
            secret_id=secret_id, metadata=_secret_metadata(name, known[name])
        )

    async def SecretGetInfo(self, request: api_pb2.SecretGetInfoRequest, _: str) -> Message:
        name = self._world.secret_ids.get(request.secret_id, "")
        metadata = _secret_metadata(
            name if isinstance(name, str) else "", self._world.secret(request.secret_id)
        )
        return api_pb2.SecretGetInfoResponse(metadata=metadata)

    async def SecretList(self, _: Message, __: str) -> Message:
        response = api_pb2.SecretListResponse(environment_name=ENVIRONMENT)
        for name, values in sorted(self._world.secrets.items()):
            response.items.add(
                label=name, secret_id=f"st-{name}", metadata=_secret_metadata(name, values)
            )
        return response

    async def VolumeGetOrCreate(self, request: api_pb2.VolumeGetOrCreateRequest, _: str) -> Message:
        name, kind = request.deployment_name, request.object_creation_type
        volumes = self._world.volumes
        found = next((known for known, called in volumes.items() if name and called == name), None)
        if found is None and name and kind == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
            raise missing(f"Volume '{name}' not found in environment '{ENVIRONMENT}'")
        if found is None:
            found = self._world.new_id("vo")
            volumes[found] = name
            (self._world.folder / "volumes" / found).mkdir(parents=True)
        metadata = api_pb2.VolumeMetadata(name=name, version=request.version)
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=found, version=request.version, metadata=metadata
        )

    async def VolumeCommit(self, _: Message, __: str) -> Message:
        return api_pb2.VolumeCommitResponse()

    async def VolumeReload(self, _: Message, __: str) -> Message:
        return Empty()

    async def VolumeHeartbeat(self, _: Message, __: str) -> Message:
        return Empty()

    async def DictGetOrCreate(self, request: api_pb2.DictGetOrCreateRequest, _: str) -> Message:
        name = request.deployment_name or self._world.new_id("anonymous")
        if (
            request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED
            and f"di-{name}" not in self._world.dicts
        ):
            raise missing(f"Dict '{name}' not found in environment '{ENVIRONMENT}'")
        self._world.dicts[f"di-{name}"].update({entry.key: entry.value for entry in request.data})
        return api_pb2.DictGetOrCreateResponse(
            dict_id=f"di-{name}", metadata=api_pb2.DictMetadata(name=name)
        )

    async def DictUpdate(self, request: api_pb2.DictUpdateRequest, _: str) -> Message:
        stored = self._world.dicts[request.dict_id]
        if request.if_not_exists and any(entry.key in stored for entry in request.updates):
            return api_pb2.DictUpdateResponse(created=False)
        stored.update({entry.key: entry.value for entry in request.updates})
        return api_pb2.DictUpdateResponse(created=True)

    async def DictGet(self, request: api_pb2.DictGetRequest, _: str) -> Message:
        value = self._world.dicts[request.dict_id].get(request.key)
        return api_pb2.DictGetResponse(found=value is not None, value=value)

    async def DictPop(self, request: api_pb2.DictPopRequest, _: str) -> Message:
        value = self._world.dicts[request.dict_id].pop(request.key, None)
        return api_pb2.DictPopResponse(found=value is not None, value=value)

    async def DictContains(self, request: api_pb2.DictContainsRequest, _: str) -> Message:
        return api_pb2.DictContainsResponse(found=request.key in self._world.dicts[request.dict_id])

    async def DictLen(self, request: api_pb2.DictLenRequest, _: str) -> Message:
        return api_pb2.DictLenResponse(len=len(self._world.dicts[request.dict_id]))

    async def DictContents(
        self, request: api_pb2.DictContentsRequest, _: str
    ) -> AsyncIterator[Message]:
        for key, value in list(self._world.dicts[request.dict_id].items()):
            yield api_pb2.DictEntry(
                key=key if request.keys else b"", value=value if request.values else b""
            )

    def stored_file(self, sha256: str) -> Path:
        return self._world.folder / "files" / sha256


def _image_metadata() -> api_pb2.ImageMetadata:
    return api_pb2.ImageMetadata(
        python_version_info=f"Python {sys.version.split()[0]}", image_builder_version=BUILDER
    )


def _secret_metadata(name: str, values: Mapping[str, str]) -> api_pb2.SecretMetadata:
    return api_pb2.SecretMetadata(name=name, keys=sorted(values), environment_name=ENVIRONMENT)
