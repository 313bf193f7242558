"""`make demo`: the main job from uploads to SQL, with the commands a user would type.

Runs in ./demo-bucket, made again.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from examples.flights.uploads import BROKEN, daily_files

PIPELINE = "examples/flights/flows.py"
BUCKET = Path(os.environ.get("DEMO_BUCKET", "demo-bucket"))
UPLOADS = BUCKET / "uploads" / "flights"
FIRST = 1_000
"""Files in the first batch of uploads."""


def main() -> None:
    """The whole show."""
    started = time.monotonic()
    shutil.rmtree(BUCKET, ignore_errors=True)
    files = daily_files()
    say(
        f"A bucket is a directory here: {BUCKET}/. Upload {FIRST:,} CSV files and {len(BROKEN)}"
        " that are broken."
    )
    for name, text in islice(files, FIRST):
        upload(name, text.encode())
    for name, body in BROKEN.items():
        upload(name, body)

    say("Process them. Each file is processed by a function; a broken file stops nobody.")
    tidemill("run", PIPELINE, code=1)

    say("What failed, and why:")
    tidemill("quarantine", "list", PIPELINE, code=1)

    say(
        "Now 95 more files arrive, one broken file is fixed, one file is replaced by a shorter"
        " one, and two are deleted."
    )
    for name, text in files:
        upload(name, text.encode())
    fixed = BROKEN["2013/03/letter-for-digit.csv"].replace(b"14O0", b"1400")
    upload("2013/03/letter-for-digit.csv", fixed)
    shorter = UPLOADS / "2013/01/01-01-EWR.csv"
    upload("2013/01/01-01-EWR.csv", b"".join(shorter.read_bytes().splitlines(keepends=True)[:11]))
    for name in ("2013/01/01-02-JFK.csv", "2013/01/01-02-LGA.csv"):
        (UPLOADS / name).unlink()
    tidemill("plan", PIPELINE)

    say("Run again: only those are processed, and the deleted files' rows are gone.")
    tidemill("run", PIPELINE)

    say("Ask in SQL. `delays` is an aggregate that each run keeps up to date.")
    worst = (
        "SELECT carrier, sum(flights) AS flights, max(mean_delay) AS worst_month FROM delays GROUP"
        " BY 1"
    )
    tidemill("sql", PIPELINE, f"{worst} ORDER BY 2 DESC LIMIT 5")
    tidemill(
        "sql",
        PIPELINE,
        "SELECT status, count(*) AS files, sum(rows) AS rows FROM sources GROUP BY 1 ORDER BY 1",
    )

    say("Prove it from the bucket itself: every file in exactly one state, no row lost or doubled.")
    tidemill("audit", PIPELINE)
    say(
        f"Done in {time.monotonic() - started:.0f} s. Try next:\n  .venv/bin/tidemill quarantine"
        f" show {PIPELINE} uploads/flights/2013/02/other-columns.csv --bucket {BUCKET}\n "
        f" .venv/bin/tidemill lineage {PIPELINE} uploads/flights/2013/01/01-01-EWR.csv --bucket"
        f" {BUCKET}\n  .venv/bin/tidemill run {PIPELINE} --bucket {BUCKET} --watch     and drop"
        f" files into {UPLOADS}/\n  .venv/bin/tidemill init my-project                    a project"
        " of your own"
    )


def say(text: str) -> None:
    """A step, set off from what the commands print."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def upload(name: str, body: bytes) -> None:
    """As an uploader should: beside the final name, then renamed, so that nobody sees
    half a file.
    """
    target = UPLOADS / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=BUCKET, prefix=".upload-", delete=False) as file:
        file.write(body)
    Path(file.name).rename(target)


def tidemill(*arguments: str, code: int = 0) -> None:
    """Show a command, run it, and stop if it ends otherwise than it should."""
    print(f"$ tidemill {shlex.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    done = subprocess.run(command, env={**os.environ, "TIDEMILL_BUCKET": str(BUCKET)}, check=False)
    if done.returncode != code:
        sys.exit(f"the demo expected exit code {code}, not {done.returncode}")


if __name__ == "__main__":
    main()
