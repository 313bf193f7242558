"""What `@pipeline.transform(...)` takes, and the checks on each option.

Modal's client accepts much that its servers refuse or that never works; what is checked here is
refused on the laptop, before a deploy.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from pipeline.declare.checked_values import between, boolean, optional, strings, whole
from pipeline.errors import SettingsError, nearest
from pipeline.model.modal_prices import split_gpu
from pipeline.model.settings import Priority, Resources

TIMEOUT_MAX_S = 86_400
MODAL_BATCH_WAIT_MAX_MS = 600_000
CPU_RANGE = (0.125, 64.0)
MEMORY_MB_RANGE = (128, 344_064)
_GPU_LISTS_MAX = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_REGION = re.compile(r"[a-z]{2,}(-[a-z0-9]+)*\Z")


class SingleOptions(TypedDict, total=False):
    """Options of a transform but for `batch_size`. All have defaults.

    match: globs over the key without the source prefix. Default: everything.
    version: names the code for lineage. Default: a fingerprint of its source, and of what that uses
        of the project.
    timeout_s: seconds that one call may take. Default: 600.
    max_attempts: runs before a file whose worker keeps dying is set aside. Default: 3.
    safe_to_rerun: False: never run again by itself after an attempt that gave no answer.
        Default: True.
    batch_wait_ms: milliseconds that a container on Modal waits for small tasks that fill a batch.
        Default: 0.
    memory_mb: bound on a worker's memory in MiB, here and on Modal. Default: none here, 2048 there.

    What containers get on Modal:

    cpu: cores. Default: 1.
    gpu: "L4", "H100:2", or a list in order of preference. Default: none.
    retries: Modal's own, at once. Default: 0.
    min_containers, max_containers: how many are kept warm, and how many there may be.
        Default: 0, and the bound of the policy.
    scaledown_window_s: seconds that an idle one stays. Default: 60.
    region: a name, or several. Default: anywhere.
    volumes: mount paths to names of volumes. Default: none.
    pip, apt: packages of this transform alone. Default: none.
    secrets: names of Modal's secrets. Default: none.
    memory_snapshot: classes start from a snapshot taken after `load`. Default: False.
    """

    match: str | Sequence[str]
    version: str | None
    timeout_s: float
    max_attempts: int
    memory_mb: int | None
    batch_wait_ms: int
    safe_to_rerun: bool
    cpu: float
    gpu: str | Sequence[str]
    retries: int
    min_containers: int
    max_containers: int | None
    scaledown_window_s: int
    region: str | Sequence[str]
    volumes: Mapping[str, str]
    pip: Sequence[str]
    apt: Sequence[str]
    secrets: Sequence[str]
    memory_snapshot: bool


class TransformOptions(SingleOptions, total=False):
    """All options of a transform.

    batch_size: the code takes a list of so many objects at a time. Default: one object.
    """

    batch_size: int | None


OPTIONS = [*SingleOptions.__annotations__, "batch_size"]


def checked_resources(label: str, options: TransformOptions, *, is_class: bool) -> Resources:
    """The options about containers as settings. Raises SettingsError."""
    found = Resources(
        cpu=between(label, "cpu", options.get("cpu", 1.0), *CPU_RANGE),
        memory_mb=optional(label, "memory_mb", options.get("memory_mb"), *MEMORY_MB_RANGE),
        gpu=_gpus(label, options.get("gpu", ())),
        retries=whole(label, "retries", options.get("retries", 0), 0, 10),
        min_containers=whole(label, "min_containers", options.get("min_containers", 0), 0, 10_000),
        max_containers=optional(label, "max_containers", options.get("max_containers"), 1, 10_000),
        scaledown_window_s=whole(
            label, "scaledown_window_s", options.get("scaledown_window_s", 60), 2, 1_200
        ),
        region=_names(label, "region", options.get("region", ()), _REGION),
        volumes=_volumes(label, options.get("volumes", {})),
        pip=strings(label, "pip", options.get("pip", ())),
        apt=strings(label, "apt", options.get("apt", ())),
        secrets=_names(label, "secrets", options.get("secrets", ()), _NAME),
        memory_snapshot=boolean(label, "memory_snapshot", options.get("memory_snapshot", False)),
    )
    _refuse_contradictions(label, found, options, is_class=is_class)
    return found


def _refuse_contradictions(
    label: str, found: Resources, options: TransformOptions, *, is_class: bool
) -> None:
    if found.max_containers is not None and found.min_containers > found.max_containers:
        raise SettingsError(
            f"{label}: min_containers={found.min_containers} is more than"
            f" max_containers={found.max_containers}"
        )
    if found.memory_snapshot and not is_class:
        raise SettingsError(
            f"{label}: memory_snapshot=True is for classes, whose `load` runs before the snapshot"
        )
    if found.retries and not options.get("safe_to_rerun", True):
        raise SettingsError(
            f"{label}: retries={found.retries} contradicts safe_to_rerun=False: leave one of"
            " them out"
        )


def checked_priority(label: str, value: object) -> Priority:
    """An order's name, or prefixes, the first one first. Raises SettingsError."""
    orders = ["key", "newest", "oldest"]
    if isinstance(value, str):
        if value not in orders:
            also = nearest(value, orders)
            raise SettingsError(
                f'{label}: priority={value!r} is not "key", "newest" or "oldest", nor a list of'
                f" prefixes{also}"
            )
        return Priority(order=value)  # type: ignore[arg-type]
    prefixes = strings(label, "priority", value)
    for prefix in prefixes:
        if prefix.startswith("/"):
            raise SettingsError(
                f"{label}: priority={prefix!r} is no prefix: write it as keys go on after `source`,"
                " such as 2026/"
            )
    return Priority(prefixes=prefixes)


