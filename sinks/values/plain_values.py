"""Arrays in the plain forms that tables hold: no extensions or views, nothing out of range."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from sinks.values.casting import (
    Bent,
    cast_array,
    cast_leaf,
    list_of,
    map_of,
    require_range,
    struct_of,
)
from sinks.values.contract import inner, is_list, plain_type, refused_within

if TYPE_CHECKING:
    import pyarrow as pa


# -- plain types -----------------------------------------------------------------------------------


def plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column in the type that tables have for it (see `contract`).

    Raises Bent, pa.ArrowException.
    """
    import pyarrow as pa

    if is_plain(column.type):
        for chunk in column.chunks:
            require_range(chunk)
        return column
    chunks = [plain(chunk) for chunk in column.chunks]
    kinds = list(dict.fromkeys(chunk.type for chunk in chunks)) or [_static(column.type)]
    if len(kinds) > 1:  # nanoseconds in some of them
        chunks = [cast_array(chunk, _static(column.type)) for chunk in chunks]
        kinds = [_static(column.type)]
    return pa.chunked_array(chunks, kinds[0])


@functools.lru_cache(4096)
def is_plain(kind: pa.DataType) -> bool:
    """Whether values of this type are stored as they are."""
    import pyarrow.types as pt

    fine = (pt.is_timestamp(kind) or pt.is_time(kind)) and kind.unit == "ns"
    if fine or isinstance(kind, _extension()) or not kind.equals(plain_type(kind)):
        return False
    return all(is_plain(child) for _, child in inner(kind))


def _extension() -> Any:
    import pyarrow as pa

    return pa.BaseExtensionType


def _static(kind: pa.DataType) -> pa.DataType:
    found = plain_type(kind)
    if found is None:
        _, named, way_out = refused_within("", kind) or ("", str(kind), "")
        raise Bent(f"has type {named}, which tables do not hold: {way_out}")
    return found


def plain(array: pa.Array) -> pa.Array:
    """One array in the type that tables have for it: nanoseconds only where a value has some.

    Raises Bent, pa.ArrowException.
    """
    import pyarrow.types as pt

    kind = array.type
    if isinstance(kind, _extension()):
        return _plain_extension(array)
    if pt.is_dictionary(kind):
        return plain(array.dictionary).take(array.indices)
    if pt.is_run_end_encoded(kind):
        import pyarrow.compute as pc

        return plain(pc.run_end_decode(array))
    if pt.is_struct(kind):
        return struct_of(
            [(f.name, plain(child)) for f, child in zip(kind, array.flatten(), strict=True)], array
        )
    if pt.is_map(kind):
        return map_of(array, plain, plain)
    if is_list(kind):
        return list_of(array, plain)
    wanted = _static(kind)
    if (pt.is_timestamp(kind) or pt.is_time(kind)) and kind.unit == "ns":
        array = _coarser(array)
    elif not kind.equals(wanted):
        array = cast_leaf(array, wanted)
    require_range(array)
    return array


def _plain_extension(array: pa.Array) -> pa.Array:
    import uuid

    import pyarrow as pa

    if _static(array.type).equals(pa.string()) and array.type.extension_name == "arrow.uuid":
        found = array.storage.to_pylist()
        return pa.array(
            [None if one is None else str(uuid.UUID(bytes=one)) for one in found], pa.string()
        )
    if array.type.extension_name == "arrow.bool8":
        return array.storage.cast(pa.bool_())
    return plain(array.storage)


def _coarser(array: pa.Array) -> pa.Array:
    """Nanoseconds as microseconds, where no value has any; times with a zone as instants."""
    import pyarrow as pa
    import pyarrow.types as pt

    named = _static(array.type)
    if pt.is_timestamp(named):
        array = array.cast(named)
    micro = pa.time64("us") if pt.is_time(named) else pa.timestamp("us", named.tz)
    try:
        return array.cast(micro)
    except pa.ArrowInvalid:
        return array
