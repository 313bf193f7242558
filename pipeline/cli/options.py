"""Options that several commands share, and what they open."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.cli import owns_process
from pipeline.cli.parameter_types import Size
from pipeline.errors import SettingsError
from pipeline.model.commit import Generation, Generations
from pipeline.model.settings import Priority

if TYPE_CHECKING:
    from pipeline.declare.pipeline import Pipeline
    from pipeline.runtime.bucket import Bucket
    from pipeline.runtime.engines import Engine, LocalEngine
    from pipeline.runtime.runtime import Runtime

T = TypeVar("T")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


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
        raise SettingsError(
            f"{self.file} declares several pipelines ({names}): say which one, as {example}"
        )


def _in_order(*options: Decorator) -> Decorator:
    """Several options as one decorator; `--help` shows them in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_BUCKET_OPTIONS = _in_order(
    click.option(
        "--bucket",
        envvar="TIDEMILL_BUCKET",
        help="file:///dir, a directory, or s3://bucket/prefix [$TIDEMILL_BUCKET]",
    ),
    click.option(
        "--endpoint-url",
        envvar=["TIDEMILL_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
        help="another S3 service than AWS (R2, MinIO, ...) [$AWS_ENDPOINT_URL]",
    ),
    click.option(
        "--region",
        envvar=["AWS_REGION", "AWS_DEFAULT_REGION"],
        help="the bucket's region [$AWS_REGION]",
    ),
    click.option("--json", "as_json", is_flag=True, help="print JSON for programs"),
    click.option("--debug", is_flag=True, help="show tracebacks of errors"),
)


def bucket_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which bucket, and how to answer; the command receives the bucket, None where none is given,
    as `bucket`.
    """

    @_BUCKET_OPTIONS
    @functools.wraps(command)
    def wrapped(
        bucket: str | None, endpoint_url: str | None, region: str | None, debug: bool, **rest: Any
    ) -> Any:
        from pipeline.runtime.bucket import Bucket

        return command(
            bucket=Bucket(url=bucket, endpoint_url=endpoint_url, region=region) if bucket else None,
            **rest,
        )

    return wrapped


def on_bucket(command: Callable[..., Any]) -> Callable[..., Any]:
    """FILE and the bucket's options; the command receives a `Target` first."""

    @click.argument("file")
    @bucket_options
    @functools.wraps(command)
    def wrapped(file: str, bucket: Bucket | None, as_json: bool, **rest: Any) -> Any:
        from pipeline.declare.load_file import load_pipelines
        from pipeline.stores import require_place

        if bucket is None:
            raise click.UsageError(
                "no bucket: give --bucket (file:///dir or s3://bucket/prefix) or set"
                " TIDEMILL_BUCKET"
            )
        pipelines = load_pipelines(file)
        require_place(bucket.url)
        return command(Target(file, pipelines, bucket, as_json), **rest)

    return wrapped


_ENGINE_OPTIONS = _in_order(
    click.option(
        "--engine",
        "engine",
        type=click.Choice(["local", "modal"]),
        default="local",
        show_default=True,
    ),
    click.option(
        "--workers",
        type=click.IntRange(1, 1024),
        help="local: worker processes [default: one for each core]",
    ),
    click.option(
        "--wait", "waits", is_flag=True, help="modal: wait for all answers, and show progress"
    ),
    click.option(
        "--ordered",
        is_flag=True,
        help="modal: with --wait, take the answers in the order of the files",
    ),
    click.option(
        "--app",
        envvar="TIDEMILL_APP",
        help="modal: the deployed app [default: tidemill-<first pipeline>]",
    ),
)


def on_engine(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the work runs; the command receives an `Engine` second."""

    @_ENGINE_OPTIONS
    @functools.wraps(command)
    def wrapped(  # noqa: PLR0917
        target: Target,
        engine: str,
        workers: int | None,
        waits: bool,
        ordered: bool,
        app: str | None,
        **rest: Any,
    ) -> Any:
        from pipeline.deploy.engines import ModalEngine

        if engine == "modal":
            _check_modal_options(workers, waits, ordered)
            return command(
                target,
                ModalEngine(target.file, target.bucket, app=app, wait=waits, ordered=ordered),
                **rest,
            )
        if ordered or waits:
            raise click.UsageError(
                "--wait and --ordered are for --engine modal; local runs always wait"
            )
        return command(target, _local_engine(target, workers), **rest)

    return wrapped


def _check_modal_options(workers: int | None, waits: bool, ordered: bool) -> None:
    if workers is not None:
        raise click.UsageError(
            "--workers is for --engine local; max_containers of each transform bounds Modal's"
        )
    if ordered and not waits:
        raise click.UsageError("--ordered needs --wait")


def _local_engine(target: Target, workers: int | None) -> LocalEngine:
    from pipeline.runtime.engines import LocalEngine

    local = LocalEngine(target.file, target.pipelines, target.bucket, workers)
    if owns_process():
        local.take_temporary_files()
    return local


_LIMIT_OPTIONS = _in_order(
    click.option(
        "--limit", "files", type=click.IntRange(1), help="process at most so many files, then stop"
    ),
    click.option(
        "--limit-bytes",
        "size_bytes",
        type=Size(),
        help="process files of at most so many bytes (500MB, 2GiB), then stop",
    ),
    click.option(
        "--limit-cost",
        "usd",
        type=click.FloatRange(0),
        metavar="USD",
        help="modal: begin work of at most so many dollars",
    ),
)


def on_limits(command: Callable[..., Any]) -> Callable[..., Any]:
    """How much a run may begin. Below `on_engine`: the command receives the limits as `limits`."""

    @_LIMIT_OPTIONS
    @functools.wraps(command)
    def wrapped(
        target: Target,
        engine: Engine,
        files: int | None,
        size_bytes: int | None,
        usd: float | None,
        **rest: Any,
    ) -> Any:
        from pipeline.discover.request import Limits

        if usd is not None and not engine.knows_costs:
            raise click.UsageError(
                "--limit-cost is for --engine modal: what work costs on this machine is not known"
            )
        return command(
            target, engine, limits=Limits(files=files, size_bytes=size_bytes, usd=usd), **rest
        )

    return wrapped


def priority_of(words: tuple[str, ...]) -> Priority | None:
    """What `--priority` says: an order, or prefixes (which have a `/`). None where it
    says nothing.
    """
    orders = ["key", "newest", "oldest"]
    if not words:
        return None
    if len(words) == 1 and words[0] in orders:
        return Priority(order=words[0])  # type: ignore[arg-type]
    for word in words:
        if "/" not in word or word.startswith("/"):
            raise click.UsageError(
                f"--priority {word!r} is no order (key, newest, oldest: one) and no prefix (such as"
                " 2026/)"
            )
    return Priority(prefixes=words)


def runtime(
    target: Target, pipeline: Pipeline, *, runs_user_code: bool = False, generation: str = "live"
) -> Runtime:
    """The pipeline on its bucket, without workers; on the generation that readers see, or another
    one.

    Raises SettingsError where there is no such generation.
    """
    return wait(chosen(root_runtime(target, pipeline, runs_user_code=runs_user_code), generation))


async def chosen(root: Runtime, generation: str) -> Runtime:
    """The pipeline on the generation of this number, on the `live` one, or on the `new` one that is
    being filled.
    """
    known = await root.generations() or Generations(kept=[Generation(number=0)])
    named = {"live": known.live, "new": known.candidate, "previous": known.previous}
    number = _number_of(generation, named)
    if number is None or known.get(number) is None:
        there = ", ".join(_all_of(known, named))
        raise SettingsError(
            f"{root.settings.name} has no generation {generation!r}; there are: {there}"
        )
    return root.of_generation(number)


def _all_of(known: Generations, named: Mapping[str, int | None]) -> list[str]:
    """The numbers and the names that there are."""
    return [
        *(str(one.number) for one in known.kept),
        *(name for name, n in named.items() if n is not None),
    ]


def _number_of(generation: str, named: Mapping[str, int | None]) -> int | None:
    if generation in named:
        return named[generation]
    return int(generation) if generation.isdigit() else None


def root_runtime(target: Target, pipeline: Pipeline, *, runs_user_code: bool = False) -> Runtime:
    """The pipeline on its bucket, without workers, on its first generation: its log says which
    others there are.
    """
    from pipeline.executors.none import NoExecutor
    from pipeline.model.policy import Policy
    from pipeline.runtime.runtime import Runtime
    from pipeline.runtime.system import keep_arrow_light

    if not runs_user_code:
        keep_arrow_light()
    return Runtime(pipeline, pipeline.settings(), target.bucket.open(), Policy(), NoExecutor())


def wait(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's asynchronous part."""
    return asyncio.run(work)
