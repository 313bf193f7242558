"""Rows that do not fit their table, made to fit: what does not goes, by its column's name, as JSON
into the column `_rescued`.

This is the slow way, taken only where the fast one found that something does not fit. Columns are
cut in two again and again until what fits is separated from what does not; so a few bad values
among many cost a few casts more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputRejected
from sinks.parquet.transform_results import Rows
from sinks.values.casting import cast_array, conversion_errors, struct_of
from sinks.values.common_type import fixed_type
from sinks.values.contract import is_hollow
from sinks.values.json_text import json_of, value_of, values_of
from sinks.values.plain_values import plain
from sinks.values.python_values import array_of
from sinks.values.schema import RESCUED, check_name, check_names

if TYPE_CHECKING:
    import pyarrow as pa

Loose = dict[int, Any]
"""Values that do not fit, by row."""


@dataclass(slots=True)
class _Column:
    """One column of the rows as it came: pieces of one type each, in order, and what no piece can
    hold.
    """

    pieces: list[pa.Array]
    loose: Loose = field(default_factory=dict)


def rescued(
    rows: Rows | pa.Table, base: pa.Schema, declared: Mapping[str, pa.DataType], *, may_add: bool
) -> pa.Table:
    """The rows with columns of `base` alone (and new ones, if they may be added), each in its type,
    and `_rescued` last.

    Values of declared columns are cast, text to numbers too; others have to be of the column's
    kind. Of a struct only the fields that do not fit are rescued; of a list all of it. Raises
    InputRejected for names that no column may have.
    """
    arrays: dict[str, pa.ChunkedArray] = {}
    left: dict[int, dict[str, Any]] = {}
    for name, array, loose in _sorted_out(rows, base, declared, may_add):
        if array is not None:
            arrays[name] = array
        _add_field(left, name, loose)
    return _with_rescued(arrays, left, len(rows))


def _with_rescued(
    arrays: Mapping[str, pa.ChunkedArray], left: Mapping[int, dict[str, Any]], rows: int
) -> pa.Table:
    """A table of these columns, and of what is left over of each row."""
    import pyarrow as pa

    check_names(pa.schema([pa.field(name, array.type) for name, array in arrays.items()]))
    texts = [json_of(left[row]) if row in left else None for row in range(rows)]
    return pa.table({**arrays, RESCUED: pa.array(texts, pa.string())})


def _sorted_out(
    rows: Rows | pa.Table, base: pa.Schema, declared: Mapping[str, pa.DataType], may_add: bool
) -> Iterator[tuple[str, pa.ChunkedArray | None, Loose]]:
    """Each column as the table has it, None where it has no such column; and what does not fit."""
    import pyarrow as pa

    known = {f.name: f.type for f in base if f.name != RESCUED}
    folded = {name.lower() for name in known}
    for name, column in _columns(rows):
        is_new = may_add and name.lower() not in folded
        kind = known.get(name, pa.null() if is_new else None)
        if kind is not None:
            folded.add(name.lower())
        yield name, _in_type(column, kind, casts=name in declared), column.loose


def _in_type(column: _Column, kind: pa.DataType | None, *, casts: bool) -> pa.ChunkedArray | None:
    if kind is None:
        _give_up(column.pieces, column.loose)
        return None
    kind = _learned(kind, column.pieces)
    return _fitted(column.pieces, kind, column.loose, casts=casts)


def _columns(rows: Rows | pa.Table) -> Iterator[tuple[str, _Column]]:
    if isinstance(rows, list):
        yield from _columns_of_dicts(rows)
        return
    if len(set(rows.column_names)) < rows.num_columns:
        raise InputRejected("there are two columns of one name: rename one")
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        check_name(name)
        yield name, _of_chunks(column.chunks)


def _columns_of_dicts(rows: Rows) -> Iterator[tuple[str, _Column]]:
    for name in dict.fromkeys(name for row in rows for name in row):
        if not isinstance(name, str):
            raise InputRejected(f"there is the column name {name!r}; expected text")
        check_name(name)
        yield name, _of_values([row.get(name) for row in rows])


def _of_values(values: Sequence[Any]) -> _Column:
    """Python values as arrays: as long as one type holds them."""
    import pyarrow as pa

    loose: Loose = {}

    def convert(first: int, end: int) -> pa.Array:
        return array_of(values[first:end])

    pieces = [*_split(convert, 0, len(values), loose, lambda row: values[row])]
    return _Column([piece if piece is not None else pa.nulls(1) for piece in pieces], loose)


def _of_chunks(chunks: Sequence[pa.Array]) -> _Column:
    """Arrow's arrays in plain types; those that tables do not hold, and texts that are no UTF-8,
    are taken value by value.
    """
    column, start = _Column([]), 0
    for chunk in chunks:
        own = _of_array(chunk)
        column.pieces += own.pieces
        column.loose |= {start + row: value for row, value in own.loose.items()}
        start += len(chunk)
    return column


def _of_array(array: pa.Array) -> _Column:
    import pyarrow as pa

    def convert(first: int, end: int) -> pa.Array:
        piece = array.slice(first, end - first)
        piece.validate(full=True)
        return plain(piece)

    loose: Loose = {}
    pieces = [*_split(convert, 0, len(array), loose, lambda row: value_of(array[row]))]
    return _Column([piece if piece is not None else pa.nulls(1) for piece in pieces], loose)


def _split(
    convert: Callable[[int, int], pa.Array],
    first: int,
    end: int,
    loose: Loose,
    value: Callable[[int], Any],
) -> Iterator[pa.Array | None]:
    """`convert` of [first, end), in pieces where it fails; None, and the value in `loose`, for a
    row with which it always does.
    """
    if first == end:
        return
    try:
        yield convert(first, end)
    except MemoryError:  # pyarrow's is an ArrowException too
        raise
    except conversion_errors():
        if end - first == 1:
            found = value(first)
            if found is not None:
                loose[first] = found
            yield None
            return
        middle = (first + end) // 2
        yield from _split(convert, first, middle, loose, value)
        yield from _split(convert, middle, end, loose, value)


def _learned(kind: pa.DataType, pieces: Sequence[pa.Array]) -> pa.DataType:
    """The column's type, with nulls in it replaced by what the pieces have there, the first that
    fits.
    """
    for piece in pieces:
        fixed = fixed_type(kind, piece.type)
        kind = kind if fixed is None else fixed  # a struct without fields is false
    return kind


def _fitted(
    pieces: Sequence[pa.Array], kind: pa.DataType, loose: Loose, *, casts: bool
) -> pa.ChunkedArray:
    import pyarrow as pa

    start, chunks = 0, []
    for piece in pieces:
        own: Loose = {}
        chunks.append(_fit(piece, kind, own, casts=casts))
        for row, value in own.items():
            loose[start + row] = value
        start += len(piece)
    return pa.chunked_array(chunks, kind)


def _fit(array: pa.Array, kind: pa.DataType, loose: Loose, *, casts: bool) -> pa.Array:
    """The array in the type `kind`, null where a value does not fit; those values in `loose`."""
    import pyarrow.types as pt

    if array.type.equals(kind):
        return array
    if pt.is_null(array.type) or is_hollow(array.type) or is_hollow(kind):
        return _split_cast(array, kind, loose)
    if pt.is_struct(array.type) and pt.is_struct(kind):
        return _fit_struct(array, kind, loose, casts=casts)
    if not casts and fixed_type(kind, array.type) is None:
        return _fit_other_kind(array, kind, loose)
    return _split_cast(array, kind, loose)


def _fit_other_kind(array: pa.Array, kind: pa.DataType, loose: Loose) -> pa.Array:
    """No value fits, but for lists that may hold some that do."""
    import pyarrow as pa
    import pyarrow.types as pt

    if pt.is_list(array.type) and pt.is_list(kind):
        return _fit_lists(array, kind, loose)
    _give_up([array], loose)
    return pa.nulls(len(array), kind)


def _split_cast(array: pa.Array, kind: pa.DataType, loose: Loose) -> pa.Array:
    """Each value that is the same in the other type."""
    import pyarrow as pa

    def convert(first: int, end: int) -> pa.Array:
        return cast_array(array.slice(first, end - first), kind)

    pieces = [*_split(convert, 0, len(array), loose, lambda row: value_of(array[row]))]
    return _together(
        [piece if piece is not None else cast_array(pa.nulls(1), kind) for piece in pieces], kind
    )


def _fit_struct(array: pa.StructArray, kind: pa.DataType, loose: Loose, *, casts: bool) -> pa.Array:
    """Field by field: what does not fit is rescued under its name, the other fields stay."""
    import pyarrow as pa

    came = {f.name: child for f, child in zip(array.type, array.flatten(), strict=True)}
    children = []
    for wanted in kind:
        own: Loose = {}
        child = came.pop(wanted.name, None)
        fitted = (
            pa.nulls(len(array), wanted.type)
            if child is None
            else _fit(child, wanted.type, own, casts=casts)
        )
        children.append((wanted.name, fitted))
        _add_field(loose, wanted.name, own)
    _rescue_unknown_fields(came, loose)
    return struct_of(children, array, list(kind))


def _rescue_unknown_fields(fields: Mapping[str, pa.Array], loose: Loose) -> None:
    import pyarrow.compute as pc

    for name, child in fields.items():
        rows = pc.indices_nonzero(child.is_valid()).to_pylist()
        _add_field(loose, name, {row: value_of(child[row]) for row in rows})


def _add_field(left: dict[int, Any], name: str, values: Loose) -> None:
    """To what is left over of each row, what it has under this name."""
    for row, value in values.items():
        left.setdefault(row, {})[name] = value


def _fit_lists(array: pa.ListArray, kind: pa.DataType, loose: Loose) -> pa.Array:
    """Lists one by one, from their values: one that has a value of another kind is rescued whole.

    Fields that are null in all structs of a list came from its neighbours, if from anywhere.
    """
    import pyarrow as pa

    fitted = []
    for row in range(len(array)):
        own: Loose = {}
        piece = array_of([_without_nulls(value_of(array[row]))])
        fits = fixed_type(kind, piece.type) is not None
        fitted += [_split_cast(piece, kind, own)] if fits else [pa.nulls(1, kind)]
        if own or not fits:
            loose[row] = value_of(array[row])
    return _together(fitted, kind)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _give_up(pieces: Sequence[pa.Array], loose: Loose) -> None:
    """All values of a column that the table does not have."""
    start = 0
    for piece in pieces:
        loose |= {
            row: value for row, value in enumerate(values_of(piece), start) if value is not None
        }
        start += len(piece)


def _together(pieces: Sequence[pa.Array], kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return pa.concat_arrays(pieces) if pieces else pa.nulls(0, kind)
