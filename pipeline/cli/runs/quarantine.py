"""`tidemill quarantine`: the files that failed; why; again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
import msgspec

from pipeline.cli import EXIT_PROBLEMS
from pipeline.cli.options import Target, on_bucket, root_runtime, wait
from pipeline.cli.pasted_commands import pasted
from pipeline.cli.render import as_json, table
from pipeline.cli.runs.failure_groups import Entry, Group, grouped, matching
from pipeline.cli.runs.replay import nearest_key, replay_command
from pipeline.errors import SettingsError
from pipeline.passes.runner import Pass
from pipeline.tracebacks import visible
from pipeline.wording import count, duration, printable

LISTED_MAX = 100
KINDS = ("failed", "lost", "key", "cancelled")


@click.group("quarantine", epilog="Example:  tidemill quarantine list flows.py --bucket ./bucket")
def quarantine_command() -> None:
    """List, show, retry or replay files that failed.

    A quarantined file stays where it is; only its version is set aside.
    """


quarantine_command.add_command(replay_command)


def _by_reason(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose by reason and by kind."""
    command = click.option("--kind", type=click.Choice(KINDS), help="only files of this kind")(
        command
    )
    return click.option(
        "--reason",
        metavar="TEXT",
        help="only files whose reason, as listed or in full, contains TEXT",
    )(command)


async def _found(target: Target) -> tuple[list[Entry], set[str]]:
    """Every quarantined version of FILE's pipelines, and the keys of those that a run has in hand
    again.
    """
    found: list[Entry] = []
    in_progress: set[str] = set()
    for p in target.pipelines:
        opened = await root_runtime(target, p).live()
        await opened.store.check(opened.settings.source)
        state = await opened.log().load()
        found += [
            Entry(p.name, q) for key, q in state.quarantine.items() if key not in state.wanted
        ]
        in_progress |= state.quarantine.keys() & state.wanted.keys()
    return found, in_progress


@quarantine_command.command(
    "list",
    epilog="Example:  tidemill quarantine list flows.py --kind lost --files --bucket ./bucket",
)
@on_bucket
@_by_reason
@click.option(
    "--files", "each", is_flag=True, help="one line for each file, instead of one for each reason"
)
def list_command(target: Target, reason: str | None, kind: str | None, each: bool) -> int:
    """The reasons, how many files have each, and when they are tried again; numbers, quoted texts
    and keys in them do not count.

    Exit code 1 if there are any.
    """
    everything, in_progress = wait(_found(target))
    found = matching(everything, reason, kind)
    if target.as_json:
        as_json([_as_plain(entry) | {"group": entry.reason} for entry in found])
        return EXIT_PROBLEMS if found else 0
    if found:
        _list(target, found, each)
    else:
        click.echo("nothing is quarantined")
    if in_progress:
        click.echo(f"{count(len(in_progress), 'more file')} in progress again")
    return EXIT_PROBLEMS if found else 0


def _list(target: Target, found: list[Entry], each: bool) -> None:
    if each:
        _list_files(found)
    else:
        _list_groups(grouped(found), int(time.time() * 1000))
    click.echo(
        f"{count(len(found), 'file')}; see one: "
        f" {pasted(target, 'quarantine show', found[0].quarantined.key)}"
    )


def _as_plain(entry: Entry) -> dict[str, Any]:
    return {"pipeline": entry.pipeline, **msgspec.to_builtins(entry.quarantined)}


def _list_files(found: list[Entry]) -> None:
    rows = [
        (e.pipeline, e.quarantined.key, e.quarantined.kind, visible(e.quarantined.reason))
        for e in found[:LISTED_MAX]
    ]
    table(("pipeline", "file", "kind", "reason"), rows)
    if len(found) > LISTED_MAX:
        click.echo(f"... and {len(found) - LISTED_MAX:,} more; --json prints all")


