"""Pathway on the tiny files: python peer_pathway.py BUCKET (run by the peers' own interpreter).

Reads each file once, keeps what it has read in its own persistence, and writes rows as JSON lines.
"""

import json
import sys
from pathlib import Path

import pathway as pw

bucket = Path(sys.argv[1]).absolute()
out = bucket / "pathway"
out.mkdir(exist_ok=True)


def rows(data: bytes) -> str:
    return json.dumps({"bytes": len(data)})


files = pw.io.fs.read(
    str(bucket / "raw"), format="binary", mode="static", with_metadata=True, name="files"
)
found = files.select(row=pw.apply_with_type(rows, str, pw.this.data))
pw.io.jsonlines.write(found, str(out / f"rows-{len(list(out.iterdir())):05}.jsonl"))
backend = pw.persistence.Backend.filesystem(str(out / "state"))
pw.run(monitoring_level=pw.MonitoringLevel.NONE, persistence_config=pw.persistence.Config(backend))
