"""The app while it is declared: its functions under their names, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import modal

from infra.image import image_of
from pipeline.declare.load_file import load_pipelines
from pipeline.declare.pipeline import Pipeline
from pipeline.deploy.deployment import Deployment

CONTROL_TIMEOUT_S = 3_600
CONTROL_IDLE_S = 5
"""An idle container is paid for; the next pass is minutes away."""


class AppBuilder:
    """An app and its functions so far."""

    def __init__(
        self, namespace: dict[str, Any], deployment: Deployment, pipelines: list[Pipeline]
    ) -> None:
        self.namespace = namespace
        self.deployment = deployment
        self.pipelines = pipelines
        self.alone = len(load_pipelines(deployment.file.partition(":")[0])) == 1
        self.app = modal.App(deployment.app)

    # -- what functions have -----------------------------------------------------------------------

    @cached_property
    def control_image(self) -> modal.Image:
        """The image of functions that run no transform."""
        return image_of(self.deployment, self.pipelines)

    @cached_property
    def secrets(self) -> list[modal.Secret]:
        """What gives a container rights on the bucket by the S3 API."""
        names = [self.deployment.secret] if self.deployment.secret else []
        return [modal.Secret.from_name(name) for name in names]

    def name(self, what: str, pipeline: Pipeline) -> str:
        """A function's name."""
        return what if self.alone else f"{what}_{pipeline.name}"

    def add(
        self,
        name: str,
        function: Callable[..., Any],
        wrap: Callable[[Any], Any] = lambda f: f,
        **settings: Any,
    ) -> None:
        """Declare a function of the app under this name, as if it stood at the
        module's top level.
        """
        function.__name__ = function.__qualname__ = name
        function.__module__ = self.namespace["__name__"]
        self.namespace[name] = self.app.function(name=name, **settings)(wrap(function))

    def control(self, **settings: Any) -> dict[str, Any]:
        """Settings of a control function."""
        common = {"image": self.control_image, "secrets": self.secrets, "cpu": 1.0, "memory": 2048}
        return {
            **common,
            "timeout": CONTROL_TIMEOUT_S,
            "scaledown_window": CONTROL_IDLE_S,
            **settings,
        }

    def spawn(self, name: str, *arguments: Any) -> None:
        """Submit a call of another function of this app."""
        self.namespace[name].spawn(*arguments)
