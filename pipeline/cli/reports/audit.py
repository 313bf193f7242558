"""`tidemill audit`: the proof, from the bucket itself, that nothing is lost or doubled."""

from __future__ import annotations

from functools import partial

import click

from pipeline.cli import EXIT_PROBLEMS
from pipeline.cli.options import Target, on_bucket, runtime, wait
from pipeline.cli.render import as_json
from pipeline.wording import count, size


@click.command("audit", epilog="Example:  tidemill audit pipeline.py --bucket ./bucket")
@on_bucket
def audit_command(target: Target) -> int:
    """Prove from the bucket that each object is in exactly one state, each output is whole, and no
    row is there twice.

    Reads every output file once. Exit code 1 and one line for each contradiction otherwise.
    """
    from pipeline.passes.audit import Audit
    from pipeline.tables.views import live_rows_by_source

    reports = []
    for p in target.pipelines:
        opened = runtime(target, p)
        wait(opened.store.check(opened.settings.source))
        audit = Audit(
            opened.store, opened.settings, opened.log(), partial(live_rows_by_source, opened)
        )
        reports.append((p.name, wait(audit.run())))
    if target.as_json:
        as_json(
            [
                {
                    "pipeline": name,
                    "clean": r.clean,
                    "sequence": r.sequence,
                    "sources": dict(r.sources),
                    "files": r.files,
                    "rows": r.rows,
                    "orphans": r.orphans,
                    "problems": r.problems,
                }
                for name, r in reports
            ]
        )
    else:
        for name, r in reports:
            states = (
                ", ".join(f"{n:,} {what}" for what, n in sorted(r.sources.items())) or "no sources"
            )
            verdict = "clean" if r.clean else f"{count(len(r.problems), 'problem')}"
            click.echo(
                f"{name}: {verdict} at commit {r.sequence}: {states}; {count(r.files, 'file')},"
                f" {count(r.rows, 'row')}"
            )
            if r.orphans:
                click.echo(
                    f"  {count(r.orphans, 'file')} of attempts that never counted"
                    f" ({size(r.orphan_bytes)}), for the vacuum"
                )
            for problem in r.problems:
                click.echo(f"  {problem}")
    return 0 if all(r.clean for _, r in reports) else EXIT_PROBLEMS
