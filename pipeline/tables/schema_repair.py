"""Fixing tables that an older version committed and no query can read: columns with fields that
SQL cannot tell apart.

What this version would have refused before the commit is refused now: the rows of the files that
brought such a field are taken out, those files wait in quarantine, and what lay beside them is
rewritten. Nothing is lost: the files are in the bucket.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import CommitConflict, SettingsError
from pipeline.executors.local.process_owner import this_process
from pipeline.executors.none import NoExecutor
from pipeline.model.commit import Quarantined
from pipeline.model.receipt import MAIN_TABLE, OutputFile
from pipeline.model.snapshot import dead_rows
from pipeline.passes.compaction import Compactor, Wanted
from pipeline.passes.runner import Pass
from pipeline.plan.evidence import Evidence, Repaired
from pipeline.runtime.runtime import Runtime
from pipeline.state.ledger import Entry
from pipeline.state.state import State
from sinks.values.extremes import is_known, measured, with_wide
from sinks.values.field_names import NameConflict, Steps, name_conflicts, path_of, without
from sinks.values.schema import decode, encode

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(slots=True)
class Damage:
    """What is wrong with a table. sequence: the commit that was looked at."""

    sequence: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    """Paths of fields that SQL cannot tell from others, or cannot name, with the reason."""
    sources: list[str] = field(default_factory=list)
    """Files that brought values in such fields."""
    outputs: list[str] = field(default_factory=list)
    """Outputs whose Parquet files have such fields."""
    before: str | None = None
    after: str | None = None
    """The table's columns, and what they are to be."""

    def __bool__(self) -> bool:
        return bool(self.fields) or self.before != self.after


async def damage_of(runtime: Runtime) -> Damage:
    """Look at the table's columns, and at the files that are live.

    Reads whole files only where something is wrong, or where an older version did not note what
    integers and times reach.
    """
    log = runtime.log()
    state = await log.load()
    await log.load_outputs(state)
    if state.schema is None:
        return Damage(state.sequence)
    seen = _Seen(decode(state.schema))
    async for output_id, rows in _files(runtime, state):
        seen.look(output_id, rows, set(dead_rows(output_id, state.outputs[output_id])))
    return Damage(
        state.sequence,
        fields=seen.reasons(),
        sources=list(seen.guilty),
        outputs=seen.outputs,
        before=state.schema,
        after=encode(seen.healed()),
    )


class _Seen:
    """What was seen of a table. bad: its fields that SQL cannot tell from others. guilty: files
    that brought values in such fields, in the order in which they were seen. outputs: those with
    such a field.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._measures = not is_known(schema)
        self._wide = set[tuple[str, ...]]()
        self.bad: dict[Steps, NameConflict] = name_conflicts(schema)
        self.guilty: dict[str, None] = {}
        self.outputs: list[str] = []

    def look(self, output_id: str, rows: Any, dead: set[tuple[str, str]]) -> None:
        """Look at one live file; its rows are read only where that is needed."""
        own = self._conflicts_in(rows.schema_arrow)
        if not own and not self._measures:
            return
        table = rows.read()
        self.bad |= own
        self.guilty |= dict.fromkeys(_bringing(table, own, dead))
        if own and _has_any(rows.schema_arrow, own):
            self.outputs.append(output_id)
        if self._measures:
            self._wide |= measured(table)

    def _conflicts_in(self, schema: pa.Schema) -> dict[Steps, NameConflict]:
        """A file's own, and the table's in columns that this file has, too."""
        of_table = {
            steps: conflict for steps, conflict in self.bad.items() if steps[0] in schema.names
        }
        return name_conflicts(schema) | of_table

    def reasons(self) -> dict[str, str]:
        """What is wrong with the fields, by their paths."""
        return {path_of(steps): conflict.why for steps, conflict in self.bad.items()}

    def healed(self) -> pa.Schema:
        """The table's columns as they are to be."""
        healed = without(self._schema, self.bad)
        if self._measures:
            return with_wide(healed, frozenset(self._wide))
        return healed.with_metadata(self._schema.metadata)


