"""Files through the writer, in groups, and read back through the views of SQL."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import InputRejected
from pipeline.model.receipt import MAIN_TABLE, OutputFile
from pipeline.model.settings import Widen
from sinks.parquet.schema_mode import columns_of
from sinks.parquet.table_spec import TableSpec
from sinks.parquet.writer import AttemptWriter
from sinks.query.object_files import LocalFiles
from sinks.query.warehouse import Warehouse
from sinks.values.schema import decode
from tests.values.arrow_types import comparable
from tests.values.model import OWN

Outcome = tuple[set[int], "pa.Schema | None", dict[int, list[dict[str, Any]]]]


def written(
    files: list[Any], groups: list[list[int]], widen: Widen = "float", **spec: Any
) -> Outcome:
    """The files that were set aside, the table's schema, and the rows of each file as a query shows
    them.

    Each group is one attempt, on the table as the groups before left it.
    """
    with tempfile.TemporaryDirectory() as folder:
        bad, schema, outputs = _attempts(Path(folder), files, groups, widen, spec)
        rows: dict[int, list[dict[str, Any]]] = {i: [] for i in range(len(files)) if i not in bad}
        for table in _read(folder, schema, outputs):
            for row in pylist(table):
                i = int(str(row["_source_key"]))
                if i in rows:
                    rows[i].append({name: value for name, value in row.items() if name not in OWN})
    return set(bad), decode(schema) if schema is not None else None, rows


def read_back(files: list[Any], widen: Widen = "float") -> pa.Table:
    """The rows of files that are all kept, each its own attempt, in order."""
    with tempfile.TemporaryDirectory() as folder:
        bad, schema, outputs = _attempts(
            Path(folder), files, [[i] for i in range(len(files))], widen, {}
        )
        assert not bad, bad
        return pa.concat_tables(_read(folder, schema, outputs))


def _attempts(
    folder: Path, files: list[Any], groups: list[list[int]], widen: Widen, spec: dict[str, Any]
) -> tuple[dict[int, str], str | None, list[OutputFile]]:
    options: dict[str, Any] = {
        "name": "t",
        "output": "t/",
        "partition_by": (),
        "declared": None,
        "widen": widen,
        **spec,
    }
    schema, bad, outputs = None, dict[int, str](), []
    for number, group in enumerate(groups):
        task = f"{number:020}-000000"
        writer = AttemptWriter(
            TableSpec(**options), schema=schema, task=task, nonce="n", scratch=folder
        )
        for i in group:
            try:
                writer.add(i, str(i), "e", files[i])
            except InputRejected as error:
                bad[i] = str(error)
        result = writer.finish()
        bad |= result.problems
        for one in result.files:
            if one.file.table == MAIN_TABLE:
                path = folder / one.file.key
                path.parent.mkdir(parents=True, exist_ok=True)
                assert one.body is not None
                path.write_bytes(one.body)
                outputs.append(one.file)
        if result.schema is not None:
            schema = columns_of(TableSpec(**options)).settled(schema, result.schema)
    return bad, schema, outputs


def _read(folder: str, schema: str | None, outputs: list[OutputFile]) -> list[pa.Table]:
    with Warehouse(LocalFiles(folder), threads=1) as warehouse:
        warehouse.connection.execute("SET TimeZone = 'UTC'")
        return [
            warehouse.stream(scan).read_all()
            for scan in warehouse.scans(outputs, warehouse.columns(schema))
        ]


def pylist(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as dicts; in the form of `comparable` where Python has no such values."""
    try:
        return table.to_pylist()  # type: ignore[no-any-return]
    except (ValueError, OverflowError):  # years that Python has not
        return [
            {name: comparable(table.column(name)[i]) for name in table.column_names}
            for i in range(table.num_rows)
        ]
