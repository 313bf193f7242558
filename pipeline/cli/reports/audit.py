"""`tidemill audit`: the proof, from the bucket itself, that nothing is lost or doubled."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli import EXIT_PROBLEMS
from pipeline.cli.options import Target, on_bucket, runtime, wait
from pipeline.cli.render import as_json
from pipeline.wording import count, size

if TYPE_CHECKING:
    from pipeline.declare.pipeline import Pipeline
    from pipeline.passes.audit import AuditReport


@click.command("audit", epilog="Example:  tidemill audit flows.py --bucket ./bucket")
@on_bucket
def audit_command(target: Target) -> int:
    """Prove from the bucket that each object is in exactly one state, each output is whole, and no
    row is there twice.

    Reads every output file once. Exit code 1 and one line for each contradiction otherwise.
    """
    reports = [(p.name, _audited(target, p)) for p in target.pipelines]
    if target.as_json:
        as_json([_as_plain(name, report) for name, report in reports])
    else:
        for name, report in reports:
            _show(name, report)
    return 0 if all(report.clean for _, report in reports) else EXIT_PROBLEMS


def _audited(target: Target, pipeline: Pipeline) -> AuditReport:
    from pipeline.passes.audit import Audit
    from pipeline.tables.views import live_rows_by_source

    opened = runtime(target, pipeline)
    wait(opened.store.check(opened.settings.source))
    audit = Audit(opened.store, opened.settings, opened.log(), partial(live_rows_by_source, opened))
    return wait(audit.run())


def _as_plain(name: str, r: AuditReport) -> dict[str, Any]:
    return {
        "pipeline": name,
        "clean": r.clean,
        "sequence": r.sequence,
        "sources": dict(r.sources),
        "files": r.files,
        "rows": r.rows,
        "orphans": r.orphans,
        "problems": r.problems,
    }


def _summary(name: str, r: AuditReport) -> str:
    states = ", ".join(f"{n:,} {what}" for what, n in sorted(r.sources.items())) or "no sources"
    verdict = "clean" if r.clean else count(len(r.problems), "problem")
    return (
        f"{name}: {verdict} at commit {r.sequence}: {states}; {count(r.files, 'file')},"
        f" {count(r.rows, 'row')}"
    )


def _show(name: str, r: AuditReport) -> None:
    click.echo(_summary(name, r))
    if r.orphans:
        click.echo(
            f"  {count(r.orphans, 'file')} of attempts that never counted"
            f" ({size(r.orphan_bytes)}), for the vacuum"
        )
    for problem in r.problems:
        click.echo(f"  {problem}")
