"""`tidemill lineage`: from a source to its rows and back, across stages."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import Target, on_bucket, root_runtime, runtime, wait
from pipeline.cli.render import as_json
from pipeline.errors import SettingsError, nearest
from pipeline.model import keys
from pipeline.wording import printable

if TYPE_CHECKING:
    from pipeline.commit_log.log import Log
    from pipeline.declare.pipeline import Pipeline
    from pipeline.runtime.runtime import Runtime
    from pipeline.state.ledger import Entry
    from pipeline.state.state import State

NEAREST_MAX = 20_000
"""Committed keys among which one is looked for that was perhaps meant."""


@click.command(
    "lineage", epilog="Example:  tidemill lineage flows.py uploads/a.csv --bucket ./bucket"
)
@on_bucket
@click.argument("key")
def lineage_command(target: Target, key: str) -> int:
    """From a source KEY to the commit, task, code version and Parquet files of its rows; from a
    Parquet KEY to its sources.
    """
    for p in target.pipelines:
        opened = runtime(target, p)
        found = wait(_lineage(opened, key))
        if found is None:
            continue
        below = wait(_stages(target, p, key))
        if below:
            found["stages"] = below
        if target.as_json:
            as_json(found)
        else:
            _show(found)
        return 0
    sources = [q for p in target.pipelines for q in wait(_known_keys(runtime(target, p)))]
    raise SettingsError(
        f"{key!r} is no source and no output of {target.file} in this bucket{nearest(key, sources)}"
    )


def _show(found: dict[str, Any], indent: str = "") -> None:
    for label, value in found.items():
        if isinstance(value, dict):
            click.echo(f"{indent}{label}:")
            _show(value, indent + "  ")
            continue
        values = value if isinstance(value, list) else [value]
        for i, one in enumerate(values):
            click.echo(
                f"{indent}{label if i == 0 else '':12}"
                f" {one if not isinstance(one, str) else printable(one)}"
            )


async def _stages(target: Target, above: Pipeline, key: str) -> list[str]:
    """Keys under which pipelines that read this one's table have the rows of `key`, and so on from
    there.
    """
    found = []
    for p in target.pipelines:
        if p.upstream is None or p.upstream.name != above.name:
            continue
        log, name = (await root_runtime(target, p).live()).log(), f"{p.source}{key}"
        if await _is_known(log, name):
            found += [name, *await _stages(target, p, name)]
    return found


async def _is_known(log: Log, key: str) -> bool:
    state = await log.load()
    await log.look_up(state, [key])
    return _tells_of(state, key)


def _tells_of(state: State, key: str) -> bool:
    return state.entry(key) is not None or key in state.quarantine or key in state.wanted


async def _known_keys(opened: Runtime) -> list[str]:
    log = opened.log()
    state = await log.load()
    found: list[str] = []
    async for some in log.all_committed(state):
        found += some.column("key").to_pylist()
        if len(found) > NEAREST_MAX:
            break
    return [*found[:NEAREST_MAX], *state.quarantine]


async def _lineage(opened: Runtime, key: str) -> dict[str, Any] | None:
    await opened.store.check(opened.settings.source)
    log = opened.log()
    state = await log.load()
    await log.look_up(state, [key])
    output = await _output_with(log, state, key)
    if output is not None:
        return await _of_output(log, state, output, key)
    return await _of_source(opened, log, state, key) if _tells_of(state, key) else None


async def _of_source(opened: Runtime, log: Log, state: State, key: str) -> dict[str, Any]:
    found: dict[str, Any] = {"source": key, "pipeline": state.pipeline}
    entry = state.entry(key)
    if entry is not None:
        found |= await _of_entry(log, state, entry)
    upstream = opened.pipeline.upstream
    if upstream is not None:
        above = await replace(opened, pipeline=upstream, settings=upstream.settings()).live()
        found["from"] = await _lineage(above, key.removeprefix(opened.settings.source))
    return found | _not_committed(state, key)


def _not_committed(state: State, key: str) -> dict[str, str]:
    """What is known of a version whose rows do not count: it is in progress, or failed."""
    found = {}
    wanted, quarantined = state.wanted.get(key), state.quarantine.get(key)
    if wanted is not None:
        found["in progress"] = f"version {wanted[1]} in task {wanted[0]}"
    if quarantined is not None:
        found["quarantined"] = f"version {quarantined.etag}: {quarantined.reason}"
    return found


async def _output_with(log: Log, state: State, key: str) -> str | None:
    """The output, live or removed, that has the Parquet file of this key."""
    name = keys.output_of(key)
    await log.look_up_outputs(state, [name] if name else [])
    if not name:
        return None
    output = state.outputs.get(name)
    found = state.removed.get(name) if output is None or output.into is not None else output
    return name if found is not None and any(f.key == key for f in found.files) else None


async def _of_entry(log: Log, state: State, entry: Entry) -> dict[str, Any]:
    """What is committed of a source."""
    await log.look_up_outputs(state, [entry.output])
    uploaded = datetime.fromtimestamp(entry.modified_us / 1e6, UTC)
    return {
        "version": entry.etag,
        "bytes": entry.size_bytes,
        "uploaded": f"{uploaded:%Y-%m-%d %H:%M:%S} UTC",
        "rows": entry.rows,
        "rejected": entry.rejected,
        "transform": f"{entry.transform} (version {entry.version})",
        "generation": entry.generation,
        "task": entry.output.partition(".")[0],
        "commit": entry.sequence,
        "outputs": _file_keys(state, entry.output),
    }


def _file_keys(state: State, output: str) -> list[str]:
    """Where the rows of an output are by now."""
    holder = state.holder_of(output)
    return [f.key for f in state.outputs[holder].files] if holder is not None else []


async def _of_output(log: Log, state: State, output: str, key: str) -> dict[str, Any]:
    await log.load_outputs(state)
    live = await _sources_of(log, state, output)
    holder = state.stored().get(output)
    return {
        "output": key,
        "pipeline": state.pipeline,
        "state": "live" if holder is not None else "removed, kept until its retention has passed",
        "task": output.partition(".")[0],
        "sources": live,
        "superseded": list(holder.dead) if holder is not None else [],
    }


async def _sources_of(log: Log, state: State, output: str) -> list[str]:
    """Keys whose live rows are in this output, also where they were merged into it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    merged = [name for name in state.outputs if state.holder_of(name) == output]
    wanted = pa.array(merged, pa.string())
    found: list[str] = []
    async for some in log.all_committed(state):
        live = some.filter(pc.is_in(some.column("output"), value_set=wanted))
        found += live.column("key").to_pylist()
    return found
