"""Files made to break what reads them, through a user's ordinary code: each is set aside by name,
the others are committed.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.helpers import Project

MEMORY_MB = 400
SOURCE = f"""
import csv, gzip, io, json, zipfile
from pipeline import Pipeline

p = Pipeline("p", source="up/")
csv.field_size_limit(131072)
LIMITS = dict(memory_mb={MEMORY_MB}, timeout_s=600, max_attempts=1)

@p.transform(match="*.json", **LIMITS)
def documents(obj):
    value = json.loads(obj.read())
    return [{{"n": 1, "text": json.dumps(value)[:50]}}]

@p.transform(match="*.csv", **LIMITS)
def lines(obj):
    for row in csv.DictReader(obj.lines()):
        yield {{"n": 1, "text": row["a"][:50]}}

@p.transform(match="*.pandas", **LIMITS)
def frames(obj):
    import pandas
    return [{{"n": len(pandas.read_csv(obj.open())), "text": "frame"}}]

@p.transform(match="*.parquet", **LIMITS)
def tables(obj):
    import pyarrow.parquet as pq
    table = pq.read_table(obj.open())
    return [{{"n": table.num_rows, "text": str(table.column_names)[:50]}}]

@p.transform(match="*.gz", **LIMITS)
def unzipped(obj):
    return [{{"n": len(gzip.decompress(obj.read())), "text": "gz"}}]

@p.transform(match="*.zip", **LIMITS)
def members(obj):
    held = []
    with zipfile.ZipFile(obj.open()) as archive:
        for name in archive.namelist():
            held.append(archive.read(name))
    return [{{"n": sum(map(len, held)), "text": "zip"}}]

@p.transform(match="*.png", **LIMITS)
def pictures(obj):
    from PIL import Image
    Image.MAX_IMAGE_PIXELS = None
    image = Image.open(obj.open())
    image.load()
    return [{{"n": image.width, "text": "png"}}]

@p.transform(match="*.shape", **LIMITS)
def shapes(obj):
    n, value = int(obj.read()), 1
    if n > 1000:
        return [{{f"c{{i}}": i for i in range(n)}}]
    for _ in range(n):
        value = [value]
    return [{{"n": n, "text": "shape", "deep": value}}]

@p.transform(match="*.bin", **LIMITS)
def whole(obj):
    return [{{"n": len(obj.read()), "text": "bin"}}]