def checked_batch_wait(label: str, options: TransformOptions) -> int:
    """How long batches wait.

    Raises SettingsError where there are no batches, or for a time beyond Modal's limit.
    """
    if "batch_wait_ms" in options and options.get("batch_size") is None:
        raise SettingsError(f"{label}: batch_wait_ms needs a batch_size")
    return whole(
        label, "batch_wait_ms", options.get("batch_wait_ms", 0), 0, MODAL_BATCH_WAIT_MAX_MS
    )


def known_options(label: str, options: Mapping[str, Any]) -> None:
    """Refuse options that no transform has."""
    for name in options:
        if name not in OPTIONS:
            raise SettingsError(f"{label}: there is no option {name!r}{nearest(name, OPTIONS)}")


def check_target(label: str, target: object, batch_size: int | None) -> None:
    """Whether the function or class can be called with one object (or one list of them) and nothing
    else.
    """
    function = target
    if inspect.isclass(target):
        function = _call_method(label, target)
        _no_arguments(label, target)
    if not callable(function):
        raise SettingsError(f"{label}: decorate a function or a class, not {type(target).__name__}")
    parameters = list(inspect.signature(function).parameters.values())
    if not _take_one(parameters[1:] if inspect.isclass(target) else parameters):
        what = "a list of objects" if batch_size else "one object"
        raise SettingsError(
            f"{label}: it is called with {what} and nothing else, but its signature is"
            f" {inspect.signature(function)}"
        )


def _call_method(label: str, target: type) -> object:
    if "__call__" not in vars(target) and not any(
        "__call__" in vars(c) for c in target.__mro__[:-1]
    ):
        raise SettingsError(f"{label}: the class needs a method __call__(self, obj)")
    return getattr(target, "__call__", None) if "__call__" in dir(target) else None  # noqa: B004


def _take_one(parameters: Sequence[inspect.Parameter]) -> bool:
    """Whether a call with one positional argument suits them."""
    positional = [
        p
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
    ]
    required = _required(parameters)
    return (
        bool(positional)
        and len(required) <= 1
        and not any(p.kind is p.KEYWORD_ONLY for p in required)
    )


def _required(parameters: Sequence[inspect.Parameter]) -> list[inspect.Parameter]:
    return [
        p
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]


def _no_arguments(label: str, target: type) -> None:
    init = inspect.signature(target.__init__) if "__init__" in vars(target) else None  # type: ignore[misc]
    if init is None:
        return
    needed = _required(list(init.parameters.values())[1:])
    if needed:
        raise SettingsError(
            f"{label}: the class is made without arguments, but __init__ needs {needed[0].name}"
        )


def _names(label: str, what: str, value: object, pattern: re.Pattern[str]) -> tuple[str, ...]:
    names = strings(label, what, [value] if isinstance(value, str) else value)
    for name in names:
        if not pattern.match(name):
            raise SettingsError(f"{label}: {what}={name!r} is no name that Modal takes")
    return names


def _gpus(label: str, value: object) -> tuple[str, ...]:
    names = strings(label, "gpu", [value] if isinstance(value, str) else value)
    if len(names) > _GPU_LISTS_MAX:
        raise SettingsError(
            f"{label}: gpu= names {len(names)} cards; Modal takes up to {_GPU_LISTS_MAX}"
        )
    for name in names:
        try:
            split_gpu(name)
        except ValueError as error:
            raise SettingsError(f"{label}: gpu={error}") from None
    return names


def _volumes(label: str, value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise SettingsError(
            f"{label}: volumes={value!r} must map a mount path to a volume's name, like"
            ' {"/models": "weights"}'
        )
    for path, name in value.items():
        if not _is_mount_path(path):
            raise SettingsError(
                f"{label}: volumes: {path!r} must be an absolute path, and not /, /root or /tmp"
            )
        if not isinstance(name, str) or not _NAME.match(name):
            raise SettingsError(f"{label}: volumes: {name!r} is no volume's name")
    return dict(value)


def _is_mount_path(path: object) -> bool:
    return (
        isinstance(path, str)
        and path.startswith("/")
        and posixpath.normpath("/" + path.lstrip("/")) == path
        and path not in ("/", "/root", "/tmp")  # noqa: S108
    )
