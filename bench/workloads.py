"""The inputs: the same bytes on every machine, made once below bench/.work/."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

COUNTRIES = ("AT", "BR", "CL", "DE", "EG", "FR", "IN", "JP", "KE", "PT", "US", "ZA")
KINDS = ("open", "search", "basket", "buy", "return", "leave")
START = datetime(2026, 1, 1)  # noqa: DTZ001 - the timestamps in the files have no zone

SIZES = {"logs": 10_000, "csv": 400, "images": 1_500, "tiny": 100_000}


def log_file(i: int, *, broken: bool = False) -> bytes:
    """About 20 JSON lines, 4 KB."""
    rng = random.Random(f"log {i}")
    at = START + timedelta(hours=i % 500)
    lines = []
    for _ in range(rng.randrange(17, 24)):
        client = f"app/{rng.randrange(1, 30)}.{rng.randrange(10)}"
        event = {
            "ts": (at + timedelta(seconds=rng.randrange(3600))).isoformat(),
            "kind": rng.choice(KINDS),
            "user": {
                "id": rng.randrange(100_000),
                "country": rng.choice(COUNTRIES),
                "client": client,
            },
            "amount": rng.randrange(-2_000, 40_000) / 100,
            "labels": [rng.choice(KINDS), rng.choice(COUNTRIES)],
            "session": f"{rng.getrandbits(64):016x}",
        }
        lines.append(json.dumps(event))
    if broken:
        lines[len(lines) // 2] = lines[len(lines) // 2][:-20]
    return ("\n".join(lines) + "\n").encode()


def csv_file(i: int) -> bytes:
    """14,000 lines, about 1 MB."""
    rng = random.Random(f"csv {i}")
    out = io.StringIO("ts,user_id,kind,amount,country,session\n")
    out.seek(0, io.SEEK_END)
    day = START + timedelta(days=i % 20)
    for second in range(14_000):
        at = (day + timedelta(seconds=second)).isoformat()
        amount = rng.randrange(-2_000, 40_000) / 100
        out.write(
            f"{at},{rng.randrange(100_000)},{rng.choice(KINDS)},{amount:.2f},{rng.choice(COUNTRIES)},{rng.getrandbits(96):x}\n"
        )
    return out.getvalue().encode()


def image_file(i: int) -> bytes:
    """A 640 x 480 JPEG of about 60 KB."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(i)
    coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
    noise = rng.integers(0, 14, (480, 640, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(
        np.clip(np.asarray(picture).astype(np.int16) + noise, 0, 255).astype(np.uint8)
    ).save(out, "JPEG", quality=85)
    return out.getvalue()


def tiny_file(i: int) -> bytes:
    """One JSON line of about 200 bytes."""
    return log_file(i).split(b"\n", 1)[0] + b"\n"


MAKERS: dict[str, Callable[[int], bytes]] = {
    "logs": log_file,
    "csv": csv_file,
    "images": image_file,
    "tiny": tiny_file,
}


def name_of(kind: str, i: int) -> str:
    """A file's name; many directories, as in real buckets."""
    return {
        "logs": f"{(START + timedelta(hours=i % 500)):%Y/%m/%d/%H}/{i:06}.jsonl",
        "csv": f"{i:05}.csv",
        "images": f"{i % 30:02}/{i:05}.jpg",
        "tiny": f"{i // 1000:03}/{i:06}.jsonl",
    }[kind]


def _write(folder: Path, kind: str, i: int) -> None:
    path = folder / name_of(kind, i)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(MAKERS[kind](i))


def bucket(work: Path, kind: str, count: int) -> Path:
    """A bucket directory whose `raw/` holds the first `count` files of a kind."""
    root = work / f"{kind}-{count}"
    if not (root / "made").exists():
        shutil.rmtree(root, ignore_errors=True)
        (root / "raw").mkdir(parents=True)
        with ProcessPoolExecutor() as pool:
            list(pool.map(partial(_write, root / "raw", kind), range(count), chunksize=50))
        (root / "made").touch()
    return root


def break_some(root: Path, count: int, broken: int) -> None:
    """Cut a line in `broken` of the first `count` log files."""
    for i in range(0, count, count // broken):
        (root / "raw" / name_of("logs", i)).write_bytes(log_file(i, broken=True))


def fix(root: Path, count: int, broken: int) -> None:
    """Undo `break_some`."""
    for i in range(0, count, count // broken):
        (root / "raw" / name_of("logs", i)).write_bytes(log_file(i))
