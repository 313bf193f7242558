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
    from pipeline.declare.pipeline import Pipeline

NEAREST_MAX = 20_000
"""Committed keys among which one is looked for that was perhaps meant."""


@click.command(
    "lineage", epilog="Example:  tidemill lineage pipeline.py uploads/a.csv --bucket ./bucket"
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
        state = await log.load()
        await log.look_up(state, [name])
        if state.entry(name) is not None or name in state.quarantine or name in state.wanted:
            found += [name, *await _stages(target, p, name)]
    return found


async def _known_keys(opened: Any) -> list[str]:
    log = opened.log()
    state = await log.load()
    found: list[str] = []
    async for some in log.all_committed(state):
        found += some.column("key").to_pylist()
        if len(found) > NEAREST_MAX:
            break
    return [*found[:NEAREST_MAX], *state.quarantine]


async def _lineage(opened: Any, key: str) -> dict[str, Any] | None:
    await opened.store.check(opened.settings.source)
    log = opened.log()
    state = await log.load()
    holder = keys.output_of(key)
    await log.look_up(state, [key])
    await log.look_up_outputs(state, [holder] if holder else [])
    output = state.outputs.get(holder) if holder else None
    if holder and (output is None or output.into is not None):
        output = state.removed.get(holder)
    if output is not None and any(f.key == key for f in output.files):
        return await _of_output(log, state, holder or "", key)
    entry, quarantined, wanted = state.entry(key), state.quarantine.get(key), state.wanted.get(key)
    if entry is None and quarantined is None and wanted is None:
        return None
    found: dict[str, Any] = {"source": key, "pipeline": state.pipeline}
    if entry is not None:
        await log.look_up_outputs(state, [entry.output])
        when = datetime.fromtimestamp(entry.modified_us / 1e6, UTC)
        found |= {
            "version": entry.etag,
            "bytes": entry.size_bytes,
            "uploaded": f"{when:%Y-%m-%d %H:%M:%S} UTC",
        }
        found |= {
            "rows": entry.rows,
            "rejected": entry.rejected,
            "transform": f"{entry.transform} (version {entry.version})",
        }
        found |= {
            "generation": entry.generation,
            "task": entry.output.partition(".")[0],
            "commit": entry.sequence,
        }
        found["outputs"] = [f.key for f in state.outputs[state.holder_of(entry.output)].files]
    upstream = opened.pipeline.upstream
    if upstream is not None:
        above = await replace(opened, pipeline=upstream, settings=upstream.settings()).live()
        found["from"] = await _lineage(above, key.removeprefix(opened.settings.source))
    if wanted is not None:
        found["in progress"] = f"version {wanted[1]} in task {wanted[0]}"
    if quarantined is not None:
        found["quarantined"] = f"version {quarantined.etag}: {quarantined.reason}"
    return found


async def _of_output(log: Any, state: Any, output: str, key: str) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    live: list[str] = []
    await log.load_outputs(state)
    merged = [name for name in state.outputs if state.holder_of(name) == output]
    async for some in log.all_committed(state):
        live += (
            some.filter(pc.is_in(some.column("output"), value_set=pa.array(merged, pa.string())))
            .column("key")
            .to_pylist()
        )
    holder = state.stored().get(output)
    return {
        "output": key,
        "pipeline": state.pipeline,
        "state": "live" if holder is not None else "removed, kept until its retention has passed",
        "task": output.partition(".")[0],
        "sources": live,
        "superseded": list(holder.dead) if holder is not None else [],
    }
