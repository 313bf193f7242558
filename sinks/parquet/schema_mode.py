"""What a pipeline lets files do to its table's columns: add to them (evolve), nothing at all
(freeze), or nothing, while what does not fit is kept beside them (rescue).

In the modes that fix the columns, a table's columns are those that were committed and those that
`schema=` declares. Before there are any, the first file whose rows are committed decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import InputRejected
from pipeline.model.settings import SchemaMode, Widen
from sinks.values.common_type import common_type
from sinks.values.extremes import NONE_WIDE, wide_of, with_wide
from sinks.values.schema import RESCUED, checked, decode, encode, unify, unify_encoded

if TYPE_CHECKING:
    import pyarrow as pa

FROZEN = 'declare it in schema=, or choose schema_mode="evolve" or "rescue", and retry the file'


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How one pipeline's table may change."""

    table: str
    mode: SchemaMode = "evolve"
    widen: Widen = "none"
    declared: pa.Schema | None = None

    def settled(self, before: str | None, new: str) -> str:
        """The table's columns with those of a receipt added.

        Raises InputRejected where an attempt took the table for another.
        """
        if self.mode == "evolve" or (before is None and self.declared is None):
            return unify_encoded(before, new, widen=self.widen, table=self.table)
        if before == new:
            return new
        base = self.base(decode(before) if before is not None else None)
        both = decode(unify_encoded(encode(base), new, widen="none", table=self.table))
        for field in both:
            known = base.field(field.name).type if field.name in base.names else None
            if field.name != RESCUED and (known is None or not same_but_nulls(known, field.type)):
                raise InputRejected(
                    f"column {field.name!r} is {field.type}, and the columns of table {self.table}"
                    " are fixed"
                )
        return encode(both)

    def base(self, before: pa.Schema | None) -> pa.Schema:
        """The columns that a file may have.

        Raises InputRejected where the declaration contradicts what is committed.
        """
        import pyarrow as pa

        found = before if before is not None else with_wide(pa.schema([]), NONE_WIDE)
        if self.declared is not None:
            found = unify(
                found, with_wide(checked(self.declared), NONE_WIDE), widen="none", table=self.table
            )
        if self.mode == "rescue" and RESCUED not in found.names:
            found = found.append(pa.field(RESCUED, pa.string()))
        return found

    def fixed(self, base: pa.Schema, new: pa.Schema) -> pa.Schema:
        """The table's columns, where each of `new` is one of them and of its kind; what had only
        nulls so far gets its type.

        Raises InputRejected that names the column and both types.
        """
        import pyarrow as pa

        types = {field.name: field.type for field in base}
        for field in new:
            known = types.get(field.name)
            if known is None:
                raise InputRejected(
                    f"column {field.name!r} ({field.type}) is not in table {self.table}, which is"
                    f" frozen: {FROZEN}"
                )
            kind = fixed_type(known, field.type)
            if kind is None:
                is_declared = self.declared is not None and field.name in self.declared.names
                if not is_declared:
                    what = (
                        f"column {field.name!r} is {field.type}, but in table {self.table}, which"
                        f" is frozen, it is {known}"
                    )
                    raise InputRejected(f"{what}: {FROZEN}")
                kind = known  # its values are cast, or the file is at fault
            types[field.name] = kind
        return with_wide(
            pa.schema([pa.field(name, kind) for name, kind in types.items()]),
            wide_of(base) | wide_of(new),
        )


def fixed_type(known: pa.DataType, new: pa.DataType) -> pa.DataType | None:
    """The type of a column that is not to change, where values of `new` may fit it: they are of its
    kind. A cast says if they do.

    Nulls within `known`, which say nothing yet, become what `new` has there. None for another kind,
    and for new fields of a struct.
    """
    import pyarrow as pa
    import pyarrow.types as pt

    if pt.is_null(new) or known.equals(new):
        return known
    if pt.is_null(known):
        return new
    if pt.is_struct(known) and pt.is_struct(new):
        return _fixed_struct(known, new)
    if pt.is_list(known) and pt.is_list(new):
        value = fixed_type(known.value_type, new.value_type)
        return None if value is None else pa.list_(value)
    if pt.is_map(known) and pt.is_map(new):
        key, item = (
            fixed_type(known.key_type, new.key_type),
            fixed_type(known.item_type, new.item_type),
        )
        return None if key is None or item is None else pa.map_(key, item)
    if pt.is_integer(known) and pt.is_integer(new):
        return known
    return known if common_type(known, new, "float") is not None else None


def _fixed_struct(known: pa.DataType, new: pa.DataType) -> pa.DataType | None:
    import pyarrow as pa

    fields = {field.name: field.type for field in known}
    for field in new:
        kind = fixed_type(fields[field.name], field.type) if field.name in fields else None
        if kind is None:
            return None
        fields[field.name] = kind
    return pa.struct([pa.field(name, kind) for name, kind in fields.items()])


def same_but_nulls(known: pa.DataType, kind: pa.DataType) -> bool:
    """Whether `kind` is `known` with nothing but types for what had none."""
    fixed = fixed_type(known, kind)
    return fixed is not None and fixed.equals(kind)
