"""Reading from elsewhere: the guide's own lines over a table with superseded rows, streams that are
cut off, tables of S3.
"""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import re
import select
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli.tables.result_formats import writer
from pipeline.declare.load_file import load_pipelines
from pipeline.errors import ObjectNotFound, SettingsError
from pipeline.tables.table import Table
from tests.support.helpers import ROOT, Project
from tests.support.servers import KEYS, moto_url

GUIDE = (ROOT / "docs/guides/reading.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", GUIDE, re.DOTALL))
LINES = [
    line
    for block in re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL)
    for line in re.findall(r"^\$ (.*)$", block, re.M)
]
ROWS = 3
"""Live rows; one more is superseded and lies in a file beside them."""


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The guide's pipeline after two runs: of two files in one Parquet file, one has
    changed since.
    """
    project = Project(tmp_path_factory.mktemp("reading"), FILES["shop.py"])
    project.file = project.folder / "shop.py"
    project.write(FILES["shop.py"])
    (project.root / "uploads").mkdir()
    (project.root / "uploads/a.csv").write_text("shop,amount\nnorth,1\nsouth,7.5\n")
    (project.root / "uploads/b.csv").write_text("shop,amount\nnorth,100\n")
    project.run()
    (project.root / "uploads/b.csv").write_text("shop,amount\nnorth,2.5\n")
    project.run()
    return project


@pytest.fixture
def table(project: Project) -> Iterator[Table]:
    [shop] = load_pipelines(str(project.file))
    with shop.table(project.bucket) as table:
        yield table


def test_the_guides_command_lines(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands before a pipe runs once as a process of its own; the Python behind it in this
    process, over its bytes.
    """
    monkeypatch.chdir(project.folder)
    printed: dict[str, bytes] = {}
    for line in LINES:
        command, _, behind = line.partition(" | ")
        command, _, target = command.partition(" > ")
        words = shlex.split(command)
        if words[0] == "tidemill":
            if command not in printed:
                done = subprocess.run(
                    [*project.command(*words[1:])],
                    env=project.env(),
                    cwd=project.folder,
                    capture_output=True,
                )
                assert done.returncode == (1 if words[1] == "files" else 0), done.stderr
                printed[command] = done.stdout
            if target:
                Path(target).write_bytes(printed[command])
        code = shlex.split(behind)[2] if behind else words[2] if words[0] == "python" else None
        if code is not None:
            monkeypatch.setattr(
                sys, "stdin", io.TextIOWrapper(io.BytesIO(printed.get(command, b"")))
            )
            out = io.StringIO()
            with redirect_stdout(out):
                exec(code, {})  # noqa: S102
            assert out.getvalue() == f"{ROWS}\n", line
    assert len(LINES) == 8
    files = printed["tidemill files shop.py"].decode().splitlines()
    assert sum(pq.ParquetFile(name).metadata.num_rows for name in files) == ROWS + 1, (
        "read as they are, they have a row too many"
    )


