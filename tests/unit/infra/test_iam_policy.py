"""The policy allows what a run does, and no more."""

from __future__ import annotations

import fnmatch
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.iam_policy import bucket_policy
from pipeline import Pipeline
from pipeline.errors import SettingsError
from sinks import Delta
from tests.support.helpers import LOGS, ROOT


def allows(policy: dict[str, Any], action: str, key: str) -> bool:
    for statement in policy["Statement"]:
        actions = (
            statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        )
        resources = (
            statement["Resource"]
            if isinstance(statement["Resource"], list)
            else [statement["Resource"]]
        )
        if action in actions and any(
            fnmatch.fnmatchcase(f"arn:aws:s3:::b/{key}", r) for r in resources
        ):
            return True
    return False


def test_least_privilege_by_prefix() -> None:
    two = Pipeline("two", source="in/two/", output="out/")
    two.sink("lake", Delta("lake/"))
    policy = bucket_policy([Pipeline("one", source="in/one/"), two], "s3://b/team")
    may = [
        ("s3:GetObject", "team/in/one/x"),
        ("s3:GetObject", "team/in/two/deep/x"),
        ("s3:PutObject", "team/tables/one/rows/x.parquet"),
        ("s3:PutObject", "team/out/rows/x.parquet"),
        ("s3:PutObject", "team/_tidemill/one/log/1.json"),
        ("s3:DeleteObject", "team/_tidemill/two/receipts/1.json"),
        ("s3:PutObject", "team/lake/two/_delta_log/1.json"),
    ]
    may_not = [
        ("s3:PutObject", "team/in/one/x"),
        ("s3:DeleteObject", "team/in/two/x"),
        ("s3:GetObject", "team/in/three/x"),
        ("s3:PutObject", "other/tables/one/x"),
        ("s3:PutObject", "team/_tidemill/three/log/1.json"),
        ("s3:DeleteObject", "team/lake/two/x.parquet"),
        ("s3:PutBucketPolicy", "team/in/one/x"),
    ]
    assert [pair for pair in may if not allows(policy, *pair)] == []
    assert [pair for pair in may_not if allows(policy, *pair)] == []
    [listing] = [s for s in policy["Statement"] if s["Action"] == "s3:ListBucket"]
    listed = listing["Condition"]["StringLike"]["s3:prefix"]
    assert "team/in/one/*" in listed
    assert "*" not in listed


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "flow.py"
    file.write_text(LOGS)

    def call(url: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "infra.iam_policy", str(file), url, *more]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert json.loads(call("s3://b").stdout)["Version"] == "2012-10-17"
    assert call("s3://b", "--role", "operator").stdout == call("s3://b").stdout
    reader = json.loads(call("s3://b", "--role", "reader").stdout)
    assert {statement["Action"] for statement in reader["Statement"]} == {
        "s3:ListBucket",
        "s3:GetObject",
    }
    wrong = call("s3://b", "--role", "raeder")
    reported = (
        "tidemill: there is no role 'raeder'; did you mean 'reader'?; there are reader, worker,"
        " committer and operator\n"
    )
    assert (wrong.returncode, wrong.stdout, wrong.stderr) == (2, "", reported)
    assert (call("s3://b", "reader").returncode, call("s3://b", "--role").returncode) == (2, 2)
    refused = call("file:///x")
    assert (refused.returncode, refused.stderr) == (
        2,
        "tidemill: 'file:///x' is not s3://bucket/prefix\n",
    )
    with pytest.raises(SettingsError):
        bucket_policy([], "b")
