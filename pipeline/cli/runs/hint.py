"""`tidemill hint`: for keys that are known already, without a listing."""

from __future__ import annotations

import asyncio

import click

from pipeline.cli.options import Target, on_bucket, on_engine
from pipeline.cli.runs.passes import shown
from pipeline.runtime.engines import Engine
from pipeline.wording import printable


@click.command(
    "hint",
    epilog="Example:  tidemill hint flows.py up/a.csv s3://bucket/up/b.csv --bucket s3://bucket",
)
@on_bucket
@on_engine
@click.argument("names", metavar="KEY...", nargs=-1, required=True)
def hint_command(target: Target, engine: Engine, names: tuple[str, ...]) -> int:
    """Process the objects of these KEYs now if they are new or changed, and forget those that are
    gone, without a listing.

    KEY is a key of the bucket, or its s3:// address. Exit code 1 if files were quarantined or put
    off, or if no KEY is an object's or known.
    """
    found = [_key(target, name) for name in names]
    for name, key in zip(names, found, strict=True):
        _check_is_in_a_source(target, name, key)
    return asyncio.run(shown(target, engine, named=list(dict.fromkeys(found))))


def _check_is_in_a_source(target: Target, name: str, key: str) -> None:
    if any(key == p.source for p in target.pipelines):
        raise click.UsageError(
            f"{printable(name)} is a whole source: name the objects in it, or use  tidemill run"
        )
    if not any(key.startswith(p.source) for p in target.pipelines):
        sources = ", ".join(repr(p.source) for p in target.pipelines)
        raise click.UsageError(f"{printable(name)} is below no pipeline's source ({sources})")


def _key(target: Target, name: str) -> str:
    url = target.bucket.url
    base = url if url.endswith("/") else url + "/"
    return name.removeprefix(base) if name.startswith("s3://") else name
