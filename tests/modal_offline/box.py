"""A container's surroundings: a fresh root folder with what the client uploaded, its environment,
its process.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import py_compile
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from modal_proto import api_pb2

from tests.modal_offline.buckets import Buckets
from tests.modal_offline.catalogue import layout
from tests.modal_offline.rpc import TASK_HEADER
from tests.modal_offline.stores import ENVIRONMENT
from tests.modal_offline.world import Container, Running, World
from tests.support.warm import Started, Template

UNCHECKED = py_compile.PycInvalidationMode.UNCHECKED_HASH
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "FUSE_LIBRARY_PATH")
ISOLATION = '''\
"""Only installed packages and the container's own root can be imported: no editable installs."""
import ctypes, os, signal, sys
if os.getppid() == {parent}:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no container outlives its test
_own = [os.path.realpath(p) for p in ({root!r}, sys.prefix, sys.base_prefix,
    os.path.dirname(os.__file__))]
sys.path[:] = [p for p in sys.path if any(os.path.realpath(p or ".").startswith(o) for o in _own)]
sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, "__module__",
    "").startswith("__editable__")]
'''


class Boxes:
    """Prepares and starts container processes. `server_url` is set once the server listens.

    Each is a new interpreter, or comes from a template of warm ones."""

    def __init__(self, world: World, buckets: Buckets, template: Template | None) -> None:
        self._template = template
        self._world = world
        self._buckets = buckets
        self.server_url = ""
        self._linked: dict[Path, str] = {}

    async def start(self, container: Container) -> Running:
        """Start a container's process. Raises where a bucket cannot be mounted."""
        definition = container.function.definition
        self._unpack(container.root, definition)
        self._link_volumes(definition)
        await self._buckets.attach(container.task_id, definition)
        arguments = container.root / "arguments"
        arguments.write_bytes(self._arguments(container, definition).SerializeToString())
        environment = self._environment(container, definition, arguments)
        cwd = container.root / "root"
        with container.log.open("wb") as log:
            if self._template is not None:
                entry = ["modal._container_entrypoint"]
                return Warm(
                    self._template.start(
                        entry, env=environment, cwd=cwd, out=log, err=log, session=True
                    )
                )
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "modal._container_entrypoint",
                cwd=cwd,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def before_inputs(self, container: Container) -> None:
        """Make what is in the buckets visible, where they are plain directories."""
        await self._buckets.pull(container.task_id)

    async def after_inputs(self, container: Container) -> None:
        """Publish what was written to the buckets, where they are plain directories."""
        await self._buckets.push(container.task_id)

    async def clear(self, container: Container) -> None:
        await self._buckets.push(container.task_id)
        self._buckets.detach(container.task_id)
        shutil.rmtree(container.root, ignore_errors=True)

    def close(self) -> None:
        for path in self._linked:
            path.unlink(missing_ok=True)

    def _unpack(self, root: Path, definition: api_pb2.Function) -> None:
        """Lay out exactly the uploaded files under the container's root."""
        (root / "root").mkdir(parents=True)
        (root / "isolation").mkdir()
        parent = self._template.pid if self._template else os.getpid()
        (root / "isolation" / "sitecustomize.py").write_text(
            ISOLATION.format(root=str(root.resolve()), parent=parent)
        )
        copied = [
            i.context_mount_id
            for i in self._world.image_chain(definition.image_id)
            if "COPY . /" in i.dockerfile_commands
        ]
        for mount_id in [*copied, *definition.mount_ids]:
            for file in self._world.mounts.get(mount_id, []):
                path = root / file.filename.lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                _place(self._world.folder / "files" / file.sha256_hex, path)
                path.chmod(file.mode & 0o7777 or 0o644)
                if path.suffix == ".py":
                    self._compile(file.sha256_hex, path)

    def _compile(self, sha256: str, path: Path) -> None:
        """Bytecode beside a source file, made once for all containers: compiling takes longer than
        what the tests do there.
        """
        compiled = self._world.folder / "compiled" / sha256
        if not compiled.exists():
            with suppress(py_compile.PyCompileError):  # the container will say it
                py_compile.compile(
                    str(path), str(compiled), doraise=True, invalidation_mode=UNCHECKED
                )
        if compiled.exists():
            beside = Path(importlib.util.cache_from_source(str(path)))
            beside.parent.mkdir(exist_ok=True)
            _place(compiled, beside)

    def _link_volumes(self, definition: api_pb2.Function) -> None:
        """Link each volume at its mount path; two stand-ins cannot share a path."""
        for mount in definition.volume_mounts:
            path, volume = Path(mount.mount_path), self._world.folder / "volumes" / mount.volume_id
            if self._linked.get(path) != mount.volume_id:
                path.parent.mkdir(parents=True, exist_ok=True)
                if path in self._linked:
                    path.unlink()
                path.symlink_to(volume)
                self._linked[path] = mount.volume_id

    def _arguments(
        self, container: Container, definition: api_pb2.Function
    ) -> api_pb2.ContainerArguments:
        function = container.function
        arguments = api_pb2.ContainerArguments(
            task_id=container.task_id,
            function_id=function.function_id,
            app_id=function.app.app_id,
            function_def=definition,
            serialized_params=function.params,
            environment_name=ENVIRONMENT,
            app_layout=layout(self._world, function.app),
        )
        known = {one.object_id for one in arguments.app_layout.objects}
        for dependency in definition.object_dependencies:
            if dependency.object_id in known:
                continue
            one = arguments.app_layout.objects.add(object_id=dependency.object_id)
            if dependency.object_id.startswith("vo-"):
                one.volume_metadata.name = self._world.volumes[dependency.object_id]
            if dependency.object_id.startswith("fu-"):
                one.function_handle_metadata.CopyFrom(
                    self._world.functions[dependency.object_id].handle
                )
        return arguments

    def _environment(
        self, container: Container, definition: api_pb2.Function, arguments: Path
    ) -> dict[str, str]:
        """Nothing of the client's own environment, then Modal's variables, the image's, and the
        secrets'.
        """
        root = container.root
        variables = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        variables |= {
            "HOME": str(root / "root"),
            "TMPDIR": str(_made(root / "tmp")),
            "PYTHONPATH": os.pathsep.join(
                map(str, (root / "isolation", root / "root", root / "pkg"))
            ),
            "PYTHONUNBUFFERED": "1",
            "MODAL_SERVER_URL": self.server_url,
            "MODAL_DISABLE_API_PROXY": "1",
            "MODAL_OVERRIDE_HEADERS": f"{TASK_HEADER}:{container.task_id}",
            "MODAL_IS_REMOTE": "1",
            "MODAL_TASK_ID": container.task_id,
            "MODAL_ENVIRONMENT": ENVIRONMENT,
            "MODAL_IMAGE_ID": definition.image_id,
            "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_OFFLINE",
            "MODAL_REGION": "offline",
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(arguments),
        }
        for image in self._world.image_chain(definition.image_id):
            variables |= image_variables(list(image.dockerfile_commands))
        for secret_id in definition.secret_ids:
            variables |= self._world.secret(secret_id)
        return variables


def _place(blob: Path, path: Path) -> None:
    """Like a copy, and a tenth of its time: nothing writes into its own source."""
    path.unlink(missing_ok=True)
    path.hardlink_to(blob)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Warm:
    """A container from a template."""

    def __init__(self, started: Started) -> None:
        self._started = started
        self.pid = started.pid
        started.connection.setblocking(False)

    @property
    def returncode(self) -> int | None:
        return self._started.returncode

    async def wait(self) -> int:
        return self._started.ended(
            await asyncio.get_running_loop().sock_recv(self._started.connection, 64)
        )


def image_variables(commands: list[str]) -> dict[str, str]:
    """The ENV commands of an image.

    Those that refer to others, such as PATH, belong to a file system that is not here.
    """
    found = {}
    for command in commands:
        if command.startswith("ENV ") and "=" in command:
            name, _, value = command[4:].partition("=")
            if "$" not in value and name != "PATH":
                found[name.strip()] = "".join(shlex.split(value))
    return found