async def repair(runtime: Runtime, damage: Damage) -> None:
    """Commit what `damage_of` found.

    Raises CommitConflict where others changed the table meanwhile: look again.
    """
    runtime.executor = NoExecutor(this_process())
    passing = Pass(runtime.context())
    await passing.open()
    state = passing.state
    if state.sequence != damage.sequence or damage.after is None:
        raise CommitConflict(f"others committed to {runtime.settings.name} meanwhile: run it again")
    await passing.log.look_up(state, damage.sources)
    await _commit(passing, _waiting(state, damage), Repaired(damage.before, damage.after))
    if damage.outputs:
        await Compactor(passing, Wanted(target_bytes=runtime.settings.file_bytes)).rewrite(
            damage.outputs
        )


def _waiting(state: State, damage: Damage) -> list[Quarantined]:
    """The files that are to wait in quarantine."""
    entries = ((key, state.entry(key)) for key in damage.sources)
    return [_set_aside(key, entry, damage) for key, entry in entries if entry is not None]


async def _commit(passing: Pass, waiting: list[Quarantined], repaired: Repaired) -> None:
    """First the rows go, with the columns; then their files are in quarantine."""
    state, gone = passing.state, [q.key for q in waiting]
    await passing.commit(
        Evidence(base=state.sequence, runs_work=False, missing=gone, repaired=repaired)
    )
    await passing.commit(Evidence(base=state.sequence, runs_work=False, unusable=waiting))


def _set_aside(key: str, entry: Entry, damage: Damage) -> Quarantined:
    return Quarantined(
        key=key,
        etag=entry.etag,
        kind="failed",
        reason=f"it brought {', '.join(damage.fields)}: {next(iter(damage.fields.values()))}",
        detail="",
        tries=1,
        retry_at_ms=0,
        task=entry.output.partition(".")[0],
        transform=entry.transform,
        version=entry.version,
        size_bytes=entry.size_bytes,
    )


async def refuse_damaged(runtime: Runtime, state: State) -> None:
    """Raises SettingsError that names the column, the files and the way out, where no query can
    read this table.
    """
    if state.schema is None or not name_conflicts(decode(state.schema)):
        return
    found = await damage_of(runtime)
    path, why = next(iter(found.fields.items()))
    files = ", ".join(found.sources[:3]) + (
        f" and {len(found.sources) - 3} more" if len(found.sources) > 3 else ""
    )
    raise SettingsError(
        f"table {runtime.settings.name} cannot be read: {why} ({path}, from"
        f" {files or 'no file that counts any more'}); `tidemill schema repair` takes it out"
    )


async def _files(runtime: Runtime, state: State) -> AsyncIterator[tuple[str, Any]]:
    """Each live file of the table, opened."""
    import pyarrow.parquet as pq

    for output_id, output in list(state.outputs.items()):
        for file in output.files:
            if file.table == MAIN_TABLE:
                with _open(runtime, file) as stream:
                    yield output_id, pq.ParquetFile(stream)


def _open(runtime: Runtime, file: OutputFile) -> Any:
    return runtime.store.open_content(file.key, "", file.size_bytes).open()


def _provenance(table: pa.Table) -> list[tuple[str, str]]:
    return list(
        zip(table.column("_task").to_pylist(), table.column("_source_key").to_pylist(), strict=True)
    )


def _bringing(
    table: pa.Table, fields: Iterable[Steps], dead: set[tuple[str, str]]
) -> Iterator[str]:
    """Source keys of the live rows that have a value in such a field."""
    provenance = _provenance(table)
    for row in sorted({row for steps in fields for row in _holding(table, steps)}):
        if provenance[row] not in dead:
            yield provenance[row][1]


def _has_any(schema: pa.Schema, bad: Mapping[Steps, object]) -> bool:
    return not schema.equals(without(schema, bad))


def _holding(table: pa.Table, steps: Steps) -> Iterator[int]:
    """Rows with a value there."""
    if steps[0] not in table.column_names:
        return
    for row, value in enumerate(table.column(steps[0]).to_pylist()):
        if _is_there(value, steps[1:]):
            yield row


def _is_there(value: Any, steps: Steps) -> bool:
    if value is None or not steps:
        return value is not None
    if isinstance(value, dict):
        return _is_there(value.get(steps[0]), steps[1:])
    if steps[0] == "[]":
        return any(_is_there(one, steps[1:]) for one in value)
    return any(_is_there(pair[steps[0] == "{}"], steps[1:]) for pair in value)
