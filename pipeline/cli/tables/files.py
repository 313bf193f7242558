"""`tidemill files`: the Parquet files that count, for programs that read them as they are."""

from __future__ import annotations

import sys

import click

from pipeline.cli import EXIT_PROBLEMS
from pipeline.cli.options import Target, on_bucket, root_runtime, wait
from pipeline.cli.render import as_json
from pipeline.model.receipt import MAIN_TABLE, OutputFile
from pipeline.tracebacks import visible
from pipeline.wording import count


@click.command("files", epilog="Example:  tidemill files flows.py --bucket ./bucket")
@on_bucket
def files_command(target: Target) -> int:
    """The live Parquet files of FILE's tables, one a line, as paths or URLs.

    Exit code 1 if some of them have rows that do not count any more, since their files were changed
    or deleted: ask such tables with `tidemill sql` or `Pipeline.table()`.
    """
    found = [file for p in target.pipelines for file in wait(_files(target, p.name))]
    mixed = [file for file in found if file["superseded_sources"]]
    if target.as_json:
        as_json(found)
    else:
        for file in found:
            click.echo(file["url"] if not sys.stdout.isatty() else visible(str(file["url"])))
    if mixed:
        click.echo(
            f"{count(len(mixed), 'file')} of {len(found):,} also have rows that do not count any"
            " more: do not read them as they are, use  tidemill sql --format parquet  or "
            " Pipeline.table()",
            err=True,
        )
    return EXIT_PROBLEMS if mixed else 0


async def _files(target: Target, name: str) -> list[dict[str, object]]:
    from pipeline.tables.time_travel import state_at

    opened = await root_runtime(target, next(p for p in target.pipelines if p.name == name)).live()
    await opened.store.check(opened.settings.source)
    snapshot = (await state_at(opened))[1].snapshot()
    base = str(opened.store.traits.local_root or opened.store.url)
    return [
        {
            "pipeline": name,
            **_as_plain(base, file),
            "superseded_sources": len(output.dead),
        }
        for output in snapshot.outputs.values()
        for file in output.files
        if file.table == MAIN_TABLE
    ]


def _as_plain(base: str, file: OutputFile) -> dict[str, object]:
    return {
        "url": f"{base.rstrip('/')}/{file.key}",
        "rows": file.rows,
        "size_bytes": file.size_bytes,
        "partition": file.partition,
    }
