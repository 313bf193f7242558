"""What integration tests share: a project in a directory, and the command line as users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from tests.support.warm import POSSIBLE, command_line

ROOT = Path(__file__).parent.parent.parent

LOGS = """
import json
from pipeline import Pipeline, Object

logs = Pipeline("logs", source="up/")

@logs.transform
def parse(obj: Object):
    return [json.loads(line) for line in obj.lines()]

logs.aggregate("by_kind", by=["kind"],
    sql="SELECT kind, count(*) AS n, sum(v) AS total FROM logs GROUP BY kind")
"""


class Project:
    """A pipeline file and a local bucket."""

    warm: tuple[str, ...] = ()
    """What its commands need besides what all do."""

    def __init__(
        self, folder: Path, source: str = LOGS, bucket: str | None = None, **environment: str
    ) -> None:
        self.folder = folder
        self.bucket = bucket or str(folder / "bucket")
        self.root = folder / "bucket"
        if bucket is None:
            self.root.mkdir(exist_ok=True)
        self.file = folder / "flow.py"
        self.environment = environment
        self.write(source)

    def write(self, source: str) -> None:
        self.file.write_text(textwrap.dedent(source))

    def upload(self, name: str, body: str | bytes) -> Path:
        path = self.root / "up" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body if isinstance(body, bytes) else body.encode())
        return path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pipeline.cli", *arguments]

    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TIDEMILL_BUCKET": self.bucket,
            **self.environment,
        }

    def call(
        self, command: str, *arguments: str, code: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        words = [*command.split(), str(self.file), *arguments]
        done = self.finish(*words)
        if code is not None:
            assert done.returncode == code, (
                f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        assert "Traceback" not in done.stderr or code is None, done.stderr
        return done

    def call_on(self, file: str, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command on FILE as written, such as `flow.py:name`."""
        return self.finish(*command.split(), file, *arguments)

    def finish(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command to its end, in a process of its own: a warm one, unless the environment changes
        the interpreter.
        """
        env = self.env()
        if not POSSIBLE or any(name.startswith("PYTHON") for name in self.environment):
            return subprocess.run(
                self.command(*words),
                env=env,
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=180,
            )
        return command_line(*self.warm).run(
            ["pipeline.cli", *words], env=env, cwd=self.folder, timeout=180
        )

    def run(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        done = self.call("run", "--json", *arguments, code=code)
        return json.loads(done.stdout.splitlines()[0])  # type: ignore[no-any-return]

    def sql(self, statement: str) -> list[dict[str, Any]]:
        return json.loads(self.call("sql", statement, "--format", "json").stdout)  # type: ignore[no-any-return]

    def audit(self) -> dict[str, Any]:
        done = self.call("audit", "--json", code=None)
        report = json.loads(done.stdout)[0]
        assert (done.returncode, report["problems"]) == (0, [])
        return report  # type: ignore[no-any-return]


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
