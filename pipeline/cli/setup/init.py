"""`tidemill init`: a project with one pipeline, sample uploads and a test, that runs as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from pipeline.cli.pasted_commands import quoted
from pipeline.cli.render import as_json
from pipeline.errors import SettingsError

PIPELINE = '''"""Each JSON-lines file in uploads/events/ becomes rows of the table `events`."""

import json

from tidemill import Object, Pipeline

events = Pipeline("events", source="uploads/events/")


@events.transform(match="**/*.jsonl")
def parse(obj: Object):
    """Called once for each new or changed file; what it yields are the file's rows."""
    for number, line in enumerate(obj.lines(), 1):
        try:
            event = json.loads(line)
        except ValueError:
            obj.reject(line.rstrip("\\n"), f"line {number} is not JSON")
            continue
        yield {"happened_at": event["happened_at"], "kind": event["kind"],
            "amount": float(event["amount"])}


events.aggregate(
    "totals",
    by=["kind"],
    sql="SELECT kind, count(*) AS events, sum(amount) AS amount FROM events GROUP BY kind",
)
'''

SAMPLES = {
    "monday.jsonl": (
        '{"happened_at": "2026-01-05T09:00:00", "kind": "sale", "amount": 12.5}\n'
        '{"happened_at": "2026-01-05T09:30:00", "kind": "refund", "amount": 3}\n'
    ),
    "tuesday.jsonl": (
        '{"happened_at": "2026-01-06T10:00:00", "kind": "sale", "amount": 20}\nthis line is not'
        " JSON\n"
    ),
}

TEST = '''"""Run with:  python -m pytest"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def tidemill(*arguments: str) -> str:
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE).stdout


def test_uploads_become_rows(tmp_path: Path) -> None:
    uploads = tmp_path / "uploads" / "events"
    uploads.mkdir(parents=True)
    line = '{"happened_at": "2026-01-05T09:00:00", "kind": "sale", "amount": 2}\\n'
    (uploads / "one.jsonl").write_text(line)
    tidemill("run", "events.py", "--bucket", str(tmp_path))
    answer = tidemill("sql", "events.py", "SELECT kind, amount FROM totals", "--bucket",
        str(tmp_path), "--format", "csv")
    assert answer == "kind,amount\\nsale,2.0\\n"
'''


def _project() -> dict[str, str]:
    """The files by their path in the project."""
    files = {
        "events.py": PIPELINE,
        "test_events.py": TEST,
        ".gitignore": "bucket/_tidemill/\nbucket/tables/\nbucket/.tidemill/\n",
    }
    return files | {f"bucket/uploads/events/{name}": text for name, text in SAMPLES.items()}


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@click.command("init", epilog="Example:  tidemill init my-project")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--json", "json_wanted", is_flag=True, help="print JSON for programs")
def init_command(folder: Path, json_wanted: bool) -> int:
    """Make DIR with a pipeline, sample uploads in a local bucket, and a test.

    Nothing that exists is overwritten.
    """
    files = _project()
    taken = [name for name in files if (folder / name).exists()]
    if taken:
        raise SettingsError(f"{folder / taken[0]} exists already: choose another directory")
    _write(folder, files)
    if json_wanted:
        as_json({"folder": str(folder), "files": list(files)})
        return 0
    click.echo(f"made {folder}/ with a pipeline (events.py), two sample uploads and a test. Try:")
    click.echo(f"  cd {quoted(str(folder))}")
    click.echo("  tidemill run events.py --bucket ./bucket")
    click.echo('  tidemill sql events.py "SELECT * FROM totals" --bucket ./bucket')
    return 0
