"""`tidemill compact`: small Parquet files become few large, sorted ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipeline.cli.options import Target, on_bucket, runtime, wait
from pipeline.cli.render import as_json
from pipeline.wording import count, size

if TYPE_CHECKING:
    from pipeline.declare.pipeline import Pipeline
    from pipeline.passes.compaction import Merged


@click.command("compact", epilog="Example:  tidemill compact flows.py --bucket ./bucket")
@on_bucket
@click.option(
    "--purge",
    is_flag=True,
    help="rewrite whatever has rows that do not count any more, also large files",
)
def compact_command(target: Target, purge: bool) -> int:
    """Merge small Parquet files into few large ones (file_mb, 128 by default), sorted by order_by,
    without superseded rows.

    Readers, runs and other compactions may go on meanwhile. The old files stay for the pipeline's
    retention, for readers; then vacuum deletes them. Long runs, and `maintain` on Modal, compact by
    themselves.
    """
    reports = []
    for p in target.pipelines:
        done = _compacted(target, p, purge)
        if target.as_json:
            names = ("outputs", "files_before", "bytes_before", "files", "size_bytes", "outdone")
            reports.append({"pipeline": p.name, **{name: getattr(done, name) for name in names}})
        else:
            _show(p.name, done)
    if target.as_json:
        as_json(reports)
    return 0


def _compacted(target: Target, pipeline: Pipeline, purge: bool) -> Merged:
    from pipeline.executors.local.process_owner import this_process
    from pipeline.executors.none import NoExecutor
    from pipeline.passes.compaction import Compactor, Wanted
    from pipeline.passes.runner import Pass

    opened = runtime(target, pipeline)
    opened.executor = NoExecutor(this_process())
    wait(opened.store.check(opened.settings.source))
    wanted = Wanted(target_bytes=opened.settings.file_bytes, few=True, purge=purge)
    return wait(Compactor(Pass(opened.context()), wanted).run())


def _show(name: str, done: Merged) -> None:
    if done.outputs:
        before = f"{count(done.files_before, 'file')} ({size(done.bytes_before)})"
        click.echo(f"{name}: {before} became {count(done.files, 'file')} ({size(done.size_bytes)})")
    else:
        click.echo(f"{name}: nothing to compact")
    if done.outdone:
        click.echo(
            f"  {count(done.outdone, 'merge')} given up: others changed those files meanwhile;"
            " compact again"
        )