def _list_groups(groups: list[Group], now_ms: int) -> None:
    rows = [
        (
            f"{len(g.entries):,}",
            g.first.transform,
            g.first.quarantined.kind,
            visible(g.reason),
            g.again(now_ms),
            _example(g),
        )
        for g in groups[:LISTED_MAX]
    ]
    table(("files", "transform", "kind", "reason", "tried again", "such as"), rows, numbers=(0,))
    if len(groups) > LISTED_MAX:
        click.echo(
            f"... and {len(groups) - LISTED_MAX:,} more reasons; --files lists files, --json"
            " prints all"
        )


def _example(group: Group) -> str:
    return group.first.quarantined.key


@quarantine_command.command(
    "show", epilog="Example:  tidemill quarantine show flows.py uploads/a.csv --bucket ./bucket"
)
@on_bucket
@click.argument("key")
def show_command(target: Target, key: str) -> int:
    """All that is known of one quarantined file: version, reason, traceback in the user's code."""
    everything, in_progress = wait(_found(target))
    [found, *_] = _named(everything, (key,), in_progress)
    if target.as_json:
        as_json(_as_plain(found))
        return 0
    for label, value in _labelled(found).items():
        click.echo(f"{label:10} {value}")
    if found.quarantined.detail:
        click.echo(f"\n{visible(found.quarantined.detail, lines=True)}")
    return 0


def _labelled(found: Entry) -> dict[str, str]:
    entry = found.quarantined
    made_by = f"{found.transform} (version {entry.version})" if entry.transform else found.pipeline
    return {
        "file": printable(entry.key),
        "version": entry.etag,
        "size": f"{entry.size_bytes:,} bytes",
        "kind": entry.kind,
        "reason": visible(entry.reason),
        "transform": made_by,
        "again": _again(found),
    }


def _again(found: Entry) -> str:
    """When it is tried again, and by whom."""
    entry = found.quarantined
    if not entry.retry_at_ms:
        return Group([found]).again(int(time.time() * 1000))
    wait_s = max(0, entry.retry_at_ms / 1000 - time.time())
    return f"by itself in {duration(wait_s)}, try {entry.tries + 1}"


@quarantine_command.command(
    "retry", epilog="Example:  tidemill quarantine retry flows.py --kind lost --bucket ./bucket"
)
@on_bucket
@click.argument("names", metavar="[KEY]...", nargs=-1)
@_by_reason
@click.option("--all", "everything", is_flag=True, help="every quarantined file")
def retry_command(
    target: Target, names: tuple[str, ...], reason: str | None, kind: str | None, everything: bool
) -> int:
    """Let quarantined files be planned again: the next run processes them with the code as it is
    then.
    """
    if (bool(names), bool(reason) or kind is not None, everything).count(True) != 1:
        raise click.UsageError(
            "name the files to retry, or choose them with --reason or --kind, or give --all"
        )
    released = wait(_retry(target, names, reason, kind))
    if target.as_json:
        as_json({"requeued": released})
    elif not released:
        click.echo("nothing is quarantined")
    else:
        click.echo(f"{count(released, 'file')} released; process them:  {pasted(target, 'run')}")
    return 0


async def _retry(
    target: Target, names: tuple[str, ...], reason: str | None, kind: str | None
) -> int:
    """Release what was chosen, in one commit for each pipeline; how many files there were."""
    found, in_progress = await _found(target)
    if names:
        found = _named(found, names, in_progress)
    elif reason or kind:
        if not found:
            raise SettingsError("nothing is quarantined, so there is nothing to retry")
        found = matching(found, reason, kind)
    released = 0
    for p in target.pipelines:
        mine = [e.quarantined.key for e in found if e.pipeline == p.name]
        if mine:
            released += await Pass((await root_runtime(target, p).live()).context()).requeue(mine)
    return released


def _named(found: list[Entry], names: tuple[str, ...], in_progress: set[str]) -> list[Entry]:
    """The entries with these keys. Raises SettingsError for the first that there is not."""
    known = {e.quarantined.key for e in found}
    for key in names:
        if key in in_progress:
            raise SettingsError(f"{key!r} is in progress again, by a run")
        if key not in known:
            raise SettingsError(f"{key!r} is not quarantined{nearest_key(key, list(known))}")
    wanted = set(names)
    return [e for e in found if e.quarantined.key in wanted]
