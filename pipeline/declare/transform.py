"""A declared transform."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, overload

from pipeline.declare.checked_values import between, boolean, optional
from pipeline.declare.code_version import fingerprint
from pipeline.declare.declared_names import (
    checked_globs,
    checked_name,
)
from pipeline.declare.transform_options import (
    TIMEOUT_MAX_S,
    TransformOptions,
    check_target,
    checked_batch_wait,
    checked_resources,
)
from pipeline.errors import SettingsError
from pipeline.model.settings import (
    TransformSettings,
)

if TYPE_CHECKING:
    from pipeline.work.object import Object


@dataclass(frozen=True, slots=True)
class Transform:
    """A declared function or class, not called yet."""

    settings: TransformSettings
    target: Callable[..., object]

    def load(
        self, settled: Callable[[object], object] = lambda result: result
    ) -> Callable[..., object]:
        """The callable for this process: for a class, an instance whose `load` has run once.
        settled: sees to what is async.
        """
        if not inspect.isclass(self.target):
            return self.target
        instance: Any = self.target()
        if hasattr(instance, "load"):
            settled(instance.load())
        return cast("Callable[..., object]", instance)

    def fingerprint(self, schema: object, packages: Sequence[str]) -> str:
        """A name for its code, for what shapes its rows, and for the packages that it runs with."""
        settings = self.settings
        shape = [str(settings.batch_size)]
        shape += [f"schema={schema}"] if schema is not None else []
        every = [*packages, *settings.resources.pip, *settings.resources.apt]
        shape += [f"packages={sorted(every)}"] if every else []
        return fingerprint(self.target, shape)


def transform_settings(
    pipeline: str, label: str, target: Callable[..., object], options: TransformOptions
) -> TransformSettings:
    """The options as settings. Raises SettingsError."""
    batch_size = options.get("batch_size")
    check_target(label, target, batch_size)
    version = options.get("version")
    batch_wait_ms = checked_batch_wait(label, options)
    safe, attempts = _checked_reruns(label, options)
    return TransformSettings(
        name=checked_name("transform", target.__name__.lower()),
        version=version if version is not None else "",  # see `settings`
        match=_checked_match(pipeline, options),
        timeout_s=between(label, "timeout_s", options.get("timeout_s", 600.0), 0.1, TIMEOUT_MAX_S),
        max_attempts=attempts,
        batch_size=optional(label, "batch_size", batch_size, 1, 100_000),
        batch_wait_ms=batch_wait_ms,
        safe_to_rerun=safe,
        keeps_state=inspect.isclass(target),
        resources=checked_resources(label, options, is_class=inspect.isclass(target)),
    )


def _checked_reruns(label: str, options: TransformOptions) -> tuple[bool, int]:
    """Whether it may run again, and how often it runs."""
    safe = boolean(label, "safe_to_rerun", options.get("safe_to_rerun", True))
    attempts = int(
        between(label, "max_attempts", options.get("max_attempts", 3 if safe else 1), 1, 100)
    )
    if not safe and attempts > 1:
        raise SettingsError(
            f"{label}: max_attempts={attempts} contradicts safe_to_rerun=False: leave one of"
            " them out"
        )
    return safe, attempts


def _checked_match(pipeline: str, options: TransformOptions) -> tuple[str, ...]:
    match = options.get("match", "**")
    return checked_globs(pipeline, "match", [match] if isinstance(match, str) else match)


One = TypeVar("One", bound="Callable[[Object], object]")
Many = TypeVar("Many", bound="Callable[[list[Object]], object]")
Class = TypeVar("Class", bound=type)


class OfOne(Protocol):
    """Takes a function of one object, or a class."""

    @overload
    def __call__(self, target: Class, /) -> Class: ...
    @overload
    def __call__(self, target: One, /) -> One: ...


class OfMany(Protocol):
    """Takes a function of a list of objects, or a class."""

    @overload
    def __call__(self, target: Class, /) -> Class: ...
    @overload
    def __call__(self, target: Many, /) -> Many: ...