"""


def parquet(rows: int = 1000) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"a": list(range(rows))}), out)
    return out.getvalue()


def lying_rows() -> bytes:
    """A footer that says 2^31 - 1 values where there are 1,000: the number, as thrift writes it, in
    every place.
    """

    def varint(n: int) -> bytes:
        n, out = n << 1, b""
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])

    body, size = parquet(), struct.unpack("<I", parquet()[-8:-4])[0]
    footer = body[-8 - size : -8].replace(varint(1000), varint(2**31 - 1))
    return body[: -8 - size] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def lying_page() -> bytes:
    """The page itself claims 2^31 - 1 values."""
    footer_at = len(parquet()) - 8 - struct.unpack("<I", parquet()[-8:-4])[0]
    body = parquet()
    return body[:footer_at].replace(b"\xd0\x0f", b"\xfe\xff\xff\xff\x0f") + body[footer_at:]


def nested_parquet(levels: int) -> bytes:
    kind: pa.DataType = pa.int8()
    for _ in range(levels):
        kind = pa.list_(kind)
    out = io.BytesIO()
    pq.write_table(pa.table({"a": pa.array([None], kind)}), out)
    return out.getvalue()


def gzip_bomb(gigabytes: int) -> bytes:
    """About one megabyte for each gigabyte."""
    return gzip.compress(bytes(2**24)) * (64 * gigabytes)


def archive(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        for name, body in members.items():
            made.writestr(name, body)
    return out.getvalue()


def image_bomb(side: int) -> bytes:
    """A picture of side x side pixels in a few kilobytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    squeeze, row = zlib.compressobj(1), bytes(1 + 3 * side)
    pixels = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def files() -> dict[str, tuple[bytes, str | None]]:
    """Name to content, and a word of the reason it is set aside for; None where it is fine."""
    return {
        "good.json": (b'{"a": 1}', None),
        "deep.json": (b"[" * 100_000 + b"]" * 100_000, "RecursionError"),
        "twice.json": (b'{"a": 1, "a": 2}', None),
        "nan.json": (b"[NaN, Infinity, 1e999]", None),
        "huge-number.json": (b"9" * 100_000, "ValueError"),
        "surrogate.json": (b'["\\ud800"]', None),
        "bad-utf8.json": (b'["\xff"]', "UnicodeDecodeError"),
        "empty.json": (b"", "JSONDecodeError"),
        "good.csv": (b"a,b\n1,2\n", None),
        "empty.csv": (b"", None),
        "long-line.csv": (b"a,b\n" + b"x" * 30_000_000 + b",2\n", "field larger than field limit"),
        "nul.csv": (b"a,b\n\0\0,2\n", None),
        "wide.csv": (
            b"a,"
            + b",".join(b"c%d" % i for i in range(300_000))
            + b"\n"
            + b"1"
            + b"," * 300_000
            + b"\n",
            None,
        ),
        "quote.csv": (b'a,b\n"1,2\n' + b"3,4\n" * 50_000, "field larger than field limit"),
        "quote.pandas": (b'a,b\n"1,2\n' + b"3,4\n" * 1000, "EOF inside string"),
        "ragged.pandas": (b"a,b\n1,2,3,4\n1\n1,2,3,4,5,6\n", "ParserError"),
        "good.parquet": (parquet(), None),
        "cut.parquet": (parquet()[:-20], "ArrowInvalid"),
        "magic.parquet": (b"PAR2" + parquet()[4:-4] + b"PAR2", "ArrowInvalid"),
        "footer.parquet": (parquet()[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1", "ArrowInvalid"),
        "rows.parquet": (lying_rows(), "OSError|memory limit"),
        "page.parquet": (lying_page(), ""),
        "nested.parquet": (nested_parquet(60), "too deeply nested"),
        "good.gz": (gzip.compress(b"hello"), None),
        "bomb.gz": (gzip_bomb(2), "memory limit"),
        "cut.gz": (gzip.compress(b"hello" * 1000)[:-9], "EOFError"),
        "good.zip": (archive({"a": b"x"}), None),
        "bomb.zip": (archive({f"{i}": bytes(2**27) for i in range(4)}), "memory limit"),
        "many.zip": (archive({f"{i}": b"" for i in range(20_000)}), None),
        "nested.zip": (
            archive({"inner.zip": archive({"inner.zip": archive({"a": bytes(2**20)})})}),
            None,
        ),
        "bomb.png": (image_bomb(14_000), "memory limit"),
        "good.png": (image_bomb(10), None),
        "good.bin": (b"x", None),
        "good.shape": (b"12", None),
        "deep.shape": (b"45", "column 'deep' is nested more than 16 levels deep"),
        "deepest.shape": (b"1000", "column 'deep' is nested more than 16 levels deep"),
        "wide.shape": (b"50000", "more than the 10,000 of a table"),
    }


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[bytes, str | None]]:
    return files()


def test_hostile_files_cost_themselves_and_nobody_else(
    made: dict[str, tuple[bytes, str | None]], tmp_path: Path
) -> None:
    """Bombs are named with the limit they ran into; nothing stays behind in the place for temporary
    files.
    """
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    project = Project(tmp_path, SOURCE, TMPDIR=str(scratch))
    for name, (body, _) in made.items():
        project.upload(name, body)
    with open(project.root / "up" / "sparse.bin", "wb") as sparse:
        sparse.truncate(2 * 2**30)
    report = project.run(code=1)
    reported = {
        q["key"]: q["reason"]
        for q in json.loads(project.call("quarantine list", "--json", code=1).stdout)
    }
    expected = {f"up/{name}": words for name, (_, words) in made.items() if words is not None}
    expected["up/sparse.bin"] = "read() of 2,048 MB does not fit into 400 MB (memory_mb)"
    assert set(reported) == set(expected), {
        k: reported.get(k) for k in set(reported) ^ set(expected)
    }
    for key, words in expected.items():
        assert any(one in reported[key] for one in words.split("|")), (key, reported[key])
        assert "\n" not in reported[key]
        if words == "memory limit":
            assert f"{MEMORY_MB} MB (memory_mb)" in reported[key]
    assert report["committed"] == len(made) + 1 - len(expected)
    assert list(scratch.iterdir()) == []
    # 24 levels take DuckDB nine seconds, 45 take it minutes
    assert len(project.sql("SELECT * FROM p")) == report["rows"]
    project.audit()
