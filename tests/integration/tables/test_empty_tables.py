"""A table that has no rows yet has whichever column is asked for: a program need not wait for the
first file.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.helpers import LOGS, Project


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT kind, v FROM logs",
        "SELECT l.v + 1 AS v FROM logs l WHERE kind = 'x'",
        "SELECT count(*) AS n FROM logs WHERE v > 1",
    ],
)
@pytest.mark.parametrize("quarantined", [False, True])
def test_columns_of_a_table_without_rows_are_no_error(
    tmp_path: Path, statement: str, quarantined: bool
) -> None:
    project = Project(tmp_path, LOGS)
    project.upload("bad" if quarantined else "empty", "no json" if quarantined else "")
    project.call("run", code=None)
    done = project.call("sql", statement, "--format", "json")
    assert json.loads(done.stdout) in ([], [{"n": 0}])
    assert "table logs has no rows yet" in done.stderr
    assert project.call("sql", "SELECT nothing FROM sources", code=2).stderr.count("\n") == 1
    assert project.call("sql", "SELECT x FROM lgs", code=2).stderr.count("\n") == 1
