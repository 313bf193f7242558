"""What flows are written with: `from tidemill import Object, Pipeline, sinks`.

The same objects as in `pipeline` and `sinks`, under a name that no project of yours has: a package
or module of your own called `pipeline` or `sinks` goes on working beside it, if `tidemill` is
imported first.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

_HOME = Path(__file__).resolve().parent.parent


def _import_ours() -> None:
    """Our packages, whatever is called like them on the path; what they lack is looked up there."""
    for name in ("pipeline", "sinks"):
        known = sys.modules.get(name)
        if known is not None and _HOME / name not in map(Path, getattr(known, "__path__", ())):
            raise ImportError(
                f"your own {name!r} was imported before tidemill, which has a package of that name:"
                " import tidemill first",
                name="tidemill",
            )
    sys.path.insert(0, str(_HOME))
    try:
        importlib.import_module("pipeline")
        importlib.import_module("sinks")
    finally:
        sys.path.remove(str(_HOME))
    from pipeline.declare.file_package import share_names

    for entry in dict.fromkeys(sys.path):
        share_names(Path(entry or "."))


_import_ours()

from pipeline import (  # noqa: E402
    InputRejected,
    Object,
    Pipeline,
    SettingsError,
    SourceChanged,
    TidemillError,
    __version__,
)

from . import sinks  # noqa: E402

if TYPE_CHECKING:
    from pipeline import Table

    from . import testing

__all__ = [
    "InputRejected",
    "Object",
    "Pipeline",
    "SettingsError",
    "SourceChanged",
    "Table",
    "TidemillError",
    "__version__",
    "sinks",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name == "Table":
        return importlib.import_module("pipeline.tables.table").Table
    if name == "testing":
        return importlib.import_module("tidemill.testing")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