def test_the_guides_report(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_BUCKET", project.bucket)
    monkeypatch.syspath_prepend(project.folder)
    out = io.StringIO()
    with redirect_stdout(out):
        exec(FILES["report.py"], found := {})  # type: ignore[var-annotated]  # noqa: S102
    assert "3 rows, 1 large, columns ['shop', 'amount', '_source_key'" in out.getvalue()
    assert found["totals"] == {"north": 3.5, "south": 7.5}
    assert sorted(found["by_shop"], key=str) == [
        {"shop": "north", "amount": 3.5},
        {"shop": "south", "amount": 7.5},
    ]
    assert found["first"].shape == (1, 5)


def test_readers_of_one_table_do_not_stand_in_each_others_way(table: Table) -> None:
    one, other = table.reader(batch_rows=1), table.reader(batch_rows=2)
    read = next(one).num_rows + next(other).num_rows
    assert table.relation.count("*").fetchall() == [(ROWS,)]
    assert sum(b.num_rows for b in one) + sum(b.num_rows for b in other) == 2 * ROWS - read
    assert table.schema.names == table.arrow().schema.names == table.relation.columns
    assert table.schema == table.arrow().schema


def test_a_relation_outlives_the_variable_of_its_table(project: Project) -> None:
    [shop] = load_pipelines(str(project.file))
    rows = shop.table(project.bucket).relation.filter("amount < 5").order("amount")
    gc.collect()
    assert [row[1] for row in rows.fetchall()] == [1.0, 2.5]
    [[scratch]] = rows.query(
        "t", "SELECT current_setting('temp_directory') FROM t LIMIT 1"
    ).fetchall()
    assert Path(scratch).is_dir(), "large queries need it"


def test_a_closed_table_reads_no_more_and_never_wrote(project: Project, table: Table) -> None:
    relation = table.relation
    before = {path: path.stat().st_mtime_ns for path in project.root.rglob("*")}
    table.close()
    with pytest.raises(duckdb.Error):
        relation.fetchall()
    assert {path: path.stat().st_mtime_ns for path in project.root.rglob("*")} == before


def test_a_table_stays_at_its_commit(project: Project, table: Table) -> None:
    [shop] = load_pipelines(str(project.file))
    with shop.table(project.bucket, at=table.sequence) as same:
        assert same.arrow().equals(table.arrow())
    assert table.sequence == max(
        commit["sequence"] for commit in project.sql("SELECT sequence FROM commits")
    )


def test_tables_open_within_a_running_loop(project: Project) -> None:
    [shop] = load_pipelines(str(project.file))

    async def notebook() -> int:
        with shop.table(project.bucket) as table:
            return table.arrow().num_rows

    assert asyncio.run(notebook()) == ROWS


def test_what_cannot_be_read_is_said_in_one_line(
    project: Project, table: Table, tmp_path: Path
) -> None:
    [shop] = load_pipelines(str(project.file))
    with pytest.raises(SettingsError, match=r"no aggregate 'by_shpo'.*by_shop"):
        table.aggregate("by_shpo")
    with pytest.raises(SettingsError, match="batch_rows=0"):
        table.reader(batch_rows=0)
    with pytest.raises(SettingsError, match="TIDEMILL_BUCKET"):
        shop.table()
    with pytest.raises(SettingsError, match="has committed nothing"):
        shop.table(str(tmp_path))


def test_files_that_a_vacuum_took_are_an_error_and_no_part(
    tmp_path: Path, project: Project
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(project.root, copy)
    [shop] = load_pipelines(str(project.file))
    with shop.table(str(copy)) as table:
        for path in (copy / "tables").rglob("*.parquet"):
            path.unlink()
        with pytest.raises(ObjectNotFound, match="vacuum"):
            table.arrow()


def test_tables_of_s3(project: Project) -> None:
    url, bucket = moto_url(), "reading"
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    client.create_bucket(Bucket=bucket)
    for path in project.root.rglob("*"):
        if path.is_file():
            client.put_object(
                Bucket=bucket, Key=f"in/{path.relative_to(project.root)}", Body=path.read_bytes()
            )
    [shop] = load_pipelines(str(project.file))
    with shop.table(f"s3://{bucket}/in", endpoint_url=url, region="us-east-1") as table:
        assert sorted(table.arrow().column("amount").to_pylist()) == [1.0, 2.5, 7.5]
        assert table.relation.filter("shop = 'south'").fetchall()[0][1] == 7.5
    assert KEYS["AWS_ACCESS_KEY_ID"] == os.environ["AWS_ACCESS_KEY_ID"]


# -- what is printed -------------------------------------------------------------------------------

MANY = "SELECT range AS n, 'text ' || range AS s FROM range({})"
FAILS_LATE = (
    "SELECT CASE WHEN range < 4000000 THEN range ELSE ('x' || range)::BIGINT END AS n FROM"
    " range(5000000)"
)


def printed(project: Project, statement: str, form: str, *options: str) -> tuple[int, bytes, str]:
    command = project.command("sql", str(project.file), statement, "--format", form, *options)
    done = subprocess.run(command, env=project.env(), capture_output=True, timeout=60)
    return done.returncode, done.stdout, done.stderr.decode()


def test_results_larger_than_the_memory_are_printed(project: Project) -> None:
    code, body, said = printed(
        project, "SELECT repeat('x', 2000) AS s FROM range(150000)", "arrow", "--memory-mb", "256"
    )
    assert (code, said) == (0, "")
    assert sum(batch.num_rows for batch in pa.ipc.open_stream(body)) == 150_000
    assert len(body) > 256 * 2**20


def test_who_reads_slowly_does_not_use_up_the_querys_time(project: Project) -> None:
    command = project.command(
        "sql", str(project.file), MANY.format(1_000_000), "--format", "arrow", "--timeout", "0.6"
    )
    with subprocess.Popen(command, env=project.env(), stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        head = running.stdout.read(8)
        select.select([], [], [], 0.8)  # the time that must not count
        assert pa.ipc.open_stream(head + running.stdout.read()).read_all().num_rows == 1_000_000
    assert running.returncode == 0


def test_a_stream_that_fails_on_the_way_cannot_be_taken_for_all(project: Project) -> None:
    code, body, said = printed(project, FAILS_LATE, "arrow")
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("tidemill: Conversion Error: ")
    with pytest.raises(pa.ArrowInvalid, match="Expected to read 8"):
        pa.ipc.open_stream(body).read_all()
    assert len(body) > 2**20, "some of it was printed before"


DIES = """
import os, signal, sys
if "sql" in sys.argv:
    import sinks.query.warehouse as w
    following, left = w.Stream.__next__, [3]
    def die(self):
        left[0] -= 1
        if not left[0]:
            sys.stdout.buffer.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return following(self)
    w.Stream.__next__ = die
"""


def test_a_stream_whose_process_dies_between_two_batches_cannot_be_taken_for_all(
    project: Project, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DIES)
    command = project.command("sql", str(project.file), MANY.format(100_000), "--format", "arrow")
    env = project.env() | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(command, env=env, capture_output=True, timeout=60)
    assert (done.returncode, b"SIGKILL" in done.stderr) == (2, True)
    with pytest.raises(pa.ArrowInvalid, match="Expected to read 8"):
        pa.ipc.open_stream(done.stdout).read_all()
    assert len(done.stdout) > 2**19, "two batches came before"


def test_a_parquet_file_that_fails_on_the_way_has_no_footer(project: Project) -> None:
    code, body, _ = printed(project, FAILS_LATE, "parquet")
    assert code == 2
    with pytest.raises(pa.ArrowInvalid, match="footer"):
        pq.read_table(io.BytesIO(body))


def test_every_format_prints_the_same_rows(project: Project) -> None:
    query = MANY.format(130_000)
    parquet = pq.ParquetFile(io.BytesIO(printed(project, query, "parquet")[1]))
    assert parquet.metadata.num_rows == 130_000
    assert parquet.num_row_groups > 1
    arrow = pa.ipc.open_stream(printed(project, query, "arrow")[1]).read_all()
    assert parquet.read().equals(arrow)


@dataclass
class Result:
    schema: pa.Schema
    kinds: list[Any]


def test_texts_are_printed_batch_by_batch_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    batches = [
        pa.record_batch({"n": [1, 2], "s": ["a", "two\nlines"]}),
        pa.record_batch({"n": [3], "s": [None]}),
    ]
    rows = [row for batch in batches for row in batch.to_pylist()]
    result = Result(batches[0].schema, [duckdb.sqltype("BIGINT"), duckdb.sqltype("VARCHAR")])
    for came, expected in ((batches, rows), (batches[1:], rows[2:]), (batches[:0], [])):
        writer("json")(result, iter(came))
        assert json.loads(capsys.readouterr().out) == expected
    writer("csv")(result, iter(batches))
    assert capsys.readouterr().out == 'n,s\n1,a\n2,"two\nlines"\n3,\n'
    writer("table")(
        result, (pa.record_batch({"n": range(700), "s": ["x"] * 700}) for _ in range(2))
    )
    shown = capsys.readouterr().out
    assert (shown.count(" x"), "... 400 more rows" in shown) == (1000, True)


@pytest.mark.parametrize(("form", "kind"), [("arrow", "Arrow"), ("parquet", "Parquet")])
def test_binary_formats_refuse_a_terminal(form: str, kind: str, project: Project) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = project.command("sql", str(project.file), "SELECT 1", "--format", form)
    done = subprocess.run(
        command, env=project.env(), stdout=theirs, stderr=subprocess.PIPE, timeout=60
    )
    os.close(theirs)
    os.close(ours)
    assert (done.returncode, done.stderr.decode().startswith(f"tidemill: {kind} is binary")) == (
        2,
        True,
    )
