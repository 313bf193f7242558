"""Daft on the same job: python peer_daft.py KIND BUCKET (run by the peers' own interpreter).

It keeps no state.
"""

import json
import os
import sys
from pathlib import Path

os.environ.update(DAFT_PROGRESS_BAR="0", DAFT_ANALYTICS_ENABLED="0", DO_NOT_TRACK="1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import daft
import duckdb
from daft import DataType, col

from bench.userfn import AGGREGATES, PARSERS

kind, bucket = sys.argv[1], Path(sys.argv[2]).absolute()
out = bucket / "daft"
TYPES = {
    "ts": DataType.timestamp("us"),
    "user_id": DataType.int64(),
    "kind": DataType.string(),
    "amount": DataType.float64(),
    "country": DataType.string(),
    "name": DataType.string(),
}


@daft.func(return_dtype=DataType.struct(TYPES))
def parsed(path: str, data: bytes):
    yield from PARSERS[kind](data, path)


files = daft.from_glob_path(f"{bucket}/raw/**/*.jsonl").select("path")
files = files.with_column("data", daft.functions.download(col("path")))
rows = files.select(parsed(col("path"), col("data")).alias("row")).select(
    daft.functions.unnest(col("row"))
)
rows.write_parquet(str(out / "data"), compression="zstd")
source = f"read_parquet('{out}/data/**/*.parquet')"
totals = AGGREGATES[kind].format(table=source)
duckdb.connect(config={"threads": 2}).execute(
    f"COPY ({totals}) TO '{out}/totals.parquet' (FORMAT parquet)"
)
print(json.dumps({"done": True}))
