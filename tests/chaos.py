"""python -m tests.chaos --seconds 60 --seed 1: three runs at once, vacuums, queries, uploads, deletions and SIGKILLs, for a while.

Retention is zero, so that files go as soon as they may. At the end: an undisturbed run; rows and aggregates must be those of the
files that are there, and the audit clean. Every query under way must see aggregates that equal their rows, or say why it cannot.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent

FLOW = '''
import json, random, time
from pipeline import Pipeline, Object

logs = Pipeline("logs", source="up/", partition_by=["k"], retention_days=0)

@logs.transform(timeout_s=20)
def rows(obj: Object):
    time.sleep(random.random() * 0.01)
    for line in obj.lines():
        yield json.loads(line)

logs.aggregate("totals", by=["k"], sql="SELECT k, sum(v) AS v, count(*) AS n FROM logs GROUP BY k")
'''

COMMANDS = (["run"], ["run"], ["run", "--limit", "20"], ["vacuum"])


class World:
    """A bucket, what should be in it, and who works on it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.uploads = folder / "bucket" / "up"
        self.uploads.mkdir(parents=True)
        (folder / "flow.py").write_text(FLOW)
        self.truth: dict[str, list[dict[str, object]]] = {}
        self.running: list[subprocess.Popen[str]] = []
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def command(self, name: str, *rest: str) -> list[str]:
        return [sys.executable, "-m", "pipeline.cli", name, "flow.py", *rest, "--bucket", "bucket"]

    def call(self, name: str, *rest: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(self.command(name, *rest), cwd=self.folder, env=environment, capture_output=True, text=True)

    def upload(self) -> None:
        name = f"f{self.rng.randrange(400)}"
        rows = [{"k": self.rng.choice("abcd"), "v": self.rng.randrange(1000)} for _ in range(self.rng.randrange(6))]
        beside = self.folder / "upload"
        beside.write_text("".join(json.dumps(row) + "\n" for row in rows))
        beside.replace(self.uploads / name)
        self.truth[name] = rows
        self.counts["uploads"] += 1

    def remove(self) -> None:
        if self.truth:
            name = self.rng.choice(sorted(self.truth))
            (self.uploads / name).unlink()
            del self.truth[name]
            self.counts["deletions"] += 1

    def keep_busy(self) -> None:
        still = [process for process in self.running if process.poll() is None]
        for process in self.running:
            if process not in still and process.returncode not in (0, 1, -9):
                self.wrong.append(f"a command ended with {process.returncode}: {process.communicate()[1][:300]}")
        while len(still) < 3:
            name, *rest = self.rng.choice(COMMANDS)
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            still.append(
                subprocess.Popen(
                    self.command(name, *rest),
                    cwd=self.folder,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            self.counts["commands"] += 1
        self.running = still

    def kill(self) -> None:
        """One of the commands, or one of its workers."""
        process = self.rng.choice(self.running)
        try:
            below = psutil.Process(process.pid).children(recursive=True)
            (self.rng.choice(below) if below and self.rng.random() < 0.5 else process).kill()
        except psutil.Error:
            return
        self.counts["kills"] += 1

    def ask(self) -> None:
        done = self.call("sql", "SELECT (SELECT count(*) FROM logs), (SELECT coalesce(sum(n), 0) FROM totals)", "--format", "csv")
        self.counts["queries"] += 1
        if done.returncode == 0:
            rows, counted = done.stdout.splitlines()[1].split(",")
            if rows != counted:
                self.wrong.append(f"a query saw {rows} rows and an aggregate of {counted}")
        elif "not found in FROM clause" not in done.stderr and "totals" not in done.stderr:  # before the first rows
            self.wrong.append(done.stderr[:300])

    def check(self) -> None:
        """The end: quiet, then everything must be as the files say."""
        for process in self.running:
            process.communicate()
        for _ in range(2):
            self.call("run")
        expected = f"{sum(int(str(r['v'])) for rows in self.truth.values() for r in rows)},{sum(map(len, self.truth.values()))}"
        for query in ("SELECT sum(v), count(*) FROM logs", "SELECT sum(v), sum(n) FROM totals"):
            found = self.call("sql", query, "--format", "csv").stdout.splitlines()[1]
            if found != expected:
                self.wrong.append(f"{query}: {found}, expected {expected}")
        for name in ("audit", "vacuum", "audit"):
            done = self.call(name)
            if done.returncode:
                self.wrong.append(f"{name}: {done.stdout[:500]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tidemill-chaos-"))
    world, end = World(folder, args.seed), time.monotonic() + args.seconds
    while time.monotonic() < end:
        for _ in range(world.rng.randrange(1, 30)):
            world.upload()
        for _ in range(world.rng.randrange(5)):
            world.remove()
        world.keep_busy()
        time.sleep(world.rng.random() * 0.7)
        dice = world.rng.random()
        if dice < 0.35:
            world.kill()
        elif dice < 0.5:
            world.ask()
    world.check()
    for line in world.wrong[:10]:
        print(line)
    print(f"{', '.join(f'{n:,} {what}' for what, n in sorted(world.counts.items()))}; {len(world.wrong)} wrong")
    shutil.rmtree(folder)
    return 1 if world.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
