"""What a machine needs before a pipeline runs or is deployed from it: Python, Modal's client, the
`modal` command.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PYTHON_MIN = (3, 11)
MODAL_PIN = ">=1.6,<1.7"
"""Used where tidemill's own metadata names no version of Modal's client."""


class Check(msgspec.Struct, frozen=True):
    """One thing looked at. `fix` says what to do, wherever the status is not `ok`."""

    check: str
    status: Literal["ok", "warn", "FAIL"]
    found: str
    fix: str = ""


# -- the machine -----------------------------------------------------------------------------------


def machine() -> list[Check]:
    """Python, Modal's client, and the interpreter behind the `modal` command."""
    command = shutil.which("modal")
    return [
        python_check(sys.version_info[:3]),
        client_check(installed_version("modal"), modal_pin(_requirements())),
        command_check(command, interpreter_of(Path(command)) if command else None, sys.executable),
    ]


def python_check(version: tuple[int, int, int]) -> Check:
    """Python itself."""
    text, least = ".".join(map(str, version)), ".".join(map(str, PYTHON_MIN))
    if version < PYTHON_MIN:
        return Check(
            "python",
            "FAIL",
            f"{text} is too old",
            f"make an environment with Python {least} or newer",
        )
    return Check("python", "ok", text)


def client_check(version: str | None, pin: str) -> Check:
    """Modal's client: its wire format changes with each minor version, so only one is taken."""
    fix = f"pip install 'modal{pin}'"
    if version is None:
        return Check("modal client", "FAIL", "not installed", fix)
    if not SpecifierSet(pin).contains(version, prereleases=True):
        return Check("modal client", "FAIL", f"{version} is outside {pin}", fix)
    return Check("modal client", "ok", f"{version} ({pin})")


def modal_pin(requirements: Sequence[str]) -> str:
    """The versions of Modal's client that tidemill's metadata takes; MODAL_PIN where
    it names none.
    """
    named = [Requirement(text) for text in requirements]
    return next(
        (str(one.specifier) for one in named if one.name == "modal" and one.specifier), MODAL_PIN
    )


def command_check(command: str | None, interpreter: str | None, executable: str) -> Check:
    """Whether `modal ...` in a shell runs in the environment that `tidemill ...` runs in."""
    fix = f"activate this environment, or write  {executable} -m modal"
    if command is None:
        return Check("modal command", "warn", "not on PATH", fix)
    if interpreter is None:
        return Check(
            "modal command", "warn", f"{command} does not say which Python it runs with", fix
        )
    if Path(interpreter).parent.resolve() != Path(executable).parent.resolve():
        return Check(
            "modal command",
            "warn",
            f"{command} runs with {interpreter}, tidemill with {executable}",
            fix,
        )
    return Check("modal command", "ok", command)


def interpreter_of(script: Path) -> str | None:
    """The Python that a script's first lines name, None if they name none."""
    first, *more = _first_lines(script) or [""]
    words = first[2:].split() if first.startswith("#!") else []
    if not words:
        return None
    command, last = words[0], words[-1]
    if Path(command).name == "env":
        return shutil.which(last) if "python" in last else None
    if command == "/bin/sh" and more:
        return _executed(more[0])
    return command if "python" in Path(command).name else None


def _first_lines(script: Path) -> list[str]:
    """Two at most, none where it cannot be read."""
    try:
        return script.read_bytes()[:2000].decode("utf-8", "replace").splitlines()[:2]
    except OSError:
        return []


def _executed(line: str) -> str | None:
    """The Python in the second line, as installers write paths too long for a first one."""
    found = re.match(r"'''exec' (?:\"([^\"]+)\"|(\S+))", line)
    return (found[1] or found[2]) if found else None


def installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires("tidemill") or []
    except importlib.metadata.PackageNotFoundError:
        return []
