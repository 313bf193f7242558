"""The same job on real S3 servers over HTTP: same code, same results."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from tests.support.helpers import LOGS, Project, lines
from tests.support.servers import KEYS, moto_url, seaweed_url


@pytest.mark.parametrize("server", [moto_url, seaweed_url])
def test_the_main_job_on_s3(tmp_path: Path, server: Callable[[], str]) -> None:
    url = server()
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    name = f"job-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=name)
    project = Project(tmp_path, LOGS, bucket=f"s3://{name}/deep", **KEYS, AWS_ENDPOINT_URL=url)

    def upload(key: str, body: str) -> None:
        client.put_object(Bucket=name, Key=f"deep/up/{key}", Body=body.encode())

    for i in range(20):
        upload(f"{i:02}-é %.jsonl", lines({"kind": "ab"[i % 2], "v": i}))
    upload("bad", "not json")
    upload("folder/", "")
    upload("a//b", lines({"kind": "odd", "v": 7}))
    report = project.run(code=1)
    # a folder marker is nobody's file
    assert (report["committed"], report["quarantined"]) == (21, 1)
    assert project.run()["commits"] == 0

    upload("00-é %.jsonl", lines({"kind": "a", "v": 100}))
    client.delete_object(Bucket=name, Key="deep/up/01-é %.jsonl")
    report = project.run()
    assert (report["committed"], report["deleted"]) == (1, 1)
    assert project.sql("SELECT kind, n, total FROM by_kind ORDER BY kind") == [
        {"kind": "a", "n": 10, "total": 100 + sum(range(2, 20, 2))},
        {"kind": "b", "n": 9, "total": sum(range(3, 20, 2))},
        {"kind": "odd", "n": 1, "total": 7},
    ]
    assert project.sql("SELECT sum(v) AS v FROM logs WHERE kind = 'odd'") == [{"v": 7}]
    assert project.audit()["sources"] == {"committed": 20, "quarantined": 1}
    assert json.loads(project.call("vacuum", "--json").stdout)[0]["receipts"] > 0
    assert "AWS_SECRET" not in project.call("status").stdout


def test_large_objects_are_read_in_ranges(tmp_path: Path) -> None:
    url = moto_url()
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    name = f"big-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=name)
    project = Project(
        tmp_path,
        """
        from pipeline import Pipeline, Object
        logs = Pipeline("logs", source="up/")

        @logs.transform
        def parse(obj: Object):
            count = sum(1 for line in obj.lines())
            with obj.open() as file:
                file.seek(-3, 2)
                tail = file.read().decode()
            return {"lines": count, "tail": tail, "size": obj.path.stat().st_size}
        """,
        bucket=f"s3://{name}",
        **KEYS,
        AWS_ENDPOINT_URL=url,
    )
    body = b"x" * 99 + b"\n"
    client.put_object(Bucket=name, Key="up/big", Body=body * 100_000 + b"end")
    project.run()
    assert project.sql("SELECT lines, tail, size FROM logs") == [
        {"lines": 100_001, "tail": "end", "size": 10_000_003}
    ]


STAGED = (
    LOGS
    + """
kinds = Pipeline("kinds", source=logs)

@kinds.transform
def distinct(rows: Object):
    return [{"kind": kind} for kind in sorted({row["kind"] for row in rows.rows()})]
"""
)


def test_generations_compaction_and_stages_on_s3(tmp_path: Path) -> None:
    url = moto_url()
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    name = f"tables-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=name)
    project = Project(tmp_path, STAGED, bucket=f"s3://{name}/deep", **KEYS, AWS_ENDPOINT_URL=url)
    for i in range(3):
        client.put_object(
            Bucket=name,
            Key=f"deep/up/{i}",
            Body=lines({"kind": "ab"[i % 2], "v": i}, {"kind": "c", "v": 1}).encode(),
        )
        project.call("run")
    assert json.loads(project.call("compact", "--json").stdout)[0]["files"] == 1
    project.write(STAGED.replace("json.loads(line) for", "{**json.loads(line), 'new': 1} for"))
    logs = f"{project.file}:logs"
    for command in ("backfill --new-generation", "publish", "run"):
        done = project.call_on(logs if command != "run" else str(project.file), command)
        assert done.returncode == 0, done.stderr
    assert project.sql("SELECT sum(new) AS new, sum(v) AS v FROM logs") == [{"new": 6, "v": 6}]
    assert project.sql("SELECT total FROM by_kind WHERE kind = 'c'") == [{"total": 3}]
    assert project.sql("SELECT kind FROM kinds WHERE _source_key = 'logs:up/1'") == [
        {"kind": "b"},
        {"kind": "c"},
    ]
    assert (
        "new"
        in project.call(
            "sql", "SELECT * FROM logs WHERE _source_key = 'up/2'", "--format", "csv"
        ).stdout
    )
    assert project.call("diff", "previous", "live", "--json", code=None).returncode == 2, (
        "two pipelines: say which"
    )
    reported = json.loads(project.call_on(logs, "diff", "previous", "live", "--json").stdout)[0]
    assert reported["columns_added"] == {"new": "BIGINT"}
    assert reported["changed"] == 0
