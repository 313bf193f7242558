"""`tidemill quarantine replay`: one file through its transform in this process."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli import EXIT_PROBLEMS
from pipeline.cli.options import Target, on_bucket, root_runtime, wait
from pipeline.cli.pasted_commands import pasted
from pipeline.cli.render import as_json
from pipeline.declare.load_file import user_output_aside
from pipeline.errors import SettingsError, nearest
from pipeline.tracebacks import describe, visible
from pipeline.wording import count, printable

if TYPE_CHECKING:
    from pipeline.runtime.replay import Replayed
    from pipeline.runtime.replay_watch import Subject
    from pipeline.runtime.runtime import Runtime
    from pipeline.state.state import State

NEIGHBOURS = 500


@click.command("replay", epilog="Example:  tidemill quarantine replay flows.py uploads/a.csv --pdb")
@on_bucket
@click.argument("key")
@click.option("--pdb", "debugger", is_flag=True, help="stop in the debugger where your code fails")
@click.option(
    "--current",
    is_flag=True,
    help="replay the file as it is now, if the quarantined version is gone",
)
@click.option(
    "--rows",
    "shown",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="rows to print if it works now",
)
def replay_command(target: Target, key: str, debugger: bool, current: bool, shown: int) -> int:
    """Run the transform on one file in this process, to see how it fails.

    Commits nothing. Exit code 1 if it still fails.

    The quarantined version is read, and what comes out must fit the table, as in a run; limits of
    time and memory do not apply. It works on files that are not quarantined too. breakpoint() in
    your code works.
    """
    if debugger and target.as_json:
        raise click.UsageError("--pdb talks on this terminal: leave out --json")
    return wait(_replay(target, key, debugger, current, shown))


async def _replay(target: Target, key: str, debugger: bool, current: bool, shown: int) -> int:
    from pipeline.runtime.replay import choose, replay

    opened, state = await _holder(target, key)
    subject = await choose(opened, state, key, current=current)
    _tell(subject.notes)
    with user_output_aside() if target.as_json else contextlib.nullcontext():
        done = await replay(opened, state, subject, shown=shown, debug=_debug if debugger else None)
    if target.as_json:
        as_json(_as_plain(state.pipeline, key, subject, done))
    else:
        _show(target, key, subject, done)
    return 0 if done.status == "ok" else EXIT_PROBLEMS


def _tell(notes: Sequence[str]) -> None:
    for note in notes:
        click.echo(f"note: {visible(note)}", err=True)


def _as_plain(pipeline: str, key: str, subject: Subject, done: Replayed) -> dict[str, Any]:
    return {
        "pipeline": pipeline,
        "key": key,
        "etag": subject.head.etag,
        "transform": subject.transform,
        "notes": subject.notes,
        **asdict(done),
    }


async def _holder(target: Target, key: str) -> tuple[Runtime, State]:
    """The pipeline in which the key is quarantined; else the one that takes it.

    Raises SettingsError if it is not just one.
    """
    found, takers, known = [], [], []
    for p in target.pipelines:
        opened = await root_runtime(target, p, runs_user_code=True).live()
        await opened.store.check(opened.settings.source)
        state = await opened.log().load()
        known += list(state.quarantine)
        if key in state.quarantine:
            found.append((opened, state))
        elif _takes(opened, key):
            takers.append((opened, state))
    return _only_one(target, key, found or takers, known)


def _takes(opened: Runtime, key: str) -> bool:
    """Whether the pipeline has a transform for an object of this key."""
    from pipeline.discover.router import Router

    router = Router(opened.settings)
    return (
        key.startswith(opened.settings.source)
        and router.includes(key)
        and router.route(key) is not None
    )


def _only_one(
    target: Target, key: str, chosen: list[tuple[Runtime, State]], known: list[str]
) -> tuple[Runtime, State]:
    if not chosen:
        raise SettingsError(
            f"{key!r} is not quarantined, and no pipeline of {target.file} takes"
            f" it{nearest_key(key, known)}"
        )
    if len(chosen) > 1:
        names = ", ".join(state.pipeline for _, state in chosen)
        raise SettingsError(
            f"{key!r} belongs to several pipelines ({names}): say which, as"
            f" {target.file}:{chosen[0][1].pipeline}"
        )
    return chosen[0]


def nearest_key(key: str, known: list[str]) -> str:
    """`nearest` among the neighbours in order, a bounded number: comparing texts takes time."""
    ordered = sorted(known)
    at = bisect.bisect(ordered, key)
    return nearest(
        printable(key), [printable(k) for k in ordered[max(0, at - NEIGHBOURS) : at + NEIGHBOURS]]
    )


def _debug(error: BaseException) -> None:
    from pipeline.cli.runs.debugger import stop_at

    click.echo(visible(describe(error)), err=True)
    if not stop_at(error):
        click.echo("note: it was not raised in your code, so there is nothing to stop at", err=True)


def _show(target: Target, key: str, subject: Subject, done: Replayed) -> None:
    if done.status == "ok":
        _show_rows(key, done)
        if subject.entry is not None:
            click.echo(f"have a run process it:  {pasted(target, 'quarantine retry', key)}")
        return
    if done.detail:
        click.echo(visible(done.detail, lines=True))
    click.echo(f"{printable(key)} {_problem(subject, done)}", err=True)


def _problem(subject: Subject, done: Replayed) -> str:
    said = {
        "stale": "was overwritten while it was replayed: start again",
        "gone": "was deleted while it was replayed",
        "lost": f"cannot be replayed on this machine: {done.reason}",
    }
    fails = "still fails" if subject.entry is not None else "fails"
    return said.get(done.status, f"{fails}: {visible(done.reason)}")


def _show_rows(key: str, done: Replayed) -> None:
    for row in done.sample:
        click.echo(visible(str(row)))
    for rejected, reason in done.rejected_sample:
        click.echo(visible(f"rejected: {rejected}: {reason}"))
    click.echo(
        f"{printable(key)}: {count(done.rows, 'row')}, {count(done.rejected, 'row')} rejected;"
        " nothing was committed"
    )
