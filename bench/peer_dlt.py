"""dlt on the same job: python peer_dlt.py KIND BUCKET (run by the peers' own interpreter)."""

import json
import os
import sys
from pathlib import Path

os.environ.update(
    RUNTIME__DLTHUB_TELEMETRY="false",
    RUNTIME__LOG_LEVEL="ERROR",
    EXTRACT__WORKERS="2",
    NORMALIZE__WORKERS="2",
    LOAD__WORKERS="2",
    DATA_WRITER__DISABLE_COMPRESSION="true",
)
sys.path.insert(0, str(Path(__file__).parent.parent))

import dlt
import duckdb
import pyarrow as pa
from dlt.sources.filesystem import filesystem

from bench.userfn import AGGREGATES, PARSERS

kind, bucket = sys.argv[1], Path(sys.argv[2]).absolute()
out = bucket / "dlt"


@dlt.transformer(name="rows", write_disposition="append")
def parse(items):
    rows = []
    for item in items:
        result = PARSERS[kind](item.read_bytes(), item["relative_path"])
        if isinstance(result, pa.Table):
            yield result
        else:
            rows += result if isinstance(result, list) else [result]
    if rows:
        yield pa.Table.from_pylist(rows)


page = {"logs": 500, "tiny": 5_000}.get(kind, 50)
files = filesystem(bucket_url=(bucket / "raw").as_uri(), file_glob="**/*.*", files_per_page=page)
files.apply_hints(incremental=dlt.sources.incremental("modification_date"))
job = dlt.pipeline(
    "bench",
    destination=dlt.destinations.filesystem((out / "data").as_uri()),
    dataset_name="d",
    pipelines_dir=str(out / "state"),
)
info = job.run((files | parse).with_name("rows"), loader_file_format="parquet")
if info.load_packages:
    source = f"read_parquet('{out}/data/d/rows/*.parquet')"
    totals = AGGREGATES[kind].format(table=source)
    duckdb.connect(config={"threads": 2}).execute(
        f"COPY ({totals}) TO '{out}/totals.parquet' (FORMAT parquet)"
    )
print(json.dumps({"loads": len(info.load_packages)}))
