"""The images of a deployed app's containers: our packages at the versions installed here, our
sources, and the user's.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import modal
from packaging.requirements import Requirement

from pipeline.declare.file_package import package_of
from pipeline.declare.load_file import is_path
from pipeline.declare.pipeline import Pipeline
from pipeline.deploy.deployment import Deployment
from pipeline.errors import SettingsError

SOURCES = ("pipeline", "sinks", "infra", "tidemill")
PROJECT = "tidemill_project"
"""The folder, beside our own packages in a container, where FILE and its neighbours are."""


def image_of(
    deployment: Deployment,
    pipelines: Sequence[Pipeline],
    pip: tuple[str, ...] = (),
    apt: tuple[str, ...] = (),
) -> modal.Image:
    """An image with what the file's pipelines ask for everywhere, and these packages more."""
    image = _with_packages(pipelines, pip, apt)
    file = deployment.file.partition(":")[0]
    if is_path(file):
        return _with_file(image, deployment).add_local_python_source(*SOURCES)
    image = image.env(deployment.variables())
    return image.add_local_python_source(*SOURCES, file.partition(".")[0])


def _with_packages(
    pipelines: Sequence[Pipeline], pip: tuple[str, ...], apt: tuple[str, ...]
) -> modal.Image:
    everywhere = [p.settings().deployment for p in pipelines]
    image = modal.Image.debian_slim(
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}"
    )
    packages = sorted({*apt, *(name for d in everywhere for name in d.apt)})
    if packages:
        image = image.apt_install(*packages)
    return image.pip_install(
        *_own_requirements(), *sorted({*pip, *(name for d in everywhere for name in d.pip)})
    )


def _with_file(image: modal.Image, deployment: Deployment) -> modal.Image:
    """With FILE at its place in a container, which knows where that is."""
    file, colon, name = deployment.file.partition(":")
    root, names = package_of(Path(file))
    inside = f"{PROJECT}/{'/'.join((*names[:-1], Path(file).name))}{colon}{name}"
    image = image.env({**deployment.variables(), "TIDEMILL_FILE": inside})
    return _with_project(image, root, names) if modal.is_local() else image


def _with_project(image: modal.Image, root: Path, names: Sequence[str]) -> modal.Image:
    """With FILE's package, or with its folder where it is in none."""
    is_in_package = len(names) > 1
    there = PurePosixPath("/root", PROJECT, *names[:1] if is_in_package else ())
    folder = root / names[0] if is_in_package else root
    return image.add_local_dir(folder, str(there), ignore=_stays_at_home)


def installed(package: str) -> str:
    """A sink's driver at the version installed here. Raises SettingsError where it is not."""
    try:
        return f"{package}=={importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        raise SettingsError(
            f"a declared sink needs {package}: install Tidemill's extra for it here, too"
        ) from None


def _stays_at_home(path: Path) -> bool:
    """Whether a file of the user's project does not travel: only Python sources do, and none of an
    environment's.
    """
    hidden = any(
        part.startswith(".") or part in ("venv", "site-packages", "node_modules")
        for part in path.parts
    )
    return hidden or path.suffix != ".py"


def _own_requirements() -> list[str]:
    """What we need in a container, at the versions installed here: the code was
    tested with those.
    """
    try:
        listed = [Requirement(text) for text in importlib.metadata.requires("tidemill") or []]
    except importlib.metadata.PackageNotFoundError:
        return []  # in a container: the image is built already
    needed = sorted(
        one.name for one in listed if one.marker is None or one.marker.evaluate({"extra": ""})
    )
    return [f"{name}=={importlib.metadata.version(name)}" for name in needed]
