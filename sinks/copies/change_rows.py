"""The rows of a change, as Arrow record batches in bounded memory, from the same views that SQL is
answered from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pipeline.errors import SettingsError
from pipeline.model.settings import AggregateSettings
from pipeline.model.snapshot import Output, Snapshot
from pipeline.sql import quoting
from pipeline.sql.connection import UTC
from sinks.copies.change import Change
from sinks.query.dimensions import Dimension
from sinks.query.object_files import Files
from sinks.query.warehouse import Warehouse
from sinks.values.contract import plain_type

if TYPE_CHECKING:
    import pyarrow as pa

_NEW = "_tidemill_added"
_OLD = "_tidemill_vanished"
_GONE = "_tidemill_gone"
_ONE = "_tidemill_one"
_PAIR = "a._task = b._task AND a._source_key = b._source_key"


@dataclass(frozen=True, slots=True)
class Declared:
    """The pipeline's aggregates, and the fingerprint of each."""

    aggregates: Sequence[AggregateSettings]
    definitions: Mapping[str, str]
    dimensions: Sequence[Dimension] = ()

    @property
    def timezone(self) -> str:
        """The pipeline's."""
        return self.aggregates[0].timezone if self.aggregates else UTC

    def add_to(self, warehouse: Warehouse, snapshot: Snapshot) -> None:
        """A view for each. Raises SettingsError for one whose SQL does not work on
        this snapshot.
        """
        warehouse.add_dimensions(self.dimensions)
        warehouse.add_aggregates(snapshot, self.aggregates, dict(self.definitions))
        for name, reason in warehouse.broken.items():
            raise SettingsError(f"aggregate {name} of {snapshot.pipeline}: {reason}")


class Rows:
    """Reads what a change adds and removes.

    Use it as a context manager. Raises ObjectNotFound where a file is gone.
    """

    def __init__(
        self, files: Files, change: Change, old: Snapshot | None, new: Snapshot, declared: Declared
    ) -> None:
        self.snapshot = new
        self.declared = declared
        self._change = change
        self._warehouse = Warehouse(files, timezone=declared.timezone)
        self._warehouse.add_snapshot(msgspec.structs.replace(new, outputs=change.added), view=_NEW)
        if not change.whole and old is not None:
            # of rows that went only the names are needed: no schema, no columns
            self._warehouse.add_snapshot(
                msgspec.structs.replace(old, outputs=change.vanished, schema=None), view=_OLD
            )
        self._add_gone()
        if declared.aggregates:
            self._warehouse.add_snapshot(new)
            declared.add_to(self._warehouse, new)

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._warehouse.close()

    def _add_gone(self) -> None:
        """Rows of vanished outputs are gone, unless an added one holds them now (compaction moves
        rows as they are).
        """
        if self._change.whole:
            return
        listed = self._warehouse.add_table(_GONE + "_listed", _listed(self._change.gone))
        pairs = f"SELECT DISTINCT _task, _source_key FROM {_OLD}"
        kept = f"SELECT DISTINCT _task, _source_key FROM {_NEW}"
        vanished = f"{pairs} EXCEPT {kept}" if self._change.added else pairs
        self._warehouse.execute(
            f"CREATE TABLE {_GONE} AS SELECT * FROM {listed} UNION ({vanished})"
        )

    # -- reading -----------------------------------------------------------------------------------

    def fresh(self, select: str) -> pa.RecordBatchReader:
        """Rows that the target does not hold yet. select: the columns, or expressions over them."""
        if not self._change.vanished:
            return self._stream(f"SELECT {select} FROM {_NEW}")
        known = f"SELECT DISTINCT _task, _source_key FROM {_OLD}"
        return self._stream(
            f"SELECT {select} FROM {_NEW} a WHERE NOT EXISTS (SELECT 1 FROM ({known}) b WHERE"
            f" {_PAIR})"
        )

    def gone(self, select: str = "_task, _source_key") -> pa.RecordBatchReader:
        """`_task` and `_source_key` of the rows that the target holds and must not."""
        return self._stream(f"SELECT {select} FROM {_GONE}")

    def has_gone(self) -> bool:
        """Whether there are any."""
        return (
            not self._change.whole
            and self._warehouse.query(f"SELECT 1 FROM {_GONE} LIMIT 1").num_rows > 0
        )

    def of_output(self, output_id: str, output: Output, select: str) -> pa.RecordBatchReader:
        """The live rows of one output."""
        self._warehouse.add_snapshot(
            msgspec.structs.replace(self.snapshot, outputs={output_id: output}), view=_ONE
        )
        return self._stream(f"SELECT {select} FROM {_ONE}")

    def aggregate(self, name: str, select: str) -> pa.RecordBatchReader:
        """An aggregate's rows."""
        return self._stream(f"SELECT {select} FROM {quoting.name(name)}")

    def aggregate_schema(self, name: str) -> pa.Schema:
        """An aggregate's columns."""
        import pyarrow as pa

        found = self._stream(f"SELECT * FROM {quoting.name(name)} LIMIT 0").schema
        return pa.schema(
            [pa.field(field.name, plain_type(field.type) or pa.string()) for field in found]
        )

    def _stream(self, select: str) -> pa.RecordBatchReader:
        return self._warehouse.stream(select)


def _listed(gone: Sequence[tuple[str, str]]) -> pa.Table:
    import pyarrow as pa

    tasks = pa.array([task for task, _ in gone], pa.string())
    keys = pa.array([key for _, key in gone], pa.string())
    return pa.table({"_task": tasks, "_source_key": keys})
