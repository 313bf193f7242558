"""The pipeline's own state as tables: sources, outputs, commits, quarantine.

Plain Arrow, made from the folded state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pipeline.model.commit import Commit
from pipeline.model.receipt import OutputFile
from pipeline.state.state import State

if TYPE_CHECKING:
    import pyarrow as pa

NAMES = ("sources", "outputs", "commits", "quarantine")


def state_table(
    name: str,
    states: Sequence[State],
    logs: Sequence[Iterable[Commit]],
    committed: Sequence[Sequence[pa.Table]] = (),
) -> pa.Table:
    """One of NAMES over all pipelines of a file.

    `logs`, for `commits`: each pipeline's entries that are still kept. `committed`, for `sources`:
    each one's ledger in pieces.
    """
    import pyarrow as pa

    if name == "commits":
        return pa.concat_tables(
            [_commits(state.pipeline, log) for state, log in zip(states, logs, strict=True)]
        )
    if name == "sources":
        return pa.concat_tables(
            [_sources(state, parts) for state, parts in zip(states, committed, strict=True)]
        )
    make = {"outputs": _outputs, "quarantine": _quarantine}[name]
    return pa.concat_tables([make(state) for state in states])


def _table(pipeline: str, columns: dict[str, str], rows: Sequence[Sequence[object]]) -> pa.Table:
    """Rows as a table of named types, the pipeline's name first."""
    import pyarrow as pa

    kinds = _kinds()
    values = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    arrays = [
        pa.array(column, kinds[kind]) for column, kind in zip(values, columns.values(), strict=True)
    ]
    return pa.table(
        [pa.array([pipeline] * len(rows), pa.string()), *arrays], names=["pipeline", *columns]
    )


def _kinds() -> dict[str, pa.DataType]:
    import pyarrow as pa

    kinds = {"text": pa.string(), "int": pa.int64(), "s": pa.float64()}
    return kinds | {unit: pa.timestamp(unit, "UTC") for unit in ("us", "ms")}


_SOURCES = {
    "key": "text",
    "status": "text",
    "etag": "text",
    "size_bytes": "int",
    "modified_at": "us",
    "rows": "int",
    "rejected": "int",
    "transform": "text",
    "version": "text",
    "generation": "int",
    "output": "text",
    "sequence": "int",
}


def _sources(state: State, committed: Sequence[pa.Table]) -> pa.Table:
    """Every source that a commit knows: committed, quarantined (`failed`, `lost`, `key`) or in
    progress.

    A source whose new version is in progress or failed has two rows: its committed version's rows
    count until then.
    """
    import pyarrow as pa

    parts = [_committed(state.pipeline, table) for table in committed]
    others = [*_quarantined(state), *_in_progress(state)]
    parts.append(_table(state.pipeline, _SOURCES, others))
    return pa.concat_tables(parts)


def _quarantined(state: State) -> Iterator[tuple[object, ...]]:
    for q in state.quarantine.values():
        if q.key not in state.wanted:
            version = (q.etag, q.size_bytes, None)
            code = (q.transform, q.version, None)
            yield (q.key, f"quarantined ({q.kind})", *version, None, None, *code, None, None)


def _in_progress(state: State) -> Iterator[tuple[object, ...]]:
    for task in state.tasks.values():
        code = (task.transform, task.version, task.generation)
        for i, key in enumerate(task.inputs.keys):
            if state.is_wanted(key, task.id):
                version = (task.inputs.etags[i], task.inputs.sizes[i], task.inputs.modified_us[i])
                yield (key, "in progress", *version, None, None, *code, None, None)


def _committed(name: str, table: pa.Table) -> pa.Table:
    """A piece of the ledger, straight from its columns."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = {
        **{name: table.column(name) for name in table.column_names},
        "modified_at": pc.cast(table.column("modified_us"), pa.timestamp("us", "UTC")),
        "status": _repeated("committed", table.num_rows),
        "generation": pc.cast(table.column("generation"), pa.int64()),
    }
    pipeline = _repeated(name, table.num_rows)
    return pa.table(
        [pipeline, *(columns[name] for name in _SOURCES)], names=["pipeline", *_SOURCES]
    )


def _repeated(text: str, rows: int) -> pa.Array:
    import pyarrow as pa

    return pa.array([text]).take(pa.array(bytes(rows), pa.uint8()))


_OUTPUTS = {
    "output": "text",
    "table_name": "text",
    "key": "text",
    "rows": "int",
    "size_bytes": "int",
    "live_sources": "int",
    "dead_sources": "int",
    "status": "text",
}


def _outputs(state: State) -> pa.Table:
    rows = [*_files_of_outputs(state)]
    rows += [
        ("", f"aggregate {f.name}", f.key, f.rows, f.size_bytes, 0, 0, "live")
        for f in state.aggregates.values()
    ]
    return _table(state.pipeline, _OUTPUTS, rows)


def _files_of_outputs(state: State) -> Iterator[tuple[object, ...]]:
    for output, holder in state.stored().items():
        for file in holder.files:
            yield (output, *_described(file), holder.live, len(holder.dead), "live")
    for output, removed in state.removed.items():
        for file in removed.files:
            yield (output, *_described(file), 0, 0, "removed")


def _described(file: OutputFile) -> tuple[object, ...]:
    return file.table, file.key, file.rows, file.size_bytes


def _quarantine(state: State) -> pa.Table:
    columns = {
        "key": "text",
        "kind": "text",
        "reason": "text",
        "etag": "text",
        "size_bytes": "int",
        "tries": "int",
    }
    columns |= {
        "retry_at": "ms",
        "transform": "text",
        "version": "text",
        "task": "text",
        "detail": "text",
    }
    rows = [
        (
            q.key,
            q.kind,
            q.reason,
            q.etag,
            q.size_bytes,
            q.tries,
            q.retry_at_ms or None,
            q.transform,
            q.version,
            q.task,
            q.detail,
        )
        for q in state.quarantine.values()
    ]
    return _table(state.pipeline, columns, rows)


def _commits(pipeline: str, log: Iterable[Commit]) -> pa.Table:
    columns = {
        "sequence": "int",
        "written_at": "ms",
        "writer": "text",
        "planned": "int",
        "committed": "int",
        "rows": "int",
    }
    columns |= {
        "rejected": "int",
        "failed": "int",
        "deleted": "int",
        "respawned": "int",
        "files": "int",
        "bytes": "int",
    }
    columns |= {"seconds": "s", "broken": "int"}
    return _table(pipeline, columns, [_commit_row(commit) for commit in log])


def _commit_row(commit: Commit) -> tuple[object, ...]:
    files = [file for settled in commit.settle for file in settled.files]
    failed = sum(
        problem.status == "failed" for settled in commit.settle for problem in settled.problems
    )
    return (
        commit.sequence,
        commit.written_ms,
        commit.writer,
        sum(len(task.inputs) for task in commit.plan),
        sum(len(settled.rows) - len(settled.problems) for settled in commit.settle),
        sum(sum(settled.rows) for settled in commit.settle),
        sum(sum(settled.rejected) for settled in commit.settle),
        failed + len(commit.quarantine),
        len(commit.deleted),
        len(commit.respawn),
        len(files),
        sum(file.size_bytes for file in files),
        round(sum(settled.seconds for settled in commit.settle), 3),
        sum(sum(settled.broken.values()) for settled in commit.settle),
    )
