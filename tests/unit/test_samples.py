"""Our own samples: no column of theirs has to be quoted in SQL."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb

ROOT = Path(__file__).parent.parent.parent
SAMPLES = [
    ROOT / "README.md",
    ROOT / "pipeline/cli/setup/init.py",
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "examples").rglob("*.py"),
]
COLUMN = re.compile(r"""["'](\w+)["']\s*:|\("(\w+)", pa\.|pa\.field\("(\w+)"|\bAS (\w+)""")


def test_no_sample_has_a_column_called_like_a_word_of_sql() -> None:
    rows = duckdb.connect().execute(
        "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category IN ('reserved',"
        " 'type_function')"
    )
    reserved = {row[0] for row in rows.fetchall()}
    assert "at" in reserved
    found = [
        (path, name)
        for path in SAMPLES
        for groups in COLUMN.findall(path.read_text())
        for name in groups
        if name
    ]
    assert len(found) > 20
    assert not [
        (str(path.relative_to(ROOT)), name) for path, name in found if name.lower() in reserved
    ]
