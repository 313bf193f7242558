"""`make demo`'s program: runs, shows what it says, and runs again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.helpers import ROOT


def test_the_demo_runs_twice(tmp_path: Path) -> None:
    environment = {**os.environ, "DEMO_BUCKET": str(tmp_path / "bucket")}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "examples.flights.demo"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1,000 files committed" in done.stdout
        assert "4 files quarantined" in done.stdout
        assert "97 files committed" in done.stdout
        assert "2 files deleted in the bucket" in done.stdout
        assert "clean at commit" in done.stdout
        assert "1,094 committed, 3 quarantined" in done.stdout
