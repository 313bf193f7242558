"""What is kept of an exception: type, message and place in the user's code.

Never values of variables, never known secrets.

What these functions return is stored in receipts and in the log, so it is valid Unicode, bounded,
and redacted. Redaction takes out what is surely a secret: values of environment variables that are
named like one, and texts of well-known forms (see `_FORMS`). A message is the user's own text: what
is secret in it and looks like anything else stays.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sysconfig
import traceback
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

REASON_MAX = 500
"""Characters of a reason: one line."""
DETAIL_MAX = 4_000
"""Characters of a traceback."""
REDACTED = "[redacted]"

_READ_MAX = 16_000
"""Characters of a message that are looked at."""
_CUT = 4_000
"""Characters left out at the end of what was looked at, where more followed: half a secret would
not be recognised.
"""
_LINE_MAX = 200
_FRAMES_MAX = 10
"""Frames shown from each end of a traceback."""
_CAUSES_MAX = 5

_SECRET_NAMES = ("KEY", "SECRET", "TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL")
_SECRET_CHARACTERS_MIN = 8
_SECRET_LINE_MIN = 16
"""Each line so long of a secret with several lines is one of its own: a PEM file quoted in part."""

_VALUE = r"""(?:\[redacted\]|\\*b?"[^"\n]*"|\\*b?'[^'\n]*'|[^\n"'}]*)"""
_FORMS = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), instead)
    for pattern, instead in (
        (
            (
                r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE"
                r" KEY-----|\Z)"
            ),
            REDACTED,
        ),
        (rf"""(authorization\\*["']?\s{{0,9}}[:=]\s{{0,9}}){_VALUE}""", rf"\1{REDACTED}"),
        (
            r"""((?:x-(?:amz|goog)-(?:signature|credential|security-token))\\*["']?\s{0,9}(?:=|:|%3D)\s{0,9}\\*["']?)[^&\s"'<>]+""",
            rf"\1{REDACTED}",
        ),
        (
            r"""([a-z][a-z0-9+.-]{0,30}://)"""
            r"""(?:[^\s/:@"'<>]{0,200}:(?!\d{1,5}(?:[/?#\s]|\Z))[^\s"'<>]{0,1000}|[^\s/"'<>]{1,1000})@""",
            rf"\1{REDACTED}@",
        ),
        (
            r"""\b((?:password|passwd|client_secret|access_token|api_?key|aws_secret_access_key|aws_session_token)\s?=\s?)"""
            r"""["']?[^\s&"',;]+""",
            rf"\1{REDACTED}",
        ),
        (r"\bbearer\s+[a-z0-9._~+/=-]{16,}", f"Bearer {REDACTED}"),
    )
) + tuple(
    (re.compile(pattern), REDACTED)
    for pattern in (
        r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{12,124}(?![A-Za-z0-9])",
        r"\bgh[pousr]_[A-Za-z0-9]{20,255}|\bgithub_pat_[A-Za-z0-9_]{20,255}|\bxox[abeprs]-[A-Za-z0-9-]{10,255}",
        r"\beyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]*",
    )
)

