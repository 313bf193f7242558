"""Options that several commands share, and what they open."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.errors import SettingsError

if TYPE_CHECKING:
    from pipeline.api import Pipeline
    from pipeline.assembly import Bucket, Runtime

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """What a command works on."""

    file: str
    pipelines: list[Pipeline]
    bucket: Bucket
    as_json: bool

    def only(self) -> Pipeline:
        """The one pipeline of FILE. Raises SettingsError if it declares several."""
        if len(self.pipelines) == 1:
            return self.pipelines[0]
        names = ", ".join(p.name for p in self.pipelines)
        example = f"{self.file}:{self.pipelines[0].name}"
        raise SettingsError(f"{self.file} declares several pipelines ({names}): say which one, as {example}")


def bucket_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which bucket, and how to answer; the command receives the bucket, None where none is given, as `bucket`."""

    @click.option("--bucket", envvar="TIDEMILL_BUCKET", help="file:///dir, a directory, or s3://bucket/prefix [$TIDEMILL_BUCKET]")
    @click.option(
        "--endpoint-url",
        envvar=["TIDEMILL_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
        help="another S3 service than AWS (R2, MinIO, ...) [$AWS_ENDPOINT_URL]",
    )
    @click.option("--region", envvar=["AWS_REGION", "AWS_DEFAULT_REGION"], help="the bucket's region [$AWS_REGION]")
    @click.option("--json", "as_json", is_flag=True, help="print JSON for programs")
    @click.option("--debug", is_flag=True, help="show tracebacks of errors")
    @functools.wraps(command)
    def wrapped(bucket: str | None, endpoint_url: str | None, region: str | None, debug: bool, **rest: Any) -> Any:
        from pipeline.assembly import Bucket

        return command(bucket=Bucket(url=bucket, endpoint_url=endpoint_url, region=region) if bucket else None, **rest)

    return wrapped


def on_bucket(command: Callable[..., Any]) -> Callable[..., Any]:
    """FILE and the bucket's options; the command receives a `Target` first."""

    @click.argument("file")
    @bucket_options
    @functools.wraps(command)
    def wrapped(file: str, bucket: Bucket | None, as_json: bool, **rest: Any) -> Any:
        from pipeline.loading import load_pipelines

        if bucket is None:
            raise click.UsageError("no bucket: give --bucket (file:///dir or s3://bucket/prefix) or set TIDEMILL_BUCKET")
        return command(Target(file, load_pipelines(file), bucket, as_json), **rest)

    return wrapped


def on_engine(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the work runs; the command receives an `Engine` second."""

    @click.option("--engine", "engine", type=click.Choice(["local", "modal"]), default="local", show_default=True)
    @click.option("--workers", type=click.IntRange(1, 1024), help="local: worker processes [default: one for each core]")
    @click.option("--wait", "waits", is_flag=True, help="modal: wait for all answers, and show progress")
    @click.option("--ordered", is_flag=True, help="modal: with --wait, take the answers in the order of the files")
    @click.option("--app", envvar="TIDEMILL_APP", help="modal: the deployed app [default: tidemill-<first pipeline>]")
    @functools.wraps(command)
    def wrapped(  # noqa: PLR0917
        target: Target, engine: str, workers: int | None, waits: bool, ordered: bool, app: str | None, **rest: Any
    ) -> Any:
        from pipeline.engines import LocalEngine, ModalEngine

        if engine == "modal":
            if workers is not None:
                raise click.UsageError("--workers is for --engine local; max_containers of each transform bounds Modal's")
            if ordered and not waits:
                raise click.UsageError("--ordered needs --wait")
            return command(target, ModalEngine(target.file, target.bucket, app=app, wait=waits, ordered=ordered), **rest)
        if ordered or waits:
            raise click.UsageError("--wait and --ordered are for --engine modal; local runs always wait")
        return command(target, LocalEngine(target.file, target.pipelines, target.bucket, workers), **rest)

    return wrapped


def runtime(target: Target, pipeline: Pipeline, *, runs_user_code: bool = False) -> Runtime:
    """The pipeline on its bucket, without workers."""
    from pipeline.arrow import keep_arrow_light
    from pipeline.assembly import Runtime
    from pipeline.executors.none import NoExecutor
    from pipeline.settings import Policy

    if not runs_user_code:
        keep_arrow_light()
    return Runtime(pipeline, pipeline.settings(), target.bucket.open(), Policy(), NoExecutor())


def wait(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's asynchronous part."""
    return asyncio.run(work)
