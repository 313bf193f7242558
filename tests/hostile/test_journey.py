"""Hostile keys from the bucket to SQL: on a directory and on S3, committed or quarantined by name,
printed without escapes.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from pipeline.cli import invoke
from tests.contract.test_store import make_store
from tests.support.helpers import Project
from tests.support.servers import KEYS, moto_url

SOURCE = """
from pipeline import Pipeline

logs = Pipeline("logs", source="up/")

@logs.transform
def parse(obj):
    text = obj.text()
    if text.startswith("bad"):
        raise ValueError(f"{obj.key} says \\x1b[2J\\x9b1m {text}")
    return [{"n": int(text), "key": obj.key}]
"""

NAMES = (
    *(
        "a b",
        "new\nline",
        "cr\r",
        "\x1b[31mred",
        "\x1b]0;title\x07",
        "\x9b2J",
        "\x7f",
        "\u202egnp.exe",
        "a=b'c",
        'q"q',
        "--help",
    ),
    *(
        "=1+2",
        "@SUM(A1)",
        "c'd; DROP TABLE logs;--",
        "back\\slash",
        "%2F",
        "%2e%2e",
        "é",
        "e\u0301",
        "Case",
        "case",
        "🎉",
        "\ufeffx",
    ),
    *(
        "$HOME",
        "`id`",
        "con",
        "*",
        "[x]",
        "x" * 255,
        "deep/" * 90 + "end",
        "day=2026-01-01/shop='x'/f.csv",
        "_tidemill",
        ".tidemill",
    ),
)
ONLY_S3 = ("..", "../up", "a//b", "trail/", "/lead", "./x", "y" * 1000)


@pytest.fixture(params=["directory", "s3"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Project, list[str]]:
    """The pipeline's bucket with every hostile name in it, each twice: once good, once bad."""
    names = [kind + name for name in NAMES for kind in ("", "bad-")]
    if request.param == "directory":
        names = [n for n in names if len(n) < 256 or "/" in n]
        project = Project(tmp_path, SOURCE)
        for i, name in enumerate(names):
            project.upload(name, f"bad {i}" if name.startswith("bad-") else str(i))
        return project, names
    names += [kind + name for name in ONLY_S3 for kind in ("", "bad-")]
    make_store("moto", tmp_path)  # makes the bucket `contract`
    prefix = secrets.token_hex(6) + "/"
    client = boto3.client("s3", endpoint_url=moto_url(), region_name="us-east-1")
    gone: list[str] = []
    for i, name in enumerate(names):
        body = f"bad {i}" if name.startswith("bad-") else str(i)
        try:
            client.put_object(Bucket="contract", Key=f"{prefix}up/{name}", Body=body.encode())
        except ClientError:  # moto's router takes `..` for a way up
            gone.append(name)
    bucket = f"s3://contract/{prefix}"
    return Project(
        tmp_path,
        SOURCE,
        bucket,
        AWS_ENDPOINT_URL_S3=moto_url(),
        TIDEMILL_ENDPOINT_URL=moto_url(),
        **KEYS,
    ), [n for n in names if n not in gone]


def test_hostile_keys_end_in_the_table_or_in_quarantine_and_print_as_text(
    project: tuple[Project, list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`_source_key` is the key exactly; no command sends a control character to the terminal."""
    made, names = project
    good = {f"up/{n}" for n in names if not n.startswith("bad-")}
    bad = {f"up/{n}" for n in names if n.startswith("bad-")}
    report = made.run(code=1)
    assert (report["committed"], report["quarantined"]) == (len(good), len(bad))
    rows = made.sql("SELECT key, _source_key FROM logs")
    assert {row["_source_key"] for row in rows} == good
    assert all(row["key"] == row["_source_key"] for row in rows)
    reported = json.loads(made.call("quarantine list", "--json", code=1).stdout)
    assert {one["key"] for one in reported} == bad
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    for command, *arguments in (
        ("status",),
        ("quarantine list",),
        ("quarantine show", "up/bad-\x1b[31mred"),
        ("lineage", "up/\x1b[31mred"),
        ("lineage", "up/--help"),
        ("plan",),
    ):
        invoke([*command.split(), str(made.file), *arguments, "--bucket", made.bucket])
        out, err = capsys.readouterr()
        assert out, (command, err)
        assert [c for c in out + err if not c.isprintable() and c != "\n"] == [], (command, out)
