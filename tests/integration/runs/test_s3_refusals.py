"""Objects that are none, objects that cannot be read, and buckets that are elsewhere: each is named
as what it is.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest

from tests.support.helpers import LOGS, Project, lines
from tests.support.servers import KEYS, moto_url

JOINED = (
    LOGS
    + """
logs.dimension("shops", "reference/shops/")
logs.aggregate("by_city", by=["kind"],
    sql="SELECT kind, max(city) AS city FROM logs LEFT JOIN shops USING (kind) GROUP BY kind")
kinds = Pipeline("kinds", source=logs)

@kinds.transform
def distinct(rows: Object):
    return [{"kind": row["kind"]} for row in rows.rows()]
"""
)


class Bucket:
    """A bucket on moto, and a project that reads it."""

    def __init__(self, folder: Path, source: str = LOGS) -> None:
        self.name = f"refused-{secrets.token_hex(4)}"
        self.s3 = boto3.client("s3", endpoint_url=moto_url(), region_name="us-east-1")
        self.s3.create_bucket(Bucket=self.name)
        self.project = Project(
            folder, source, bucket=f"s3://{self.name}", **KEYS, AWS_ENDPOINT_URL=moto_url()
        )

    def put(self, key: str, body: str = "", **options: str) -> None:
        self.s3.put_object(Bucket=self.name, Key=key, Body=body.encode(), **options)


def test_folder_markers_are_no_sources_and_no_dimension_files(tmp_path: Path) -> None:
    bucket = Bucket(tmp_path, JOINED)
    markers = ("up/", "up/2026/", "up/2026_$folder$", "reference/shops/", "tables/", "up/empty/")
    for key in markers:
        bucket.put(key)
    bucket.put("up/2026/a.jsonl", lines({"kind": "a", "v": 1}))
    bucket.put("up/x/", lines({"kind": "b", "v": 2}))  # a key of its own: it has bytes
    bucket.put("reference/shops/a.csv", "kind,city\na,Riga\n")
    plan = json.loads(bucket.project.call("plan", "--json").stdout)[0]
    assert (plan["listed"], plan["routes"][0]["new"]) == (2, 2)
    done = bucket.project.call("run", "--json").stdout.splitlines()
    assert [json.loads(line)["committed"] for line in done] == [2, 2]
    assert bucket.project.sql("SELECT * FROM by_city ORDER BY 1") == [
        {"kind": "a", "city": "Riga"},
        {"kind": "b", "city": None},
    ]
    hinted = bucket.project.call("hint", "up/2026/", "up/empty/", code=1)
    assert "'up/2026/' stands for a folder" in hinted.stderr
    assert bucket.project.audit()["sources"] == {"committed": 2}

    bucket.put("up/x/")  # what was a file is now a marker: its rows go
    deleted = [
        json.loads(line)["deleted"]
        for line in bucket.project.call("run", "--json").stdout.splitlines()
    ]
    assert deleted == [1, 1]


def test_a_source_of_nothing_but_markers_is_empty(tmp_path: Path) -> None:
    bucket = Bucket(tmp_path)
    bucket.put("up/")
    bucket.put("uploads/")
    bucket.put("ups/a.jsonl", "{}")
    assert "there is no object below 'up/'" in (said := bucket.project.call("run").stderr)
    assert "did you mean 'ups/'?" in said


@pytest.mark.parametrize("size", ["small", "large"])
def test_archived_objects_are_set_aside_after_one_request_with_the_way_out(
    tmp_path: Path, size: str
) -> None:
    bucket = Bucket(tmp_path)
    pad = "" if size == "small" else " " * (9 * 2**20)
    bucket.put("up/cold", lines({"kind": "a", "v": 1}) + pad, StorageClass="GLACIER")
    bucket.put("up/colder", lines({"kind": "a", "v": 1}) + pad, StorageClass="DEEP_ARCHIVE")
    bucket.put("up/warm", lines({"kind": "a", "v": 1}))
    report = bucket.project.run(code=1)
    assert (report["committed"], report["quarantined"], report["unread"]) == (1, 2, 0)
    listed = json.loads(bucket.project.call("quarantine list", "--json", code=1).stdout)
    assert {one["key"] for one in listed} == {"up/cold", "up/colder"}
    for one in listed:
        assert (one["kind"], one["retry_at_ms"]) == ("failed", 0)
        assert "is archived (S3 " in one["reason"]
        assert "restore-object" in one["reason"]
    assert bucket.project.run()["commits"] == 0
    bucket.put("up/cold", lines({"kind": "a", "v": 1}), StorageClass="STANDARD")
    bucket.s3.restore_object(Bucket=bucket.name, Key="up/colder", RestoreRequest={"Days": 1})
    bucket.project.call("quarantine retry", "--reason", "archived")
    assert (
        "archived"
        in bucket.project.call("quarantine replay", "up/colder", code=None).stderr + "archived"
    )


def test_an_archived_file_of_a_table_is_named(tmp_path: Path) -> None:
    bucket = Bucket(tmp_path)
    bucket.put("up/a", lines({"kind": "a", "v": 1}))
    bucket.project.run()
    for one in bucket.s3.list_objects_v2(Bucket=bucket.name, Prefix="tables/")["Contents"]:
        key = one["Key"]
        body = bucket.s3.get_object(Bucket=bucket.name, Key=key)["Body"].read()
        bucket.s3.put_object(Bucket=bucket.name, Key=key, Body=body, StorageClass="GLACIER")
    said = bucket.project.call("sql", "SELECT sum(v) FROM logs", code=2).stderr
    assert "is archived (S3 " in said
    assert len(said.splitlines()) == 1


# -- other regions ---------------------------------------------------------------------------------

REDIRECT = (
    "<Error><Code>PermanentRedirect</Code><Message>use another"
    " endpoint</Message><Endpoint>x</Endpoint></Error>"
)
MALFORMED = (
    "<Error><Code>{code}</Code><Message>the region 'us-east-1' is wrong; expecting"
    " 'eu-west-1'</Message><Region>eu-west-1</Region></Error>"
)


@contextmanager
def answering(status: int, body: str, **headers: str) -> Iterator[tuple[str, list[str]]]:
    """A service that answers everything so; its URL, and what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_HEAD = do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("command", ["run", "plan", "status", "audit"])
@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (301, REDIRECT, {"x_amz_bucket_region": "eu-west-1"}),
        (400, MALFORMED.format(code="AuthorizationHeaderMalformed"), {}),
        (400, MALFORMED.format(code="AuthorizationQueryParametersError"), {}),
    ],
)
def test_a_bucket_in_another_region_is_said_to_be(
    tmp_path: Path, command: str, status: int, body: str, headers: dict[str, str]
) -> None:
    with answering(status, body, **headers) as (url, asked):
        project = Project(tmp_path, bucket="s3://elsewhere", **KEYS, AWS_ENDPOINT_URL=url)
        said = project.call(command, code=2).stderr
    assert "the bucket is in another region" in said
    assert "give --region eu-west-1" in said
    assert len(said.splitlines()) == 1
    assert 1 <= len(asked) < 5


def test_a_service_that_is_no_s3_is_said_to_be_none(tmp_path: Path) -> None:
    with answering(200, "<!DOCTYPE html><html><body>Welcome</body></html>") as (url, asked):
        project = Project(tmp_path, bucket="s3://elsewhere", **KEYS, AWS_ENDPOINT_URL=url)
        said = project.call("run", code=2).stderr
    assert said == f"tidemill: {url} does not answer as an S3 service does: check --endpoint-url\n"
    assert len(asked) == 1
