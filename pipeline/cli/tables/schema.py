"""`tidemill schema`: a table's columns, the rules and checks they are under, and how they came to
be.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import Target, on_bucket, root_runtime, wait
from pipeline.cli.render import as_json, table
from pipeline.wording import count, printable

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.declare.pipeline import Pipeline
    from pipeline.tables.schema_repair import Damage
    from sinks.parquet.schema_history import Change, History


@click.group("schema", epilog="Example:  tidemill schema show flows.py --bucket ./bucket")
def schema_command() -> None:
    """Show a table's columns, the rules and checks they are under, and which commit
    changed them.
    """


@schema_command.command("show", epilog="Example:  tidemill schema show flows.py --bucket ./bucket")
@on_bucket
def show_command(target: Target) -> int:
    """Columns with their types and the commit they came with, the schema mode, and the checks with
    the rows that broke them.

    Commits and broken rows are counted as far back as the log is kept.
    """
    reports = [_shown(p, *wait(_load(target, p))) for p in target.pipelines]
    if target.as_json:
        as_json(reports)
        return 0
    for report in reports:
        _show(report)
    return 0


def _show(report: dict[str, Any]) -> None:
    learned = "declared" if report["declared"] else "learned from the rows"
    columns, checks = report["columns"], report["checks"]
    click.echo(
        f"{report['pipeline']}: {count(len(columns), 'column')}, {learned}, {_mode_text(report)}"
    )
    if columns:
        rows = [(c["name"], c["type"], _since_text(c)) for c in columns]
        table(("column", "type", "since"), rows)
    if checks:
        _show_checks(checks)
    click.echo(_kept_text(report["log_kept_from"]))


def _show_checks(checks: list[dict[str, Any]]) -> None:
    rows = [(c["name"], c["condition"], c["action"], c["broken"]) for c in checks]
    table(("check", "condition", "action", "rows broke it"), rows, numbers=[3])


@schema_command.command(
    "history", epilog="Example:  tidemill schema history flows.py --bucket ./bucket"
)
@on_bucket
def history_command(target: Target) -> int:
    """Which commit added which columns and changed which types, as far back as the log is kept."""
    reports: list[dict[str, Any]] = []
    for p in target.pipelines:
        history = wait(_load(target, p))[1]
        changes = [_change(c) for c in history.changes]
        reports.append({"pipeline": p.name, "log_kept_from": history.kept_from, "changes": changes})
    if target.as_json:
        as_json(reports)
        return 0
    for report in reports:
        _show_history(report)
    return 0


def _show_history(report: dict[str, Any]) -> None:
    click.echo(f"{report['pipeline']}: {count(len(report['changes']), 'change')} of the columns")
    rows = [row for change in report["changes"] for row in _lines(change)]
    if rows:
        table(("commit", "at (UTC)", "column", "change"), rows)
    click.echo(_kept_text(report["log_kept_from"]))


@schema_command.command(
    "repair", epilog="Example:  tidemill schema repair flows.py --bucket ./bucket --dry-run"
)
@on_bucket
@click.option("--dry-run", is_flag=True, help="say what is wrong, change nothing")
def repair_command(target: Target, dry_run: bool) -> int:
    """Fix a table that no query can read: an older version let in fields that SQL cannot tell
    apart, such as name and Name.

    The rows of the files that brought such a field go out of the table, those files wait in
    quarantine, and Parquet files that had it are rewritten. Reads all files once where an older
    version did not note what their integers and times reach.
    """
    reports: list[dict[str, Any]] = []
    for p in target.pipelines:
        found = _repaired(target, p, dry_run)
        if target.as_json:
            head = {"pipeline": p.name, "fields": found.fields, "files": found.sources}
            reports.append({**head, "dry_run": dry_run})
        else:
            _show_damage(p.name, found, dry_run)
    if target.as_json:
        as_json(reports)
    return 0


def _repaired(target: Target, pipeline: Pipeline, dry_run: bool) -> Damage:
    """What was wrong."""
    from pipeline.tables.schema_repair import damage_of, repair

    opened = wait(root_runtime(target, pipeline).live())
    wait(opened.store.check(opened.settings.source))
    found = wait(damage_of(opened))
    if found and not dry_run:
        wait(repair(opened, found))
    return found


def _show_damage(name: str, found: Damage, dry_run: bool) -> None:
    if not found.fields:
        click.echo(
            f"{name}: nothing to repair"
            + (", its numbers and times are measured now" if found and not dry_run else "")
        )
        return
    click.echo(
        f"{name}: {'would take out' if dry_run else 'took out'}"
        f" {', '.join(map(printable, found.fields))}"
    )
    for key in found.sources:
        click.echo(f"  {'would set aside' if dry_run else 'set aside'} {printable(key)}")


async def _load(target: Target, p: Pipeline) -> tuple[str | None, History]:
    from pipeline.tables.views import commits_of
    from sinks.parquet.schema_history import history_of

    opened = await root_runtime(target, p).live()
    await opened.store.check(opened.settings.source)
    state = await opened.log().load()
    return state.schema, history_of([commit async for commit in commits_of(opened.log())])


def _shown(p: Pipeline, schema: str | None, history: History) -> dict[str, Any]:
    checks = [
        {
            "name": c.name,
            "condition": c.sql,
            "action": c.action,
            "broken": history.broken.get(c.name, 0),
        }
        for c in p.checks
    ]
    return {
        "pipeline": p.name,
        "mode": p.schema_mode,
        "widen": p.widen,
        "declared": p.schema is not None,
        "columns": _columns(p, schema, history),
        "checks": checks,
        "log_kept_from": history.kept_from,
    }


def _columns(p: Pipeline, schema: str | None, history: History) -> list[dict[str, Any]]:
    """Those that are committed; then those that are only declared."""
    from sinks.values.schema import decode

    columns = []
    for field in decode(schema) if schema is not None else ():
        since, exact = history.since(field.name)
        columns.append(_column(field, since=since, exact=exact, committed=True))
    known = {column["name"] for column in columns}
    for field in p.schema if p.schema is not None else ():
        if field.name not in known:
            columns.append(_column(field, since=None, exact=False, committed=False))
    return columns


def _column(field: pa.Field, *, since: int | None, exact: bool, committed: bool) -> dict[str, Any]:
    return {
        "name": field.name,
        "type": str(field.type),
        "since": since,
        "exact": exact,
        "committed": committed,
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "sequence": change.sequence,
        "written_at": (
            datetime.fromtimestamp(change.written_ms / 1000, UTC).isoformat(timespec="milliseconds")
        ),
        "exact": change.exact,
        "added": change.added,
        "changed": {
            name: {"before": before, "after": after}
            for name, (before, after) in change.changed.items()
        },
    }


def _lines(change: dict[str, Any]) -> list[tuple[object, ...]]:
    head = (change["sequence"], change["written_at"][:19].replace("T", " "))
    new = "new, {}" if change["exact"] else "{}, new then or earlier"
    lines = [(*head, name, new.format(kind)) for name, kind in change["added"].items()]
    return lines + [
        (*head, name, f"{kinds['before']} became {kinds['after']}")
        for name, kinds in change["changed"].items()
    ]


def _mode_text(report: dict[str, Any]) -> str:
    usual = "float" if report["mode"] == "evolve" else "none"
    widen = f', widen="{report["widen"]}"' if report["widen"] != usual else ""
    return f'schema_mode="{report["mode"]}"{widen}'


def _since_text(column: dict[str, Any]) -> str:
    if not column["committed"]:
        return "declared, not committed yet"
    if column["since"] is None:
        return "before the log that is kept"
    return (
        f"commit {column['since']}" if column["exact"] else f"commit {column['since']} or earlier"
    )


def _kept_text(kept_from: int | None) -> str:
    return (
        "nothing is committed yet"
        if kept_from is None
        else f"the log is kept from commit {kept_from} on"
    )
