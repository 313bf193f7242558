"""What a watching run says of itself: what it watches and how often, when it looked last, and that
its code was edited.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from pipeline.wording import duration

HEARTBEAT_S = 300.0
"""How often a run that finds nothing says so where it does not write to a terminal."""
FILES_MAX = 200


def what(
    url: str,
    sources: Sequence[tuple[str, str]],
    *,
    interval_s: float,
    queue: str | None,
    sweep_s: float,
) -> str:
    """One line. sources: each pipeline's name with the prefix that it reads; a table's rows have
    none of the bucket's.
    """
    named = ", ".join(f"{name} ({_place(url, source)})" for name, source in sources)
    how = f"every {duration(interval_s)}"
    if queue is not None:
        how = f"as {queue} gives notice, with a whole listing every {duration(sweep_s)}"
    return f"watching for {named}, {how}; Ctrl-C stops"


def _place(url: str, source: str) -> str:
    if source.endswith(":"):
        return f"rows of {source[:-1]}"
    return f"{url if url.endswith('/') else url + '/'}{source}"


class Watch:
    """Shows that a run looks, without a line for each look that finds nothing."""

    def __init__(self, file: str, say: Callable[[str], None], *, quiet: bool) -> None:
        self._say = say
        self._live = sys.stderr.isatty() and not quiet
        self._files = _sources(file)
        self._seen = {path: _stamp(path) for path in self._files}
        self._said_s: float | None = None
        self._shown = False

    def looked(self, *, found: bool) -> None:
        """After each look: on a terminal in one line that changes, else now and then."""
        now = f"{datetime.now(UTC):%H:%M:%S} UTC"
        self._tell_edits()
        if self._live:
            click.echo(f"\r\x1b[Klast looked at {now}", nl=False, err=True)
            self._shown = True
        elif self._said_s is None or (not found and time.monotonic() - self._said_s >= HEARTBEAT_S):
            self._said_s = time.monotonic()
            self._say(f"last looked at {now}{'' if found else ': nothing new'}")

    def clear(self) -> None:
        """Before anything else is written to the terminal."""
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._shown = False

    def _tell_edits(self) -> None:
        for path in self._files:
            stamp = _stamp(path)
            if stamp == self._seen[path]:
                continue
            self._seen[path] = stamp
            how = "was edited" if stamp is not None else "is gone"
            self._say(
                f"{path.name} {how}: this run goes on with the code it began with; start it again"
                " to use what is there now"
            )


def _sources(file: str) -> list[Path]:
    """FILE, and the modules that were imported from its folder."""
    path = Path(file.partition(":")[0])
    if not path.is_file():
        found = sys.modules.get(file.partition(":")[0])
        path = Path(getattr(found, "__file__", None) or file)
    beside = _imported_from(path.resolve().parent)
    ours = [
        one
        for one in beside
        if "site-packages" not in one.parts and one.resolve() != path.resolve()
    ]
    return [path, *ours[: FILES_MAX - 1]]


def _imported_from(folder: Path) -> list[Path]:
    origins = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return sorted(
        Path(origin) for origin in origins if origin and folder in Path(origin).resolve().parents
    )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
