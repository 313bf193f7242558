"""Drop files in a bucket; your function turns each into rows; SQL answers.

    from pipeline import Object, Pipeline

Public are what this module, `pipeline.testing` and `sinks` export, and the command `tidemill`.
Everything else is private and may change with any version.
"""

from typing import TYPE_CHECKING, Any

from pipeline._version import __version__
from pipeline.declare.pipeline import Pipeline
from pipeline.errors import (
    CommitConflict,
    CommitUnknown,
    InputRejected,
    KeyUnsupported,
    ObjectArchived,
    ObjectNotFound,
    PreconditionFailed,
    SettingsError,
    SourceChanged,
    StateInvalid,
    StoreDenied,
    StoreError,
    StoreUnavailable,
    StoreUnsafe,
    TidemillError,
)
from pipeline.work.object import Object

if TYPE_CHECKING:
    from pipeline.tables.table import Table

__all__ = [
    "CommitConflict",
    "CommitUnknown",
    "InputRejected",
    "KeyUnsupported",
    "Object",
    "ObjectArchived",
    "ObjectNotFound",
    "Pipeline",
    "PreconditionFailed",
    "SettingsError",
    "SourceChanged",
    "StateInvalid",
    "StoreDenied",
    "StoreError",
    "StoreUnavailable",
    "StoreUnsafe",
    "Table",
    "TidemillError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """`Table` brings what reading needs: it is imported when somebody asks for it."""
    if name == "Table":
        from pipeline.tables.table import Table

        return Table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
