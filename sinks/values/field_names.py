"""Names of columns and of fields within them: what a name may be, and which two are one to SQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import InputRejected
from sinks.values.contract import inner

if TYPE_CHECKING:
    import pyarrow as pa


# -- names -----------------------------------------------------------------------------------------


def folded(name: str) -> str:
    """Equal for names that DuckDB takes for one."""
    return name.lower()


Steps = tuple[str, ...]
"""The way to a field: the column, then a name for a struct, `[]` for a list, `{key}` and `{}` for a
map.
"""


class NameConflict(NamedTuple):
    """Why SQL cannot name a field, or tell it from one before it, and what to do."""

    why: str
    way_out: str


def name_conflicts(schema: pa.Schema) -> dict[Steps, NameConflict]:
    """What is wrong with names of columns, and of fields at any depth.

    No recursion: types may be deeper than calls.
    """
    found: dict[Steps, NameConflict] = {}
    waiting: list[tuple[Steps, Iterable[pa.Field]]] = [((), schema)]
    for at, fields in waiting:  # grows meanwhile
        seen: dict[str, str] = {}
        for field in fields:
            name = field.name
            conflict = _conflict(at, name, seen.get(folded(name)))
            if conflict is not None:
                found[*at, name] = conflict
            else:
                seen[folded(name)] = name
                waiting += _structs_within((*at, name), field.type)
    return found


def _conflict(at: Steps, name: str, other: str | None) -> NameConflict | None:
    """other: one before it that is the same to SQL."""
    unsayable = _unsayable(name, f"a field of column {path_of(at)!r}" if at else "a column")
    if unsayable:
        return NameConflict(unsayable, "rename it")
    if other is not None:
        return NameConflict(_same_name(at, other, name), "rename one")
    return None


def _structs_within(at: Steps, kind: pa.DataType) -> Iterator[tuple[Steps, pa.DataType]]:
    import pyarrow.types as pt

    waiting = [(at, kind)]
    while waiting:
        steps, one = waiting.pop()
        if pt.is_struct(one):
            yield steps, one
        else:
            waiting += [((*steps, step), child) for step, child in inner(one)]


def check_field_name(name: str, what: str) -> None:
    """Raises InputRejected for a name that DuckDB cannot say. what: of a column, or of a field
    within one.
    """
    unsayable = _unsayable(name, what)
    if unsayable:
        raise InputRejected(f"{unsayable}: rename it")


def _unsayable(name: str, what: str) -> str:
    if not name:
        return f"there is {what} without a name"
    if "\0" in name:
        return f"there is {what} with a NUL character in its name ({name!r})"
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"there is {what} whose name is no text ({name!r})"
    return ""


def _same_name(at: Steps, known: str, name: str) -> str:
    if not at:
        return f"columns {known!r} and {name!r} have the same name (names ignore case)"
    if known == name:
        return f"column {path_of(at)!r} has two fields named {name!r}"
    return differs_in_case(path_of(at), known, name)


def differs_in_case(where: str, known: str, name: str) -> str:
    """What is said of two fields of one struct that DuckDB takes for one."""
    return (
        f"column {where!r} has the fields {known!r} and {name!r}, which SQL cannot tell apart"
        " (names ignore case)"
    )


def path_of(steps: Steps) -> str:
    """As it is written in messages: `a.b`, `a[].b`."""
    text = steps[0] if steps else ""
    for step in steps[1:]:
        text += step if step in ("[]", "{key}", "{}") else f".{step}"
    return text


def without(schema: pa.Schema, fields: Mapping[Steps, object]) -> pa.Schema:
    """The schema without these fields."""
    import pyarrow as pa

    kept = [
        (field.name, _without((field.name,), field.type, fields))
        for field in schema
        if (field.name,) not in fields
    ]
    return pa.schema([pa.field(name, kind) for name, kind in kept])


def _without(at: Steps, kind: pa.DataType, fields: Mapping[Steps, object]) -> pa.DataType:
    import pyarrow as pa
    import pyarrow.types as pt

    if pt.is_struct(kind):
        kept = [f for f in kind if (*at, f.name) not in fields]
        return pa.struct([pa.field(f.name, _without((*at, f.name), f.type, fields)) for f in kept])
    if pt.is_list(kind):
        return pa.list_(_without((*at, "[]"), kind.value_type, fields))
    if pt.is_map(kind):
        return pa.map_(
            _without((*at, "{key}"), kind.key_type, fields),
            _without((*at, "{}"), kind.item_type, fields),
        )
    return kind
