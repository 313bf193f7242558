"""`tidemill quarantine`: the files that failed; why; again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
import msgspec

from pipeline.cli import EXIT_PROBLEMS
from pipeline.cli.options import Target, on_bucket, runtime, wait
from pipeline.cli.render import as_json, count, duration, printable, table
from pipeline.errors import SettingsError, nearest
from pipeline.model import Quarantined
from pipeline.runner import Pass

LISTED_MAX = 100


@click.group("quarantine", epilog="Example:  tidemill quarantine list pipeline.py --bucket ./bucket")
def quarantine_command() -> None:
    """List, show, retry or replay files that failed. A quarantined file stays where it is; only its version is set aside."""


def _found(target: Target, *, runs_user_code: bool = False) -> list[tuple[str, Quarantined]]:
    """Every quarantined version of FILE's pipelines, with the pipeline's name."""
    found: list[tuple[str, Quarantined]] = []
    for p in target.pipelines:
        opened = runtime(target, p, runs_user_code=runs_user_code)
        wait(opened.store.check(opened.settings.source))
        found += [(p.name, q) for q in wait(opened.log().load()).quarantine.values()]
    return found


def _one(target: Target, key: str, *, runs_user_code: bool = False) -> tuple[str, Quarantined]:
    found = _found(target, runs_user_code=runs_user_code)
    for name, entry in found:
        if entry.key == key:
            return name, entry
    raise SettingsError(f"{key!r} is not quarantined{nearest(key, [q.key for _, q in found])}")


@quarantine_command.command("list", epilog="Example:  tidemill quarantine list pipeline.py --bucket ./bucket")
@on_bucket
def list_command(target: Target) -> int:
    """Each quarantined file and the reason, on one line. Exit code 1 if there are any."""
    found = _found(target)
    if target.as_json:
        as_json([{"pipeline": name, **msgspec.to_builtins(entry)} for name, entry in found])
    elif not found:
        click.echo("nothing is quarantined")
    else:
        table(("pipeline", "file", "kind", "reason"), [(name, q.key, q.kind, q.reason) for name, q in found[:LISTED_MAX]])
        if len(found) > LISTED_MAX:
            click.echo(f"... and {len(found) - LISTED_MAX:,} more; --json prints all")
        click.echo(f"{count(len(found), 'file')}; see one:  tidemill quarantine show {target.file} {printable(found[0][1].key)!r}")
    return EXIT_PROBLEMS if found else 0


@quarantine_command.command("show", epilog="Example:  tidemill quarantine show pipeline.py uploads/a.csv --bucket ./bucket")
@on_bucket
@click.argument("key")
def show_command(target: Target, key: str) -> int:
    """All that is known of one quarantined file: version, reason, traceback in the user's code."""
    name, entry = _one(target, key)
    if target.as_json:
        as_json({"pipeline": name, **msgspec.to_builtins(entry)})
        return 0
    retry = "when its content changes, or by  tidemill quarantine retry"
    if entry.retry_at_ms:
        retry = f"by itself in {duration(max(0, entry.retry_at_ms / 1000 - time.time()))}, try {entry.tries + 1}"
    for label, value in (
        ("file", printable(entry.key)),
        ("version", entry.etag),
        ("size", f"{entry.size_bytes:,} bytes"),
        ("kind", entry.kind),
        ("reason", entry.reason),
        ("transform", f"{name}.{entry.transform} (version {entry.version})" if entry.transform else name),
        ("again", retry),
    ):
        click.echo(f"{label:10} {value}")
    if entry.detail:
        click.echo(f"\n{entry.detail}")
    return 0


@quarantine_command.command("retry", epilog="Example:  tidemill quarantine retry pipeline.py uploads/a.csv --bucket ./bucket")
@on_bucket
@click.argument("names", metavar="[KEY]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="every quarantined file")
def retry_command(target: Target, names: tuple[str, ...], everything: bool) -> int:
    """Let quarantined files be planned again: the next run processes them with the code as it is then."""
    if bool(names) == everything:
        raise click.UsageError("name the files to retry, or give --all")
    found = _found(target)
    for key in names:
        if all(q.key != key for _, q in found):
            raise SettingsError(f"{key!r} is not quarantined{nearest(key, [q.key for _, q in found])}")
    total = 0
    for p in target.pipelines:
        mine = [q.key for name, q in found if name == p.name and (everything or q.key in names)]
        if mine:
            total += wait(Pass(runtime(target, p).parts()).requeue(mine))
    if target.as_json:
        as_json({"requeued": total})
    else:
        click.echo(f"{count(total, 'file')} released; process them:  tidemill run {target.file} --bucket {target.bucket.url}")
    return 0


@quarantine_command.command("replay", epilog="Example:  tidemill quarantine replay pipeline.py uploads/a.csv --pdb")
@on_bucket
@click.argument("key")
@click.option("--pdb", "debugger", is_flag=True, help="stop in the debugger where it fails")
@click.option("--rows", "shown", type=click.IntRange(0), default=5, show_default=True, help="rows to print if it works now")
def replay_command(target: Target, key: str, debugger: bool, shown: int) -> int:
    """Run the transform on one file in this process, to see how it fails. Commits nothing. Exit code 1 if it still fails."""
    name, entry = _one(target, key, runs_user_code=True)
    pipeline = next(p for p in target.pipelines if p.name == name)
    opened = runtime(target, pipeline, runs_user_code=True)
    transform = next((t for t in pipeline.transforms if t.settings.name == entry.transform), pipeline.transforms[0])
    head = wait(opened.store.head(key))
    if head.etag != entry.etag:
        click.echo(f"note: the file has changed since it was quarantined (version {head.etag})", err=True)
    call = transform.load()
    if transform.settings.batch_size is not None:
        call = _one_of_batch(call)
    return _replay(call, opened.store.open_content(key, head.etag, head.size_bytes), head, debugger, shown)


def _one_of_batch(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda obj: call([obj])[0]


def _replay(call: Callable[..., object], content: Any, head: Any, debugger: bool, shown: int) -> int:
    from pipeline.objects import Object
    from pipeline.worker import describe, user_traceback
    from sinks.results import parts_of

    obj = Object(head.key, head.etag, head.size_bytes, head.modified_us, content)
    total = 0
    try:
        for part in parts_of(call(obj)):
            rows = part if isinstance(part, list) else part.slice(0, shown).to_pylist()
            for row in rows[: max(0, shown - total)]:
                click.echo(str(row))
            total += len(part)
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything; that is what is to be seen
        if debugger:
            import pdb

            pdb.post_mortem(error.__traceback__)
        click.echo(user_traceback(error))
        click.echo(f"{printable(head.key)} still fails: {describe(error)}", err=True)
        return EXIT_PROBLEMS
    finally:
        content.close()
    click.echo(f"{printable(head.key)}: {count(total, 'row')}, {count(len(obj._rejected), 'row')} rejected; nothing was committed")
    return 0
