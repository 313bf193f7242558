"""`tidemill submit`: hand over files by name now, look later."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import Target, on_bucket, root_runtime, runtime, wait
from pipeline.cli.render import as_json
from pipeline.deploy.engines import ModalEngine
from pipeline.errors import SettingsError
from pipeline.runtime import missing_sources
from pipeline.runtime.runtime import Runtime

if TYPE_CHECKING:
    from pipeline.declare.pipeline import Pipeline


@click.command(
    "submit",
    epilog="Example:  tidemill submit flows.py uploads/a.pdf uploads/b.pdf --bucket ./bucket",
)
@on_bucket
@click.argument("names", metavar="KEY...", nargs=-1, required=True)
@click.option("--engine", type=click.Choice(["local", "modal"]), default="local", show_default=True)
@click.option(
    "--app",
    envvar="TIDEMILL_APP",
    help="modal: the deployed app [default: tidemill-<first pipeline>]",
)
@click.option("--again", is_flag=True, help="also files that are processed already")
def submit_command(
    target: Target, names: tuple[str, ...], engine: str, app: str | None, again: bool
) -> int:
    """Have files processed now, ahead of the next pass; print a job id and leave.

    See  tidemill jobs wait ID.

    On this machine a process in the background does the work; with --engine modal the deployed
    app's containers do.
    """
    from pipeline.runtime import jobs
    from pipeline.runtime.feasibility import foreseen

    job = jobs.new_job()
    pipeline = _pipeline_of(target, names[0])
    wait(foreseen(root_runtime(target, pipeline))).require()
    if engine == "modal":
        wait(_hand_over(target, pipeline, app, job=job, names=names, again=again))
    else:
        wait(_record(runtime(target, pipeline), job, names, again))
        _in_background(target, pipeline.name, job)
    _tell_absent(target, pipeline, names)
    _tell_job(target, pipeline, job, names)
    return 0


def _pipeline_of(target: Target, name: str) -> Pipeline:
    for pipeline in target.pipelines:
        if name.startswith(pipeline.source):
            return pipeline
    raise SettingsError(
        f"{name!r} is below no source of {target.file}"
        f" ({', '.join(p.source for p in target.pipelines)})"
    )


def _tell_absent(target: Target, pipeline: Pipeline, names: Sequence[str]) -> None:
    for name in wait(missing_sources.unknown_keys([runtime(target, pipeline)], names)):
        said = wait(missing_sources.said_absent(target.bucket.open(), name))
        click.echo(f"tidemill: {said}", err=True)


def _tell_job(target: Target, pipeline: Pipeline, job: str, names: Sequence[str]) -> None:
    if target.as_json:
        as_json({"job": job, "pipeline": pipeline.name, "files": len(set(names))})
    else:
        click.echo(job)


def _in_background(target: Target, pipeline: str, job: str) -> None:
    """A process of its own that outlives this one and its terminal."""
    bucket = target.bucket
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "run",
        f"{target.file.partition(':')[0]}:{pipeline}",
        "--job",
        job,
    ]
    command += ["--bucket", bucket.url, "--json"]
    for option, value in (("--endpoint-url", bucket.endpoint_url), ("--region", bucket.region)):
        command += [option, value] if value else []
    nowhere = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    subprocess.Popen(command, start_new_session=True, env=dict(os.environ), **nowhere)  # type: ignore[call-overload]


async def _hand_over(
    target: Target,
    pipeline: Pipeline,
    app: str | None,
    *,
    job: str,
    names: Sequence[str],
    again: bool,
) -> None:
    from pipeline.runtime import jobs

    engine = ModalEngine(target.file, target.bucket, app=app, jobs=True)
    opened = engine.runtime(pipeline, target.bucket.open())
    await opened.open()
    await jobs.submit(opened.filled(await opened.generations())[0], job, names, again=again)


async def _record(opened: Runtime, job: str, names: Sequence[str], again: bool) -> None:
    from pipeline.runtime import jobs

    await opened.open()
    await jobs.record(opened, job, list(dict.fromkeys(names)), again=again)
