"""Sinks as users declare and see them: the guide's own files, a sink that fails, and an S3 bucket."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Project, lines
from tests.integration.test_docs import blocks
from tests.postgres_server import postgres_dsn
from tests.servers import KEYS, moto_url

GUIDE = blocks("docs/guides/sinks.md")


def states(project: Project, *options: str, code: int = 0) -> dict[str, Any]:
    done = project.call("sinks", "--json", *options, code=code)
    return {one["sink"]: one for one in json.loads(done.stdout)}


def read(project: Project, name: str) -> str:
    done = subprocess.run([sys.executable, "-c", GUIDE[name]], cwd=project.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guide(tmp_path: Path) -> None:
    """All sinks; Postgres is out of reach at first, which holds up nothing, and then catches up without a new file."""
    project = Project(tmp_path, GUIDE["sales.py"])
    (project.root / "uploads").mkdir()
    (project.root / "uploads" / "a.jsonl").write_text(lines({"shop": "x", "amount": 1}, {"shop": "y", "amount": 2}))
    done = project.call("run", code=1)
    assert done.stderr.count("\n") == 1
    assert "sink pg: set WAREHOUSE_DSN" in done.stderr
    assert "1 file committed" in done.stdout
    found = states(project, code=1)
    assert {name: one["is_behind"] for name, one in found.items()} == {"lake": False, "pg": True, "file": False, "catalogue": False}
    project.environment["WAREHOUSE_DSN"] = postgres_dsn()
    assert project.run()["commits"] == 0
    assert not any(one["is_behind"] or one["problem"] for one in states(project).values())
    assert read(project, "read_delta.py") == "2\n"
    assert re.search(r"x\s*│\s*1\s.*y\s*│\s*2", read(project, "read_file.py"), re.DOTALL)
    assert re.search(r"x\s*│\s*1\s.*y\s*│\s*1", read(project, "read_catalogue.py"), re.DOTALL)
    (project.root / "uploads" / "b.jsonl").write_text(lines({"shop": "x", "amount": 10}))
    project.run()
    published = states(project, "--publish")
    assert not any(one["done"] for one in published.values()), "the run did it"
    assert states(project, "--rebuild", "file")["file"]["rebuilt"]
    assert "did you mean 'file'" in project.call("sinks", "--rebuild", "fil", code=2).stderr


def test_a_run_hands_over_what_is_new_and_not_everything(tmp_path: Path) -> None:
    """Seen in Postgres by the transactions that wrote the rows."""
    import psycopg

    project = Project(tmp_path, GUIDE["sales.py"], WAREHOUSE_DSN=postgres_dsn())
    project.write(GUIDE["sales.py"].replace('schema="shop"', 'schema="increments"'))
    (project.root / "uploads").mkdir()
    for n, name in enumerate("ab"):
        (project.root / "uploads" / name).write_text(lines({"shop": name, "amount": n}))
        project.run()
    with psycopg.connect(postgres_dsn()) as connection:
        written = connection.execute("SELECT shop, xmin::text FROM increments.sales ORDER BY shop").fetchall()
    assert [shop for shop, _ in written] == ["a", "b"]
    assert written[0][1] != written[1][1]


def test_sinks_in_an_s3_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delta Lake's own client and DuckDB read them by S3 addresses."""
    import boto3
    import duckdb
    from deltalake import DeltaTable

    from pipeline.stores import open_store
    from sinks.remote import StoreFileSystem

    url = moto_url()
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    s3 = boto3.client("s3", endpoint_url=url)
    s3.create_bucket(Bucket="sinks")
    source = re.sub(r'sales.sink\("(pg|file)".*\n', "", GUIDE["sales.py"])
    project = Project(tmp_path, source, bucket="s3://sinks/deep", AWS_ENDPOINT_URL=url, **KEYS)
    for n, name in enumerate("ab"):
        s3.put_object(Bucket="sinks", Key=f"deep/uploads/{name}", Body=lines({"shop": name, "amount": n}).encode())
        project.run()
    assert not any(one["is_behind"] or one["problem"] for one in states(project).values())
    store: Any = open_store("s3://sinks/deep", endpoint_url=url)
    table = DeltaTable("s3://sinks/deep/lake/sales", storage_options=store.foreign_options())
    assert sorted(table.to_pyarrow_dataset().to_table().column("shop").to_pylist()) == ["a", "b"]
    s3.download_file("sinks", "deep/catalogue.duckdb", str(tmp_path / "copy.duckdb"))
    sizes = {o["Key"].removeprefix("deep/"): o["Size"] for o in s3.list_objects_v2(Bucket="sinks")["Contents"]}
    with duckdb.connect() as connection:  # the extension `httpfs` is not there in tests
        connection.register_filesystem(StoreFileSystem(store, sizes, "s3://sinks/deep/", skip_instance_cache=True))
        connection.execute(f"ATTACH '{tmp_path / 'copy.duckdb'}' AS lake (READ_ONLY)")
        assert connection.execute("SELECT shop FROM lake.sales ORDER BY 1").fetchall() == [("a",), ("b",)]
