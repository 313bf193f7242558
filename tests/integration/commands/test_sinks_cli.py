"""Sinks as users declare and see them: the guide's own files, a sink that fails, and
an S3 bucket.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import invoke
from tests.integration.commands.test_docs import blocks
from tests.support.helpers import Project, lines
from tests.support.postgres_server import postgres_dsn
from tests.support.servers import KEYS, moto_url

GUIDE = blocks("docs/guides/sinks.md")


class Shown:
    """`tidemill sinks`, and the guide's readers, in this process."""

    def __init__(self, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
        self.project = project
        self.capsys = capsys

    def states(self, *options: str, code: int = 0) -> dict[str, Any]:
        words = [
            "sinks",
            str(self.project.file),
            "--bucket",
            self.project.bucket,
            "--json",
            *options,
        ]
        assert invoke(words) == code
        return {one["sink"]: one for one in json.loads(self.capsys.readouterr().out or "[]")}

    def read(self, name: str) -> str:
        exec(GUIDE[name], {})  # noqa: S102 - what the guide shows
        return self.capsys.readouterr().out


def test_the_guide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All sinks; Postgres is out of reach at first, which holds up nothing, and then catches up
    without a new file.
    """
    import psycopg

    project, shown = (
        Project(tmp_path, GUIDE["sales.py"]),
        Shown(Project(tmp_path, GUIDE["sales.py"]), capsys),
    )
    monkeypatch.chdir(tmp_path)
    (project.root / "uploads").mkdir()
    assert not any(one["is_behind"] or one["mark"] for one in shown.states(code=1).values()), (
        "there is nothing to hold"
    )
    (project.root / "uploads" / "a.jsonl").write_text(
        lines({"shop": "x", "amount": 1}, {"shop": "y", "amount": 2})
    )
    done = project.call("run", code=1)
    assert done.stderr.count("\n") == 1
    assert "sink pg: set WAREHOUSE_DSN" in done.stderr
    assert "1 file committed" in done.stdout
    behind = {name: one["is_behind"] for name, one in shown.states(code=1).items()}
    assert behind == {"lake": False, "pg": True, "file": False, "catalogue": False}
    monkeypatch.setenv("WAREHOUSE_DSN", postgres_dsn())
    project.environment["WAREHOUSE_DSN"] = postgres_dsn()
    assert project.run()["commits"] == 0
    assert not any(one["is_behind"] or one["problem"] for one in shown.states().values())
    assert shown.read("read_delta.py") == "2\n"
    assert re.search(r"x\s*│\s*1\s.*y\s*│\s*2", shown.read("read_file.py"), re.DOTALL)
    assert re.search(r"x\s*│\s*1\s.*y\s*│\s*1", shown.read("read_catalogue.py"), re.DOTALL)
    (project.root / "uploads" / "b.jsonl").write_text(lines({"shop": "z", "amount": 10}))
    project.run()
    assert not any(one["done"] for one in shown.states("--publish").values()), "the run did it"
    with psycopg.connect(postgres_dsn()) as connection:
        written = connection.execute(
            "SELECT shop, xmin::text FROM shop.sales ORDER BY shop"
        ).fetchall()
    assert [shop for shop, _ in written] == ["x", "y", "z"]
    assert written[0][1] == written[1][1] != written[2][1], "only what is new was handed over"
    assert shown.states("--rebuild", "file")["file"]["rebuilt"]
    shown.states("--rebuild", "fil", code=2)


def test_sinks_in_an_s3_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delta Lake's own client and DuckDB read them by S3 addresses."""
    import boto3
    import duckdb
    from deltalake import DeltaTable

    from pipeline.stores import open_store
    from sinks.query.object_filesystem import StoreFileSystem

    url = moto_url()
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    s3 = boto3.client("s3", endpoint_url=url)
    s3.create_bucket(Bucket="sinks")
    source = re.sub(r'sales.sink\("(pg|file)".*\n', "", GUIDE["sales.py"])
    project = Project(tmp_path, source, bucket="s3://sinks/deep", AWS_ENDPOINT_URL=url, **KEYS)
    for n, name in enumerate("ab"):
        s3.put_object(
            Bucket="sinks",
            Key=f"deep/uploads/{name}",
            Body=lines({"shop": name, "amount": n}).encode(),
        )
    project.run()
    store: Any = open_store("s3://sinks/deep", endpoint_url=url)
    table = DeltaTable("s3://sinks/deep/lake/sales", storage_options=store.traits.foreign_options())
    assert sorted(table.to_pyarrow_dataset().to_table().column("shop").to_pylist()) == ["a", "b"]
    s3.download_file("sinks", "deep/catalogue.duckdb", str(tmp_path / "copy.duckdb"))
    sizes = {
        o["Key"].removeprefix("deep/"): o["Size"]
        for o in s3.list_objects_v2(Bucket="sinks")["Contents"]
    }
    with duckdb.connect() as connection:  # the extension `httpfs` is not there in tests
        connection.register_filesystem(
            StoreFileSystem(store, sizes, "s3://sinks/deep/", skip_instance_cache=True)
        )
        connection.execute(f"ATTACH '{tmp_path / 'copy.duckdb'}' AS lake (READ_ONLY)")
        assert connection.execute("SELECT shop FROM lake.sales ORDER BY 1").fetchall() == [
            ("a",),
            ("b",),
        ]
