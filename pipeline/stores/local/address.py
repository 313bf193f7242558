"""From what users write to a directory, and what is said where there is none."""

from __future__ import annotations

import difflib
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.errors import SettingsError

BESIDE_MAX = 1000
"""Directories beside a missing bucket among which one is looked for."""


def directory_of(url: str) -> Path:
    """Raises SettingsError for a `file:` URL that names none."""
    if not url.startswith("file:"):
        return Path(url).expanduser()
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise SettingsError(
            f"{url!r} needs three slashes and an absolute path, like file:///data/bucket"
        )
    return Path(unquote(parts.path))


def require_directory(root: Path) -> None:
    """Raises SettingsError where a local bucket is no directory, with the one beside it that was
    perhaps meant.
    """
    if root.is_dir():
        return
    if root.exists():
        raise SettingsError(
            f"the bucket {root} is not a directory: give the directory that the keys are in"
        )
    beside = (
        [one.name for one in root.parent.iterdir() if one.is_dir()] if root.parent.is_dir() else []
    )
    close = difflib.get_close_matches(root.name, sorted(beside)[:BESIDE_MAX], 1)
    meant = f"did you mean {root.parent / close[0]}? Else make it" if close else "make it"
    raise SettingsError(f"the bucket {root} does not exist: {meant} with  mkdir -p {root}")
