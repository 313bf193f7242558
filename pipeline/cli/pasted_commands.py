"""Commands that other commands print, to be pasted into a shell as they are: with FILE, the bucket,
and keys of any kind.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from pipeline.cli.options import Target
    from pipeline.runtime.bucket import Bucket


def pasted(target: Target, words: str, *arguments: str, options: str = "") -> str:
    """`tidemill WORDS FILE ARGUMENTS OPTIONS --bucket ...`: on what the present command works on.
    What it has from the environment besides the bucket, another one has too.
    """
    positional = [quoted(text) for text in (target.file, *arguments)]
    named = [*([options] if options else []), *_where(target.bucket)]
    # else it would be taken for an option
    if any(text.startswith("-") for text in (target.file, *arguments)):
        return " ".join(["tidemill", words, *named, "--", *positional])
    return " ".join(["tidemill", words, *positional, *named])


def _where(bucket: Bucket) -> list[str]:
    """The options that say which bucket."""
    where = [("--bucket", bucket.url)]
    where += [("--endpoint-url", bucket.endpoint_url or "")] if _is_typed("endpoint_url") else []
    where += [("--region", bucket.region or "")] if _is_typed("region") else []
    return [f"{name} {quoted(value)}" for name, value in where if value]


def _is_typed(parameter: str) -> bool:
    context = click.get_current_context(silent=True)
    return (
        context is not None
        and context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE
    )


def quoted(text: str) -> str:
    """One word for a shell, on one line: what no terminal shows is written as an escape (bash and
    zsh read `$'...'`).
    """
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(_escaped(character) for character in text) + "'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    return (
        f"\\x{code:02x}"
        if code < 0x80
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )
