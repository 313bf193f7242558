"""`tidemill vacuum`: what no snapshot needs any more is deleted."""

from __future__ import annotations

import click

from pipeline.cli.options import Target, on_bucket, root_runtime, wait
from pipeline.cli.render import as_json
from pipeline.wording import count, size


@click.command("vacuum", epilog="Example:  tidemill vacuum pipeline.py --bucket ./bucket --dry-run")
@on_bucket
@click.option("--dry-run", is_flag=True, help="say what would go, delete nothing")
def vacuum_command(target: Target, dry_run: bool) -> int:
    """Delete superseded files older than the pipeline's retention, leftovers of lost attempts, and
    covered log entries.
    """
    from pipeline.passes.runner import Pass
    from pipeline.passes.upkeep import vacuum

    every = [one for p in target.pipelines for one in wait(root_runtime(target, p).kept())]
    told = []
    for opened in every:
        wait(opened.store.check(opened.settings.source))
        done = wait(vacuum(Pass(opened.context()), dry_run=dry_run))
        if target.as_json:
            found = {
                name: getattr(done, name)
                for name in ("files", "size_bytes", "receipts", "log_entries", "checkpoints")
            }
            head = {
                "pipeline": opened.settings.name,
                "generation": opened.settings.generation,
                "dry_run": dry_run,
            }
            told.append({**head, **found})
            continue
        verb = "would delete" if dry_run else "deleted"
        click.echo(
            f"{opened.label}: {verb} {count(done.files, 'file')} ({size(done.size_bytes)}),"
            f" {count(done.receipts, 'receipt')}, {done.log_entries:,} log entries,"
            f" {count(done.checkpoints, 'checkpoint')}"
        )
    if target.as_json:
        as_json(told)
    return 0
