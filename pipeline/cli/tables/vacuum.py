"""`tidemill vacuum`: what no snapshot needs any more is deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipeline.cli.options import Target, on_bucket, root_runtime, wait
from pipeline.cli.render import as_json
from pipeline.wording import count, size

if TYPE_CHECKING:
    from pipeline.commit_log.vacuum import Vacuumed
    from pipeline.runtime.runtime import Runtime


@click.command("vacuum", epilog="Example:  tidemill vacuum flows.py --bucket ./bucket --dry-run")
@on_bucket
@click.option("--dry-run", is_flag=True, help="say what would go, delete nothing")
def vacuum_command(target: Target, dry_run: bool) -> int:
    """Delete superseded files older than the pipeline's retention, leftovers of lost attempts, and
    covered log entries.
    """
    every = [one for p in target.pipelines for one in wait(root_runtime(target, p).kept())]
    reports = []
    for opened in every:
        done = _vacuumed(opened, dry_run)
        if target.as_json:
            reports.append(_as_plain(opened, done, dry_run))
        else:
            verb = "would delete" if dry_run else "deleted"
            click.echo(f"{opened.label}: {verb} {_summed(done)}")
    if target.as_json:
        as_json(reports)
    return 0


def _vacuumed(opened: Runtime, dry_run: bool) -> Vacuumed:
    from pipeline.passes.runner import Pass
    from pipeline.passes.upkeep import vacuum

    wait(opened.store.check(opened.settings.source))
    return wait(vacuum(Pass(opened.context()), dry_run=dry_run))


def _as_plain(opened: Runtime, done: Vacuumed, dry_run: bool) -> dict[str, object]:
    return {
        "pipeline": opened.settings.name,
        "generation": opened.settings.generation,
        "dry_run": dry_run,
        "files": done.files,
        "size_bytes": done.size_bytes,
        "receipts": done.receipts,
        "log_entries": done.log_entries,
        "checkpoints": done.checkpoints,
    }


def _summed(done: Vacuumed) -> str:
    return (
        f"{count(done.files, 'file')} ({size(done.size_bytes)}),"
        f" {count(done.receipts, 'receipt')}, {done.log_entries:,} log entries,"
        f" {count(done.checkpoints, 'checkpoint')}"
    )
