"""Commands that keep a table in good shape: compact, vacuum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipeline.cli.options import Target, on_bucket, root_runtime, runtime, wait
from pipeline.cli.render import as_json, count, size
from pipeline.state.generations import kept_numbers

if TYPE_CHECKING:
    from pipeline.runtime.runtime import Runtime


@click.command("compact", epilog="Example:  tidemill compact pipeline.py --bucket ./bucket")
@on_bucket
@click.option("--purge", is_flag=True, help="write anew whatever has rows that do not count any more, also large files")
def compact_command(target: Target, purge: bool) -> int:
    """Merge small Parquet files into few large ones (file_mb, 128 by default), sorted by order_by, without superseded rows.

    Readers, runs and other compactions may go on meanwhile. The old files stay for the pipeline's retention, for readers; then
    vacuum deletes them. Long runs, and `maintain` on Modal, compact by themselves.
    """
    from pipeline.executors.local.process_owner import this_process
    from pipeline.executors.none import NoExecutor
    from pipeline.passes.compaction import Compactor, Wanted
    from pipeline.passes.runner import Pass

    told = []
    for p in target.pipelines:
        opened = runtime(target, p)
        opened.executor = NoExecutor(this_process())
        wait(opened.store.check(opened.settings.source))
        wanted = Wanted(target_bytes=opened.settings.file_bytes, few=True, purge=purge)
        done = wait(Compactor(Pass(opened.parts()), wanted).run())
        if target.as_json:
            names = ("outputs", "files_before", "bytes_before", "files", "size_bytes", "outdone")
            told.append({"pipeline": p.name, **{name: getattr(done, name) for name in names}})
            continue
        if done.outputs:
            before = f"{count(done.files_before, 'file')} ({size(done.bytes_before)})"
            click.echo(f"{p.name}: {before} became {count(done.files, 'file')} ({size(done.size_bytes)})")
        else:
            click.echo(f"{p.name}: nothing to compact")
        if done.outdone:
            click.echo(f"  {count(done.outdone, 'merge')} given up: others changed those files meanwhile; compact again")
    if target.as_json:
        as_json(told)
    return 0


@click.command("vacuum", epilog="Example:  tidemill vacuum pipeline.py --bucket ./bucket --dry-run")
@on_bucket
@click.option("--dry-run", is_flag=True, help="say what would go, delete nothing")
def vacuum_command(target: Target, dry_run: bool) -> int:
    """Delete superseded files older than the pipeline's retention, leftovers of lost attempts, and covered log entries."""
    from pipeline.passes.runner import Pass
    from pipeline.passes.upkeep import vacuum

    every = [one for p in target.pipelines for one in wait(_generations(root_runtime(target, p)))]
    told = []
    for opened in every:
        wait(opened.store.check(opened.settings.source))
        done = wait(vacuum(Pass(opened.parts()), dry_run=dry_run))
        if target.as_json:
            found = {name: getattr(done, name) for name in ("files", "size_bytes", "receipts", "log_entries", "checkpoints")}
            head = {"pipeline": opened.settings.name, "generation": opened.settings.generation, "dry_run": dry_run}
            told.append({**head, **found})
            continue
        verb = "would delete" if dry_run else "deleted"
        click.echo(
            f"{opened.label}: {verb} {count(done.files, 'file')} ({size(done.size_bytes)}), {count(done.receipts, 'receipt')},"
            f" {done.log_entries:,} log entries, {count(done.checkpoints, 'checkpoint')}"
        )
    if target.as_json:
        as_json(told)
    return 0


async def _generations(root: Runtime) -> list[Runtime]:
    known = await root.generations()
    return [root] if known is None else [root.of_generation(number) for number in kept_numbers(known)]
