"""Python's values as arrays of a type that a pipeline declares."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from sinks.values.casting import Bent
from sinks.values.python_values import PLAIN, How, Mixed, Values, lists, null_mask, of_each_kind

if TYPE_CHECKING:
    import pyarrow as pa


def declared_array(values: Values, kind: pa.DataType, how: How = PLAIN) -> pa.Array:
    """The values in a declared type, one by one: of each what its own kind says.

    Raises as `array_of` does.
    """
    import pyarrow.types as pt

    if pt.is_list(kind) and any(isinstance(value, list | tuple) for value in values):
        return lists(values, lambda inner: declared_array(inner, kind.value_type, how.within()))
    if (
        pt.is_struct(kind)
        and kind.num_fields
        and any(isinstance(value, Mapping) for value in values)
    ):
        return _structs(values, kind, how)
    if pt.is_map(kind):
        return _maps(values, kind, how)
    return of_each_kind(values, kind, how)


def _structs(values: Values, kind: pa.DataType, how: How) -> pa.Array:
    import pyarrow as pa

    wrong = next((v for v in values if v is not None and not isinstance(v, Mapping)), None)
    if wrong is not None:
        raise Mixed({}, wrong)
    known = {field.name for field in kind}
    extra = next(
        (name for v in values if v for name in v if name not in known and v[name] is not None), None
    )
    if extra is not None:
        raise Bent(f"has a field {extra!r}, which its declared type lacks")
    children = [
        declared_array(
            [None if v is None else v.get(field.name) for v in values], field.type, how.within()
        )
        for field in kind
    ]
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=null_mask(values))


def _maps(values: Values, kind: pa.DataType, how: How) -> pa.Array:
    """From dicts, or from lists of pairs."""
    import pyarrow as pa

    pairs: list[list[Any] | None] = []
    for value in values:
        if value is None:
            pairs.append(None)
        elif isinstance(value, Mapping):
            pairs.append(list(value.items()))
        elif isinstance(value, list | tuple) and all(
            isinstance(one, list | tuple) and len(one) == 2 for one in value
        ):
            pairs.append([tuple(one) for one in value])
        else:
            raise Mixed({}, value)
    flat = [pair for some in pairs if some for pair in some]
    starts = [0, *accumulate(len(some or ()) for some in pairs)]
    offsets = [
        None if some is None else start for some, start in zip([*pairs, []], starts, strict=True)
    ]
    names = declared_array([key for key, _ in flat], kind.key_type, how.within())
    items = declared_array([item for _, item in flat], kind.item_type, how.within())
    if names.null_count:
        raise Bent("has a map with a missing key")
    return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), names, items, kind)
