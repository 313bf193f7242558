"""python -m tests.soak --runs N: kill the demo's run with SIGKILL at N random moments, then run once undisturbed and compare.

The sums of the disturbed bucket must be those of a bucket that was never disturbed, and its audit clean.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from examples.flights.uploads import BROKEN, daily_files

ROOT = Path(__file__).parent.parent
PIPELINE = "examples/flights/pipeline.py"
SUMS = "SELECT count(*), sum(miles), sum(departure_delay), count(DISTINCT _source_key) FROM flights"
AGAIN = 800
"""Files uploaded again after each kill, so that every run has much to do."""
TOTALS = "SELECT sum(flights) AS flights, round(sum(mean_delay), 3) AS delay FROM delays"


def command(bucket: Path, *arguments: str) -> list[str]:
    name, *rest = arguments
    return [sys.executable, "-m", "pipeline.cli", name, PIPELINE, *rest, "--bucket", str(bucket)]


def call(bucket: Path, *arguments: str) -> str:
    done = subprocess.run(command(bucket, *arguments), cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(f"{arguments} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def upload(bucket: Path) -> None:
    for name, body in [*((n, t.encode()) for n, t in daily_files()), *BROKEN.items()]:
        path = bucket / "uploads" / "flights" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)


def killed(bucket: Path, after_s: float, whole_group: bool) -> bool:
    """Start a run and kill it after so long, with its workers or alone; whether it was still running."""
    process = subprocess.Popen(
        command(bucket, "run"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(timeout=after_s)
    except subprocess.TimeoutExpired:
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        return True
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng, work, started = random.Random(args.seed), Path(tempfile.mkdtemp(prefix="tidemill-soak-")), time.monotonic()
    calm, rough = work / "calm", work / "rough"
    for bucket in (calm, rough):
        upload(bucket)
    begun = time.monotonic()
    call(calm, "run")
    usual = time.monotonic() - begun
    hits = 0
    for _ in range(args.runs):
        hits += killed(rough, rng.uniform(0.1, usual), rng.random() < 0.5)
        for path in rng.sample(sorted((rough / "uploads").rglob("*.csv")), AGAIN):
            path.write_bytes(path.read_bytes())  # uploaded again: another version of the same rows
    call(rough, "run")
    audits = [json.loads(call(bucket, "audit", "--json"))[0] for bucket in (calm, rough)]
    same = all(call(calm, "sql", q, "--format", "csv") == call(rough, "sql", q, "--format", "csv") for q in (SUMS, TOTALS))
    clean = all(audit["clean"] for audit in audits)
    shutil.rmtree(work)
    verdict = f"audit {'clean' if clean else audits[1]['problems'][:3]}, sums {'equal' if same else 'DIFFERENT'}"
    print(f"{args.runs} runs, {hits} killed before they ended, then one undisturbed: {verdict}, {time.monotonic() - started:.0f} s")
    return 0 if clean and same else 1


if __name__ == "__main__":
    raise SystemExit(main())
