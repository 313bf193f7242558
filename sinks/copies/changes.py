"""What a target must do to follow the table from one snapshot to another.

Pure: nothing is read but the two snapshots.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.model.snapshot import Output, Snapshot, dead_rows
from sinks.copies.change import Change, Mark
from sinks.values.schema import PROVENANCE, decode

if TYPE_CHECKING:
    import pyarrow as pa


def mark_of(snapshot: Snapshot) -> Mark:
    """The mark of a target that holds this snapshot."""
    return Mark(getattr(snapshot, "generation", 0), snapshot.sequence)


def columns_of(snapshot: Snapshot) -> pa.Schema:
    """The main table's columns that have a type, provenance last."""
    import pyarrow as pa
    import pyarrow.types as pt

    from sinks.values.contract import outside_type

    fields = (
        []
        if snapshot.schema is None
        else [f for f in decode(snapshot.schema) if not pt.is_null(f.type)]
    )
    provenance = [pa.field(name, pa.string()) for name in PROVENANCE]
    return pa.schema([*(pa.field(f.name, outside_type(f.type)) for f in fields), *provenance])


def changes_between(
    old: Snapshot | None, new: Snapshot, definitions: Mapping[str, str], over: Mark | None
) -> Change:
    """The change from `old` to `new`; everything where `old` is None.

    definitions: the fingerprint of each declared aggregate. over: what the target holds.
    """
    if old is None:
        return Change(
            pipeline=new.pipeline,
            mark=mark_of(new),
            over=over,
            whole=True,
            schema=columns_of(new),
            before=None,
            added=dict(new.outputs),
            aggregates=tuple(definitions),
        )
    return _change_from(old, new, definitions, over)


def _change_from(
    old: Snapshot, new: Snapshot, definitions: Mapping[str, str], over: Mark | None
) -> Change:
    shrunk = _shrunk(old, new)
    return Change(
        pipeline=new.pipeline,
        mark=mark_of(new),
        over=over,
        whole=False,
        schema=columns_of(new),
        before=columns_of(old),
        added=_only_in(new, old),
        vanished=_only_in(old, new),
        shrunk={name: new.outputs[name] for name in shrunk},
        gone=sorted(pair for name in shrunk for pair in _lost(name, old, new)),
        aggregates=_changed_aggregates(old, new, definitions),
        dropped=tuple(name for name in old.aggregates if name not in definitions),
    )


def _only_in(one: Snapshot, other: Snapshot) -> dict[str, Output]:
    return {name: output for name, output in one.outputs.items() if name not in other.outputs}


def _shrunk(old: Snapshot, new: Snapshot) -> list[str]:
    """The outputs that lost rows."""
    return [
        name
        for name, output in new.outputs.items()
        if name in old.outputs and _has_shrunk(name, old.outputs[name], output)
    ]


def _lost(output: str, old: Snapshot, new: Snapshot) -> set[tuple[str, str]]:
    """Rows that the output had and does not count any more."""
    before, now = (set(dead_rows(output, one.outputs[output])) for one in (old, new))
    return now - before


def _has_shrunk(name: str, old: Output, new: Output) -> bool:
    return len(dead_rows(name, new)) > len(dead_rows(name, old))


def _changed_aggregates(
    old: Snapshot, new: Snapshot, definitions: Mapping[str, str]
) -> tuple[str, ...]:
    return tuple(name for name, text in definitions.items() if not _is_same(old, new, name, text))


def _is_same(old: Snapshot, new: Snapshot, name: str, definition: str) -> bool:
    """Whether an aggregate's table is the same at both: the same file, which followed from the rows
    at either.
    """
    before, now = old.aggregates.get(name), new.aggregates.get(name)
    settled = not any(s.changes.added or s.changes.gone or s.changes.everything for s in (old, new))
    return (
        settled
        and before is not None
        and now is not None
        and before.key == now.key
        and now.definition == definition
    )
