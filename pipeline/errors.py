"""Every error Tidemill raises, grouped by what the caller does next.

    TidemillError
    ├── SettingsError        fix the settings, the file or the command (also a ValueError)
    │   ├── KeyUnsupported   this store cannot hold an object under this key
    │   └── CodeBroken       the code of a transform cannot be loaded (work/seams)
    ├── InputRejected        one source object is at fault: quarantine it, go on with the rest
    ├── StoreError
    │   ├── ObjectNotFound       the key does not exist
    │   ├── PreconditionFailed   create-only key exists, or If-Match named another version
    │   ├── StoreUnavailable     try again later, a bounded number of times
    │   │   ├── SpawnerGone      the process that starts workers is gone: stop (executors/local)
    │   │   └── RangeEmpty       the range begins where the object ends: read it whole (stores/s3)
    │   └── StoreDenied          credentials or permissions are missing: a person must act
    │       └── ObjectArchived   the object must be restored first (also an InputRejected)
    ├── SourceChanged        the object is no longer at the version that was planned
    ├── AttemptLost          this attempt gives no receipt: another one will (work/seams)
    ├── CommitConflict       another writer committed first: load, propose again
    │   └── Outdated         what was known of the log is collected: load again (commit_log/log)
    ├── CommitUnknown        the answer was lost and cannot be read back: never assume
    ├── StateInvalid         an object under the home prefix is corrupt, truncated or too new
    ├── StoreUnsafe          the store breaks a promise the protocol stands on: refuse to start
    ├── SinkFailed           another system did not take a change: publish again (sinks/copies)
    └── InvariantViolated    a bug of ours: stop

Each takes one message and nothing else, so that each crosses a process boundary unharmed.
"""

from __future__ import annotations


class TidemillError(Exception):
    """Base of every error that Tidemill raises on purpose; the message is one line for a person."""


class SettingsError(TidemillError, ValueError):
    """A setting, file or command is wrong. Fix it and run again."""


class KeyUnsupported(SettingsError):
    """The store cannot hold an object under this key (say, `..` in a local directory)."""


class InputRejected(TidemillError):
    """One source object cannot be processed as it is. It is quarantined; its neighbours go on."""


class StoreError(TidemillError):
    """A storage request did not succeed."""


class ObjectNotFound(StoreError):
    """No object has this key."""


class PreconditionFailed(StoreError):
    """A create-only key exists already, or If-Match named a version that is not the current one."""


class StoreUnavailable(StoreError):
    """The store did not answer, or asked to slow down. Whether the request took
    effect is unknown.
    """


class StoreDenied(StoreError):
    """The store refused: no credentials, wrong credentials, or no permission."""


class ObjectArchived(StoreDenied, InputRejected):
    """The object is in an archive (S3 Glacier): nobody can read it before somebody
    has it restored.
    """


class SourceChanged(TidemillError):
    """A source object was overwritten or deleted after it was planned; a later pass
    plans it again.
    """


class CommitConflict(TidemillError):
    """Other writers kept committing first, more often than the bound allows. Run again."""


class CommitUnknown(TidemillError):
    """The store lost the answer to a commit and could not be asked again. The next
    pass finds out.
    """


class StateInvalid(TidemillError):
    """An object under the home prefix is corrupt, truncated, or written by a newer version."""


class StoreUnsafe(TidemillError):
    """The store does not keep a promise that exactly-once commits need (say, it ignores
    If-None-Match).
    """


class InvariantViolated(TidemillError):
    """Tidemill contradicted itself. This is a bug: nothing more is written."""


def is_outage(error: BaseException) -> bool:
    """Whether an attempt that ended with this error says nothing about its inputs: it costs none of
    them anything but time.
    """
    return isinstance(error, StoreUnavailable)


def nearest(name: str, known: list[str]) -> str:
    """A suffix for a message about an unknown name: the nearest right one, or all of them."""
    import difflib

    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there is {', '.join(map(repr, sorted(known)[:10]))}" if known else ""
