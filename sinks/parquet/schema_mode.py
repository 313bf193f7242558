"""What files may do to the columns of a table, by `schema_mode=`: add to them (evolve), nothing at
all (freeze), or nothing, while what does not fit is kept beside them (rescue). One class each.

In the modes that fix the columns, a table's columns are those that were committed and those that
`schema=` declares. Before there are any, the first file whose rows are committed decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import InputRejected
from pipeline.model.settings import Widen
from sinks.parquet.partitions import check_partitions
from sinks.parquet.rescue import rescued
from sinks.parquet.row_batches import Part, as_one, joined
from sinks.parquet.table_spec import TableSpec
from sinks.values.columns import fit
from sinks.values.common_type import fixed_type, same_but_nulls
from sinks.values.extremes import NONE_WIDE, measured, wide_of, with_wide
from sinks.values.schema import RESCUED, checked, decode, encode, unify, unify_encoded

if TYPE_CHECKING:
    import pyarrow as pa

FROZEN = 'declare it in schema=, or choose schema_mode="evolve" or "rescue", and retry the file'


class Evolve:
    """Files add columns, and widen types as far as `widen=` allows.

    Also what the other modes have in common. `schema`: the table's columns so far, None before
    there are any.
    """

    def __init__(self, spec: TableSpec, schema: pa.Schema | None = None) -> None:
        self._spec = spec
        self.declared: pa.Schema | None = None
        if spec.declared is not None:
            self.declared = with_wide(checked(spec.declared), NONE_WIDE)
        self._types = {f.name: f.type for f in self.declared} if self.declared is not None else {}
        self.schema: pa.Schema | None = schema if schema is not None else self.declared
        self.own: pa.Schema | None = None
        """The columns of the source at hand alone, as far as it has come."""

    def settled(self, before: str | None, new: str) -> str:
        """The table's columns with those of a receipt added.

        Raises InputRejected where an attempt took the table for another.
        """
        return unify_encoded(before, new, widen=self._spec.widen, table=self._spec.name)

    def together(self, parts: list[Part]) -> tuple[pa.Table, pa.Schema]:
        """Rows of several sources as they are to be stored, and the table's columns with theirs.

        Raises InputRejected where they do not fit.
        """
        table = self._table(parts)
        new, spec = self._with_extremes(table), self._spec
        schema = unify(self.schema, new, widen=spec.widen, table=spec.name)
        return fit(table, schema), schema

    def alone(self, parts: list[Part], before: pa.Schema | None) -> tuple[pa.Table, pa.Schema]:
        """The same for rows of one source.

        Its rows so far make its own columns, and those change what was `before` it: so it does not
        matter in how many goes it comes.
        """
        table = self._table(parts)
        own = self._own_with(table)
        if before is None:
            schema = self._first(own)
        else:
            schema = unify(before, own, widen=self._spec.widen, table=self._spec.name)
        return fit(table, schema), schema

    def _table(self, parts: list[Part]) -> pa.Table:
        table = joined(parts, self._types, texts=self._spec.widen == "string")
        checked(table.schema)
        check_partitions(table, self._spec.partition_by)
        return table

    def _with_extremes(self, table: pa.Table) -> pa.Schema:
        known = wide_of(self.schema) if self.schema is not None else NONE_WIDE
        return with_wide(table.schema, measured(table, known))

    def _own_with(self, table: pa.Table) -> pa.Schema:
        """The columns of the source at hand, with those of further rows of it."""
        new, widen = with_wide(table.schema, measured(table)), self._spec.widen
        if self.own is not None:
            within: Widen = "float" if widen == "none" else widen
            label = f"{self._spec.name}, earlier in this file,"
            new = unify(self.own, new, widen=within, table=label)
        self.own = new
        return new

    def _first(self, own: pa.Schema) -> pa.Schema:
        """The columns of a table whose first rows have these, beside what is declared."""
        found = own
        if self.declared is not None:
            found = unify(found, self.declared, widen="none", table=self._spec.name)
        return found


class Freeze(Evolve):
    """The columns are fixed; a file with others, or with values that do not fit, is at fault."""

    def settled(self, before: str | None, new: str) -> str:
        """See Evolve."""
        if before is None and self._spec.declared is None:
            return super().settled(before, new)
        if before == new:
            return new
        name = self._spec.name
        base = self._first(self._committed(decode(before) if before is not None else None))
        both = decode(unify_encoded(encode(base), new, widen="none", table=name))
        _require_settled(base, both, name)
        return encode(both)

    def together(self, parts: list[Part]) -> tuple[pa.Table, pa.Schema]:
        """See Evolve."""
        table = self._table(parts)
        schema = self._fixed(self._base(), self._with_extremes(table))
        try:
            return fit(table, schema), schema
        except InputRejected as error:
            raise InputRejected(f"{error}{self._way_out()}") from None

    def alone(self, parts: list[Part], before: pa.Schema | None) -> tuple[pa.Table, pa.Schema]:
        """See Evolve. The first rows of all decide."""
        return super().alone(parts, before) if before is None else self.together(parts)

    def _way_out(self) -> str:
        return f": {FROZEN}"

    def _base(self) -> pa.Schema:
        """The columns that a file may have.

        Raises InputRejected where the declaration contradicts what is committed.
        """
        return self._first(self._committed(self.schema))

    @staticmethod
    def _committed(schema: pa.Schema | None) -> pa.Schema:
        import pyarrow as pa

        return schema if schema is not None else with_wide(pa.schema([]), NONE_WIDE)

    def _fixed(self, base: pa.Schema, new: pa.Schema) -> pa.Schema:
        """The table's columns, where each of `new` is one of them and of its kind; what had only
        nulls so far gets its type.

        Raises InputRejected that names the column and both types.
        """
        import pyarrow as pa

        types = {field.name: field.type for field in base}
        for field in new:
            types[field.name] = self._fixed_type(types.get(field.name), field)
        fields = [pa.field(name, kind) for name, kind in types.items()]
        return with_wide(pa.schema(fields), wide_of(base) | wide_of(new))

    def _fixed_type(self, known: pa.DataType | None, field: pa.Field) -> pa.DataType:
        name = self._spec.name
        if known is None:
            raise InputRejected(
                f"column {field.name!r} ({field.type}) is not in table {name}, which is frozen:"
                f" {FROZEN}"
            )
        kind = fixed_type(known, field.type)
        if kind is not None:
            return kind
        if field.name not in self._types:
            raise InputRejected(
                f"column {field.name!r} is {field.type}, but in table {name}, which is"
                f" frozen, it is {known}: {FROZEN}"
            )
        return known  # its values are cast, or the file is at fault


class Rescue(Freeze):
    """The columns are fixed; what does not fit them goes, as JSON, into the column `_rescued`."""

    def together(self, parts: list[Part]) -> tuple[pa.Table, pa.Schema]:
        """See Evolve."""
        try:
            return super().together(parts)
        except InputRejected:
            return self._rescued(parts)

    def alone(self, parts: list[Part], before: pa.Schema | None) -> tuple[pa.Table, pa.Schema]:
        """See Evolve."""
        if before is not None:
            return self.together(parts)
        try:
            return super().alone(parts, None)
        except InputRejected:
            return self._first_rescued(parts)

    def _way_out(self) -> str:
        return ""

    def _first(self, own: pa.Schema) -> pa.Schema:
        import pyarrow as pa

        found = super()._first(own)
        return found if RESCUED in found.names else found.append(pa.field(RESCUED, pa.string()))

    def _rescued(self, parts: list[Part]) -> tuple[pa.Table, pa.Schema]:
        base = self._base()
        table = self._made_to_fit(parts, base, may_add=False)
        new = with_wide(table.schema, measured(table))
        return table, unify(base, new, widen="none", table=self._spec.name)

    def _first_rescued(self, parts: list[Part]) -> tuple[pa.Table, pa.Schema]:
        """Rows of the first source that contradict each other: its columns are those that came."""
        table = self._made_to_fit(parts, self._first(self._committed(self.own)), may_add=True)
        new = with_wide(table.schema, measured(table))
        new = new.remove(new.get_field_index(RESCUED))
        if self.own is not None:
            new = unify(self.own, new, widen="none", table=self._spec.name)
        self.own = new
        return table, self._first(new)

    def _made_to_fit(self, parts: list[Part], base: pa.Schema, *, may_add: bool) -> pa.Table:
        table = rescued(as_one(parts), base, self._types, may_add=may_add)
        missing = [name for name in self._spec.partition_by if name not in table.column_names]
        if missing:
            raise InputRejected(
                f"the values of column {missing[0]!r}, by which the table is partitioned, do not"
                " fit it"
            )
        check_partitions(table, self._spec.partition_by)
        return table


def _require_settled(base: pa.Schema, both: pa.Schema, table: str) -> None:
    """Raises InputRejected where `both` is more than `base` with types for what had none."""
    for field in both:
        known = base.field(field.name).type if field.name in base.names else None
        if field.name != RESCUED and (known is None or not same_but_nulls(known, field.type)):
            raise InputRejected(
                f"column {field.name!r} is {field.type}, and the columns of table {table} are fixed"
            )


MODES = {"evolve": Evolve, "freeze": Freeze, "rescue": Rescue}


def columns_of(spec: TableSpec, schema: str | None = None) -> Evolve:
    """The table's columns, and what files may do to them. schema: as committed so far."""
    return MODES[spec.mode](spec, decode(schema) if schema is not None else None)
