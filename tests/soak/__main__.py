"""python -m tests.soak --seconds 600 --store file --seed 1: several watching runs on one bucket,
while files come, change and go, other commands run, and processes are killed and stopped at random.

A query under way must see one version of each file, whole, never an older one than the query
before, and aggregates that equal their rows. At the end everything goes on and ends, one run is
undisturbed, and then the audit must be clean, quarantine must hold exactly the files whose last
content is bad, and rows and aggregates must be what this process remembers of the last contents.

What happens is decided by the seed; when it happens is real time. A killed watcher is started
again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.soak.parts import ROOT, SERVERS, Directory, Model, Process, Service

WATCHERS = 3
HANGS_S = 300.0

FLOW = """
import json, time
from pipeline import Pipeline, Object

soak = Pipeline("soak", source="up/", partition_by=["k"], retention_days=0)

@soak.transform(timeout_s=5)
def rows(obj: Object):
    time.sleep(0.004)
    for line in obj.lines():
        yield json.loads(line)

soak.aggregate("totals", by=["k"], sql="SELECT k, sum(v) AS v, count(*) AS n FROM soak GROUP BY k")
"""

BY_FILE = (
    "SELECT _source_key AS key, count(*) AS n, min(ver) AS low, max(ver) AS high, sum(v) AS v FROM"
    " soak GROUP BY ALL"
)
BY_KIND = "SELECT 'rows' AS key, k, sum(v) AS v, count(*) AS n FROM soak GROUP BY ALL"
TOTALS = "SELECT 'totals' AS key, k, v, n FROM totals"
QUESTION = f"SELECT * FROM ({BY_FILE}) UNION ALL BY NAME ({BY_KIND}) UNION ALL BY NAME ({TOTALS})"

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("vacuum",),
    ("compact",),
    ("compact", "--purge"),
    ("status", "--json"),
    ("quarantine list", "--json"),
    ("quarantine retry", "--all"),
    ("run", "--workers", "1"),
    ("run", "--limit", "15"),
    ("backfill", "--prefix", "f1"),
)


class Soak:
    """The bucket, what should be in it, who works on it, and what went wrong."""

    def __init__(self, folder: Path, bucket: Directory | Service, seed: int) -> None:
        self.folder, self.bucket = folder, bucket
        self.rng = random.Random(seed)
        self.model = Model(self.rng)
        self.flow = folder / "flow.py"
        self.flow.write_text(FLOW)
        # a kill in a command's first moments leaves an empty folder
        (temporary := self.folder / "tmp").mkdir(exist_ok=True)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(temporary),
            **bucket.environment,
        }
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.watchers: list[Process] = []
        self.others: list[Process] = []
        self.query: Process | None = None
        self.resume: list[tuple[float, Process, list[int]]] = []
        self.begun = time.monotonic()

    def say(self, problem: str) -> None:
        self.problems.append(f"at {time.monotonic() - self.begun:.1f} s: {problem}")

    # -- processes ---------------------------------------------------------------------------------

    def start(self, words: str, *rest: str) -> Process:
        self.counts["commands"] += 1
        return Process(
            self.folder,
            self.counts["commands"],
            [*words.split(), str(self.flow), *rest],
            self.environment,
        )

    def asked(self, words: str, *rest: str) -> list[dict[str, Any]]:
        """What a command answers in JSON, nothing where it does not: then that is a
        problem, too.
        """
        said = self.call(words, *rest)
        try:
            found: list[dict[str, Any]] = json.loads(said)
        except ValueError:
            self.say(f"{words} answered {said[:300]!r}")
            return []
        return found

    def call(self, words: str, *rest: str) -> str:
        """Run a command to its end; its output."""
        process = self.start(words, *rest)
        self.awaited(process, f"{words} hangs")
        self.ended(process)
        return process.out.read_text()

    def awaited(self, process: Process, complaint: str) -> None:
        """Wait for the end of a command; one that does not come to it is a problem, and killed."""
        try:
            process.popen.wait(timeout=HANGS_S)
        except subprocess.TimeoutExpired:
            self.say(complaint)
            os.killpg(process.popen.pid, signal.SIGKILL)
            process.popen.wait()

    def ended(self, process: Process) -> None:
        complaint = process.complaint()
        if complaint:
            self.say(complaint)

    def keep_up(self) -> None:
        """Go on with what was stopped long enough, look at what ended, and keep so many watchers at
        work.
        """
        now = time.monotonic()
        for due, process, pids in list(self.resume):
            if now >= due:
                self.resume.remove((due, process, pids))
                process.paused = False
                _continue(pids)
        for group in (self.watchers, self.others):
            for process in list(group):
                if process.popen.poll() is not None:
                    group.remove(process)
                    self.ended(process)
                elif group is self.others and not process.paused and now - process.begun > HANGS_S:
                    self.say(f"{' '.join(process.words)} hangs")
                    process.struck, process.begun = True, now
                    os.killpg(process.popen.pid, signal.SIGKILL)
        while sum(not watcher.paused for watcher in self.watchers) < WATCHERS:
            self.watchers.append(
                self.start("run", "--watch", "--interval", "0.3", "--workers", "2")
            )
            self.counts["runs"] += 1
        if self.query is not None and self.query.popen.poll() is not None:
            self.answered(self.query)
            self.query = None

    def strike(self, number: int) -> None:
        which, dice, length = self.rng.random(), self.rng.random(), self.rng.random()
        there = [*self.watchers, *self.others]
        if not there:
            return
        process = there[int(which * len(there))]
        if number == signal.SIGSTOP:
            pids = process.send(number, dice)
            seconds = 3 * length if length < 0.75 else 15 * length if length < 0.95 else 110.0
            process.paused = seconds > 100
            self.resume.append((time.monotonic() + seconds, process, pids))
            self.counts["stops"] += 1
        else:
            process.struck = True
            process.send(number, dice)
            self.counts["kills"] += 1

    def order(self) -> None:
        words, *rest = self.rng.choice(COMMANDS)
        if len(self.others) < 3:
            self.counts["runs"] += words in ("run", "backfill")
            self.others.append(self.start(words, *rest))

    # -- files -------------------------------------------------------------------------------------

    def put(self, *, name: str | None = None, how: str = "fresh") -> None:
        """Something new under a key: other rows, a bad file, the same bytes, or bytes that were
        there before.
        """
        name = name or self.rng.choice(sorted(self.model.files))
        file = self.model.files[name]
        before, former = file.contents[-1], [c for c in file.contents if c is not None]
        content = self.model.fresh(bad=how == "bad")
        if how == "same" and before is not None:
            content = before
        elif how == "former" and former:
            content = self.rng.choice(former)
        what = "overwrites" if before is not None else "re-creations" if former else "uploads"
        self.counts[what] += 1
        self.counts["bad"] += content.bad
        file.contents.append(content)
        self.bucket.put(name, content.body())

    def remove(self, name: str | None = None) -> None:
        there = sorted(self.model.last())
        if there:
            name = name or self.rng.choice(there)
            self.bucket.delete(name)
            self.model.files[name].contents.append(None)
            self.counts["deletes"] += 1

    # -- questions ---------------------------------------------------------------------------------

    def ask(self) -> None:
        if self.query is None:
            self.query = self.start("sql", QUESTION, "--format", "json")

    def answered(self, process: Process) -> None:
        """A query is answered from one snapshot, or refused in one line: before the first rows, or
        if a vacuum was faster.
        """
        said = process.err.read_text()
        if process.popen.returncode == 0:
            self.counts["queries"] += 1
            self.look(json.loads(process.out.read_text()))
        elif process.popen.returncode in (1, 2) and _early_or_late(said):
            self.counts["refused"] += 1
        else:
            self.say(
                process.complaint() or f"a query ended with {process.popen.returncode}: {said}"
            )

    def look(self, answer: list[dict[str, Any]]) -> None:
        by_key = {
            row["key"]: (row["n"], row["low"], row["high"], row["v"])
            for row in answer
            if row["k"] is None
        }
        for name, file in self.model.files.items():
            seen, before = by_key.pop(f"up/{name}", None), file.position
            if not file.observe(seen):
                self.say(
                    f"{name} was seen with {seen}; from position {before} it had"
                    f" {[c and c.seen() for c in file.contents]}"
                )
        if by_key:
            self.say(f"rows of files that never were: {sorted(by_key)[:3]}")
        rows, totals = (
            {row["k"]: (row["v"], row["n"]) for row in answer if row["key"] == name and row["k"]}
            for name in ("rows", "totals")
        )
        if rows != totals:
            self.say(f"a query saw rows {rows} and aggregates {totals}")

    # -- from beginning to end ---------------------------------------------------------------------

    def act(self) -> None:
        """One thing happens."""
        deeds: tuple[tuple[int, Callable[[], None]], ...] = (
            (36, self.put),
            (4, lambda: [self.put() for _ in range(20)] and None),
            (6, lambda: self.put(how="same")),
            (4, lambda: self.put(how="former")),
            (5, lambda: self.put(how="bad")),
            (10, self.remove),
            (8, lambda: self.strike(signal.SIGKILL)),
            (9, lambda: self.strike(signal.SIGSTOP)),
            (9, self.ask),
            (9, self.order),
        )
        self.rng.choices([deed for _, deed in deeds], [weight for weight, _ in deeds])[0]()

    def settle(self) -> None:
        """Everything goes on, and ends by itself: watchers are asked to."""
        for _, _, pids in self.resume:
            _continue(pids)
        for watcher in self.watchers:
            watcher.asked = True
            with suppress(ProcessLookupError):
                watcher.popen.send_signal(signal.SIGINT)
        for process in [*self.watchers, *self.others, *([self.query] if self.query else [])]:
            self.awaited(process, f"{' '.join(process.words)} does not end")
            if process is not self.query:
                self.ended(process)
        if self.query is not None:
            self.answered(self.query)

    def check(self) -> None:
        """The undisturbed end."""
        self.call("quarantine retry", "--all")
        self.call("run")
        last = self.model.last()
        bad = {name for name, content in last.items() if content.bad}
        self.compare(
            "sources",
            self.audit()["sources"],
            _counts(committed=len(last) - len(bad), quarantined=len(bad)),
        )
        listed = self.asked("quarantine list", "--json")
        self.compare(
            "quarantine", sorted(q["key"] for q in listed), sorted(f"up/{name}" for name in bad)
        )
        self.look(self.asked("sql", QUESTION, "--format", "json"))
        rows = {
            row["key"]: (row["n"], row["v"])
            for row in self.asked("sql", BY_FILE, "--format", "json")
        }
        for name, content in last.items():
            if not content.bad and rows.get(f"up/{name}", (0, 0)) != (
                len(content.rows),
                sum(v for _, v in content.rows),
            ):
                self.say(f"{name} ends with {rows.get(f'up/{name}')} instead of {content}")
        for i, name in enumerate(sorted(bad)):
            self.remove(name) if i % 2 else self.put(name=name)
        self.call("run")
        self.compare("sources", self.audit()["sources"], _counts(committed=len(self.model.last())))
        self.sums()
        self.call("compact", "--purge")
        self.sums()
        self.call("aggregate", "--check")
        for _ in range(2):  # the first one ends what a killed one began
            self.call("vacuum")
        report = self.audit()
        self.compare("orphans after the vacuum", report["orphans"], 0)
        self.counts["commits"] = report["sequence"]
        self.sums()

    def sums(self) -> None:
        for name, statement in (("rows", BY_KIND), ("aggregates", TOTALS)):
            found = {
                row["k"]: (row["v"], row["n"])
                for row in self.asked("sql", statement, "--format", "json")
            }
            self.compare(f"sums of the {name}", found, self.model.totals())

    def audit(self) -> dict[str, Any]:
        report = (
            self.asked("audit", "--json")
            or [{"problems": "no answer", "sources": {}, "orphans": -1, "sequence": 0}]
        )[0]
        self.compare("the audit's problems", report["problems"], [])
        return report

    def compare(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            self.say(f"{what}: {str(found)[:400]}, expected {str(expected)[:400]}")


def _counts(**states: int) -> dict[str, int]:
    return {name: n for name, n in states.items() if n}


def _early_or_late(said: str) -> bool:
    """Whether a query was refused for want of any rows or columns so far, or since a vacuum kept
    being faster.
    """
    return any(
        words in said for words in ("is empty", "does not exist", "not found in FROM clause")
    )


def _continue(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def soak(
    store: str,
    seed: int,
    *,
    seconds: float | None,
    actions: int | None,
    pause_s: float,
    server: str,
) -> dict[str, Any]:
    """One soak from beginning to end; its figures.

    Where there are problems the folder with all outputs is kept.
    """
    folder = Path(tempfile.mkdtemp(prefix="tidemill-soak-"))
    world = Soak(folder, Directory(folder) if store == "file" else Service(server), seed)
    while (seconds is None or time.monotonic() - world.begun < seconds) and (
        actions is None or world.counts["actions"] < actions
    ):
        world.keep_up()
        world.act()
        world.counts["actions"] += 1
        time.sleep(pause_s * world.rng.random())
    world.settle()
    world.check()
    names = (
        "uploads",
        "overwrites",
        "bad",
        "deletes",
        "re-creations",
        "kills",
        "stops",
        "runs",
        "commands",
        "commits",
        "queries",
    )
    figures: dict[str, Any] = {"store": store if store == "file" else server, "seed": seed}
    figures |= {
        "seconds": round(time.monotonic() - world.begun),
        **{name: world.counts[name] for name in names},
    }
    figures |= {"refused": world.counts["refused"], "problems": world.problems}
    if world.problems:
        figures["kept"] = str(folder)
    else:
        shutil.rmtree(folder)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=600,
        help="how long things happen; the end takes a little longer",
    )
    parser.add_argument("--actions", type=int, help="instead of seconds: how many things happen")
    parser.add_argument("--store", choices=["file", "s3", "both"], default="both")
    parser.add_argument(
        "--server", choices=sorted(SERVERS), default="seaweedfs", help="who serves S3"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--pause", type=float, default=0.25, help="at most so many seconds between two things"
    )
    parser.add_argument("--json", action="store_true", help="figures as JSON, one line a store")
    args = parser.parse_args()
    # a shell's background jobs ignore it, and so would all they start
    signal.signal(signal.SIGINT, signal.default_int_handler)
    failed = False
    for store in ("file", "s3") if args.store == "both" else (args.store,):
        figures = soak(
            store,
            args.seed,
            seconds=None if args.actions else args.seconds,
            actions=args.actions,
            pause_s=args.pause,
            server=args.server,
        )
        failed |= bool(figures["problems"])
        if args.json:
            print(json.dumps(figures))
            continue
        for problem in figures["problems"][:20]:
            print(problem)
        shown = ", ".join(
            f"{n:,} {what}" for what, n in figures.items() if isinstance(n, int) and what != "seed"
        )
        ending = f"{len(figures['problems'])} problems {figures.get('kept', '')}".strip()
        print(f"{figures['store']}, seed {args.seed}: {shown}, {ending}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
