"""The user's functions, the same for every program measured: bytes of a file in, rows out.

Not tuned.
"""

from __future__ import annotations

import io
import json
from datetime import datetime
from typing import Any


def parse_log(data: bytes, name: str) -> list[dict[str, Any]]:
    """JSON lines to rows; raises on a broken line."""
    rows = []
    for line in data.splitlines():
        event = json.loads(line)
        user = event["user"]
        rows.append(
            {
                "ts": datetime.fromisoformat(event["ts"]),
                "user_id": int(user["id"]),
                "kind": event["kind"],
                "amount": float(event["amount"]),
                "country": user["country"],
                "name": name,
            }
        )
    return rows


def parse_csv(data: bytes, name: str) -> Any:
    """CSV to an Arrow table."""
    import pyarrow as pa
    import pyarrow.csv as pc

    kinds = {
        "ts": pa.timestamp("us"),
        "user_id": pa.int64(),
        "kind": pa.string(),
        "amount": pa.float64(),
        "country": pa.string(),
    }
    table = pc.read_csv(
        io.BytesIO(data),
        read_options=pc.ReadOptions(use_threads=False),
        convert_options=pc.ConvertOptions(include_columns=list(kinds), column_types=kinds),
    )
    return table.append_column("name", pa.array([name] * len(table), pa.string()))


def describe_image(data: bytes, name: str) -> dict[str, Any]:
    """An image's size, a coarse histogram, and mean brightness by region."""
    import numpy as np
    from PIL import Image

    picture = Image.open(io.BytesIO(data)).convert("RGB")
    pixels = np.asarray(picture)
    histogram = np.bincount((pixels >> 6).reshape(-1, 3) @ np.array([16, 4, 1]), minlength=64)
    small = np.asarray(picture.convert("L").resize((16, 16), Image.Resampling.LANCZOS))
    return {
        "name": name,
        "width": picture.width,
        "height": picture.height,
        "bytes": len(data),
        "histogram": histogram.tolist(),
        "regions": small.ravel().tolist(),
    }


PARSERS = {"logs": parse_log, "csv": parse_csv, "images": describe_image, "tiny": parse_log}

AGGREGATES = {
    "logs": (
        "SELECT country, strftime(ts, '%Y-%m-%d') AS day, round(sum(amount), 2) AS amount, count(*)"
        " AS n FROM {table} GROUP BY ALL"
    ),
    "images": "SELECT width, count(*) AS n, sum(bytes) AS bytes FROM {table} GROUP BY ALL",
}
AGGREGATES["csv"] = AGGREGATES["tiny"] = AGGREGATES["logs"]
BY = {
    "logs": {"country": "country", "day": "strftime(ts, '%Y-%m-%d')"},
    "images": {"width": "width"},
}
BY["csv"] = BY["tiny"] = BY["logs"]