_ROOT = Path(__file__).parent.parent
_OWN = tuple(f"{_ROOT / name}{os.sep}" for name in ("pipeline", "sinks", "infra"))
_LIBRARIES = tuple(
    {
        f"{Path(sysconfig.get_path(name))}{os.sep}"
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
)


def describe(error: BaseException) -> str:
    """One line: the exception's type and message, bounded and redacted."""
    name, text = type(error).__name__, _message(error)
    return one_line(f"{name}: {text}" if text.strip() else name)


def one_line(text: str) -> str:
    """A text of the user's as a reason: redacted, on one line, of at most REASON_MAX characters."""
    line = " ".join(_encodable(redacted(text)).split())
    return line if len(line) <= REASON_MAX else line[: REASON_MAX - 1] + "…"


def user_traceback(error: BaseException) -> str:
    """The frames of the user's code with their source lines, and where a library raised; then what
    was raised, and its causes.

    At most DETAIL_MAX characters, redacted.
    """
    shown = _frames(error)
    if len(shown) > 2 * _FRAMES_MAX:
        left_out = len(shown) - 2 * _FRAMES_MAX
        shown = [*shown[:_FRAMES_MAX], f"  ... {left_out} frames more\n", *shown[-_FRAMES_MAX:]]
    end = "\n".join([describe(error), *_causes(error)])
    text = _encodable(redacted("".join(shown), bounded=False))
    return (
        text[-max(0, DETAIL_MAX - len(end)) :] + end if len(end) < DETAIL_MAX else end[:DETAIL_MAX]
    )


def whole_traceback(error: BaseException) -> str:
    """All frames, Tidemill's too, for errors that are a bug; the end of it, of at most DETAIL_MAX
    characters, redacted.
    """
    text = "".join(_frame(f) for f in traceback.extract_tb(error.__traceback__))
    return (
        _encodable(redacted(text, bounded=False)) + "\n".join([describe(error), *_causes(error)])
    )[-DETAIL_MAX:]


def storable(text: str, limit: int) -> str:
    """The end of a longer text of the user's, from the beginning of a line on: redacted, at most
    `limit` characters.
    """
    kept = _encodable(redacted(text, bounded=False)).strip("\n")
    return kept if len(kept) <= limit else kept[-limit:].partition("\n")[2] or kept[-limit:]


def is_own(filename: str) -> bool:
    """Whether a frame is Tidemill's, not the user's."""
    return filename.startswith(_OWN)


def is_library(filename: str) -> bool:
    """Whether a frame is Python's or an installed package's."""
    return filename.startswith((*_LIBRARIES, "<frozen")) or "-packages" + os.sep in filename


def redacted(text: str, *, bounded: bool = True) -> str:
    """The text without what is surely a secret.

    `bounded`: only its beginning, some thousand characters, is looked at and kept.
    """
    longer = bounded and len(text) > _READ_MAX
    text = text[:_READ_MAX] if longer else text
    for secret in _secrets(tuple(os.environ.items())):
        if secret in text:
            text = text.replace(secret, REDACTED)
    for pattern, instead in _FORMS:
        text = pattern.sub(instead, text)
    return text[:-_CUT] if longer else text


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """Texts that are secret by the name of the variable they are in, as they may stand in a
    message; longest first.
    """
    found: set[str] = set()
    for name, value in environment.items():
        upper = name.upper()
        if len(value) >= _SECRET_CHARACTERS_MIN and any(word in upper for word in _SECRET_NAMES):
            found |= {
                value,
                " ".join(value.split()),
                repr(value)[1:-1],
                json.dumps(value)[1:-1],
                quote(value, safe=""),
            }
            found |= {
                line.strip() for line in value.splitlines() if len(line.strip()) >= _SECRET_LINE_MIN
            }
    return sorted(
        (text for text in found if len(text) >= _SECRET_CHARACTERS_MIN), key=len, reverse=True
    )


@functools.lru_cache(maxsize=1)
def _secrets(environment: tuple[tuple[str, str], ...]) -> list[str]:
    return secrets_of(dict(environment))


def visible(text: str, *, lines: bool = False) -> str:
    """The text for a terminal: control characters and escapes are written out, but for line ends
    with `lines`.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or (lines and c == "\n") else repr(c)[1:-1] for c in text)


def _message(error: BaseException) -> str:
    """What the exception says; its `__str__` may be the user's, and fail."""
    try:
        return str(error)
    except Exception as own:  # noqa: BLE001 - whatever the user's code raises
        return f"(its message cannot be shown: {type(own).__name__})"


def _encodable(text: str) -> str:
    """Lone surrogates written out: what is stored is UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _frames(error: BaseException) -> list[str]:
    """Each frame from the user's first on, without Tidemill's; of frames in libraries only the
    innermost of a row.
    """
    frames = traceback.extract_tb(error.__traceback__)
    below = [f for f in frames if not is_own(f.filename)] or list(frames)
    inner = [is_library(f.filename) for f in below] + [False]
    return [_frame(f) for i, f in enumerate(below) if not (inner[i] and inner[i + 1])]


def _frame(frame: traceback.FrameSummary) -> str:
    source = (frame.line or "").strip()
    source = source if len(source) <= _LINE_MAX else source[:_LINE_MAX] + "…"
    place = f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}\n'
    return f"{place}    {source}\n" if source else place


def _causes(error: BaseException) -> list[str]:
    """What led to the exception, a line each: type, message and place."""
    lines = [f"one of its exceptions: {_cause(one)}" for one in _members(error)]
    seen = {id(error)}
    for _ in range(_CAUSES_MAX):
        chained = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if chained is None or id(chained) in seen:
            break
        lines.append(
            f"{'caused by' if error.__cause__ is not None else 'raised while handling'}"
            f" {_cause(chained)}"
        )
        seen.add(id(chained))
        error = chained
    return lines


def _members(error: BaseException) -> tuple[BaseException, ...]:
    return error.exceptions[:_CAUSES_MAX] if isinstance(error, BaseExceptionGroup) else ()


def place(error: BaseException) -> str:
    """Where in the user's code it was raised, or went through last, as the beginning of a line:
    `flow.py, line 5: `.
    """
    mine = _mine(error)
    return _encodable(f"{mine[-1].filename}, line {mine[-1].lineno}: ") if mine else ""


def _mine(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of the user's own code; where there are none, those of libraries."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not is_own(f.filename)]
    return [f for f in frames if not is_library(f.filename)] or frames


def _cause(error: BaseException) -> str:
    mine = _mine(error)
    where = (
        f' (File "{mine[-1].filename}", line {mine[-1].lineno}, in {mine[-1].name})' if mine else ""
    )
    return describe(error)[:_LINE_MAX] + _encodable(where)
