"""S3 Inventory's files as the listing of a first run: CSV, ORC and Parquet as S3 writes them, old
or damaged as they may be.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from pipeline.discover.inventory import Inventory
from pipeline.errors import SettingsError
from pipeline.stores import open_store
from tests.support.helpers import LOGS, Project, lines
from tests.support.servers import KEYS, moto_url

FIELDS = (
    "bucket",
    "key",
    "version_id",
    "is_latest",
    "is_delete_marker",
    "size",
    "last_modified_date",
    "e_tag",
)
CSV_FIELDS = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag"
HOME = "inventories/uploads/daily"


class Cloud:
    """A bucket with uploads, another one for its inventories, and a project."""

    def __init__(self, folder: Path) -> None:
        url, self.name = moto_url(), f"inventory-{secrets.token_hex(4)}"
        self.s3 = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        for name in (self.name, self.name + "-reports"):
            self.s3.create_bucket(Bucket=name)
        self.project = Project(
            folder, LOGS, bucket=f"s3://{self.name}/deep", **KEYS, AWS_ENDPOINT_URL=url
        )
        self.manifest = f"s3://{self.name}-reports/{HOME}/2026-11-22T01-00Z/manifest.json"

    def upload(self, key: str, v: int) -> None:
        self.s3.put_object(Bucket=self.name, Key=key, Body=lines({"kind": "a", "v": v}).encode())

    def rows(self) -> list[tuple[Any, ...]]:
        """What an inventory of now says."""
        listed = self.s3.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [
            (
                self.name,
                o["Key"],
                "v1",
                True,
                False,
                o["Size"],
                o["LastModified"].astimezone(UTC),
                o["ETag"].strip('"'),
            )
            for o in listed
        ]

    def put(self, key: str, body: bytes) -> None:
        self.s3.put_object(Bucket=self.name + "-reports", Key=key, Body=body)

    def report(self, kind: str, *files: list[tuple[Any, ...]], **changes: Any) -> None:
        named = []
        for i, rows in enumerate(files):
            body, key = ENCODE[kind](rows), f"{HOME}/data/{i}.{kind}"
            self.put(key, body)
            named.append(
                {"key": key, "size": len(body), "MD5checksum": hashlib.md5(body).hexdigest()}  # noqa: S324
            )
        schema = CSV_FIELDS if kind == "CSV" else "struct<bucket:string,key:string>"
        reported = {
            "sourceBucket": self.name,
            "version": "2016-11-30",
            "fileFormat": kind,
            "fileSchema": schema,
            "files": named,
        }
        self.put(self.manifest.split("/", 3)[3], json.dumps(reported | changes).encode())

    def run(self, *options: str, code: int = 0) -> dict[str, Any]:
        return self.project.run("--inventory", self.manifest, *options, code=code)

    def total(self) -> int:
        return int(self.project.sql("SELECT sum(v) AS v FROM logs")[0]["v"])


def as_csv(rows: list[tuple[Any, ...]]) -> bytes:
    def text(value: Any) -> str:
        if isinstance(value, datetime):
            return value.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return str(value).lower() if isinstance(value, bool) else str(value)

    reported = [
        ",".join(f'"{quote_plus(v, safe="/") if i == 1 else text(v)}"' for i, v in enumerate(row))
        + "\n"
        for row in rows
    ]
    return gzip.compress("".join(reported).encode())


def table(rows: list[tuple[Any, ...]]) -> pa.Table:
    kinds = [
        pa.string(),
        pa.string(),
        pa.string(),
        pa.bool_(),
        pa.bool_(),
        pa.int64(),
        pa.timestamp("ms", "UTC"),
        pa.string(),
    ]
    columns = zip(FIELDS, kinds, zip(*rows, strict=True), strict=True)
    return pa.table({name: pa.array(values, kind) for name, kind, values in columns})


def as_parquet(rows: list[tuple[Any, ...]]) -> bytes:
    target = io.BytesIO()
    pq.write_table(table(rows), target, row_group_size=7)
    return target.getvalue()


def as_orc(rows: list[tuple[Any, ...]]) -> bytes:
    target = io.BytesIO()
    orc.write_table(table(rows), target)
    return target.getvalue()


ENCODE = {"CSV": as_csv, "Parquet": as_parquet, "ORC": as_orc}


@pytest.mark.parametrize("kind", sorted(ENCODE))
def test_an_old_bucket_is_processed_from_its_inventory(tmp_path: Path, kind: str) -> None:
    """What changed since is at another version, what is gone is gone, and what came since is for a
    listing to find.
    """
    cloud = Cloud(tmp_path)
    for i in range(20):
        cloud.upload(f"deep/up/{i:02} é+%.jsonl", i)
    cloud.upload("deep/elsewhere/x", 1000)
    cloud.upload("up/outside the prefix", 1000)
    rows = cloud.rows()
    old = (cloud.name, "deep/up/old version", "v0", False, False, 9, rows[0][6], "0" * 32)
    marker = (cloud.name, "deep/up/deleted", "v0", True, True, 0, rows[0][6], "")
    cloud.report(kind, [*rows[:9], old], [marker, *rows[9:]])
    cloud.upload("deep/up/07 é+%.jsonl", 107)
    cloud.s3.delete_object(Bucket=cloud.name, Key="deep/up/08 é+%.jsonl")
    cloud.upload("deep/up/new", 1)
    report = cloud.run()
    assert (report["listed"], report["committed"], report["quarantined"]) == (20, 18, 0)
    assert cloud.total() == sum(range(20)) - 7 - 8
    if kind != "Parquet":
        return
    assert cloud.run()["committed"] == 0, (
        "the two that are not what they were are looked at again, and nothing else"
    )
    report = cloud.project.run()
    assert report["committed"] == 2
    assert cloud.total() == sum(range(20)) - 7 - 8 + 107 + 1
    cloud.project.audit()


def test_what_is_known_is_never_taken_back_to_an_older_version(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    for i in range(4):
        cloud.upload(f"deep/up/{i}", i)
    cloud.report("Parquet", cloud.rows())
    cloud.upload("deep/up/2", 102)
    cloud.s3.put_object(Bucket=cloud.name, Key="deep/up/3", Body=b"no json")
    cloud.project.run(code=1)
    assert cloud.run()["commits"] == 0
    assert cloud.total() == 0 + 1 + 102


def test_what_is_no_inventory_of_this_bucket_is_refused_in_one_line(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    cloud.upload("deep/up/a", 1)
    rows = cloud.rows()

    def refused(words: str) -> None:
        async def read() -> None:
            where, _, key = cloud.manifest.removeprefix("s3://").partition("/")
            store = open_store(f"s3://{where}", endpoint_url=moto_url())
            inventory = Inventory(store, key, bucket=cloud.name, prefix="deep/")
            await inventory.open()
            assert [page async for page in inventory.pages("up/")]

        with pytest.raises(SettingsError) as caught:
            asyncio.run(read())
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)

    for options, words in [
        (("--inventory", cloud.manifest), "there is no such manifest"),
        (("--inventory", str(tmp_path / "manifest.json")), "is not on S3"),
        (("--inventory", cloud.manifest, "--watch"), "goes with neither --watch nor --job"),
    ]:
        done = cloud.project.call("run", *options, code=2)
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    cloud.put(cloud.manifest.split("/", 3)[3], b"{}")
    refused("is no manifest of S3 Inventory")
    cloud.report("CSV", rows, sourceBucket="another")
    refused("is an inventory of bucket 'another'")
    cloud.report("CSV", rows, fileFormat="Avro")
    refused("files are 'Avro'")
    cloud.report("CSV", rows, fileSchema="Bucket, Key, Size")
    refused("the inventory lacks LastModifiedDate, ETag: add it to the inventory's optional fields")
    for kind in ENCODE:
        cloud.report(kind, rows)
        cloud.put(f"{HOME}/data/0.{kind}", b"damaged")
        refused("is not what the manifest says")
        body = b"no such file format"
        cloud.report(
            kind,
            rows,
            files=[{"key": f"{HOME}/x", "MD5checksum": hashlib.md5(body).hexdigest()}],  # noqa: S324
        )
        refused("does not exist")
        cloud.put(f"{HOME}/x", body)
        refused(f"cannot be read as {kind}")
        cloud.s3.delete_object(Bucket=cloud.name + "-reports", Key=f"{HOME}/x")
