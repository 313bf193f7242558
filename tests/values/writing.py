"""Files through the writer, in groups, and read back through the views of SQL."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import InputRejected
from pipeline.model import MAIN_TABLE
from pipeline.settings import Widen
from sinks.files import LocalFiles
from sinks.parquet import AttemptWriter, TableSpec
from sinks.schema import decode, unify_encoded
from sinks.warehouse import Warehouse
from tests.values.model import OWN


def written(
    files: list[Any], groups: list[list[int]], widen: Widen = "float", **spec: Any
) -> tuple[set[int], pa.Schema | None, dict[int, list[dict[str, Any]]]]:
    """The files that were set aside, the table's schema, and the rows of each file as a query shows them.

    Each group is one attempt, on the table as the groups before left it.
    """
    options: dict[str, Any] = {"name": "t", "output": "t/", "partition_by": (), "declared": None, "widen": widen, **spec}
    schema, bad, outputs = None, set[int](), []
    with tempfile.TemporaryDirectory() as folder:
        for number, group in enumerate(groups):
            task = f"{number:020}-000000"
            writer = AttemptWriter(TableSpec(**options), schema=schema, task=task, nonce="n", scratch=Path(folder))
            for i in group:
                try:
                    writer.add(i, str(i), "e", files[i])
                except InputRejected:
                    bad.add(i)
            result = writer.finish()
            bad |= set(result.problems)
            for one in result.files:
                if one.file.table == MAIN_TABLE:
                    path = Path(folder, one.file.key)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    assert one.body is not None
                    path.write_bytes(one.body)
                    outputs.append(one.file)
            if result.schema is not None:
                schema = unify_encoded(schema, result.schema, widen=widen, table="t")
        rows: dict[int, list[dict[str, Any]]] = {i: [] for i in range(len(files)) if i not in bad}
        with Warehouse(LocalFiles(folder), threads=1) as warehouse:
            warehouse.connection.execute("SET TimeZone = 'UTC'")
            wanted = warehouse.columns(schema)
            for scan in warehouse.scans(outputs, wanted):
                for row in warehouse.stream(scan).read_all().to_pylist():
                    i = int(row["_source_key"])
                    if i in rows:
                        rows[i].append({name: value for name, value in row.items() if name not in OWN})
    return bad, decode(schema) if schema is not None else None, rows
