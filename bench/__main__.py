"""python -m bench [--repeats 3] [--only WORK ...] [--peers]: measure Tidemill beside other
programs, in turns, in one run.

Every figure is the wall time of a whole command in a new process, the median of the repeats.
Results go to bench/results.json and, as a table, to standard output. `--peers` also measures dlt
and Daft, in an environment of their own that is made first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import workloads

HERE = Path(__file__).parent
ROOT = HERE.parent
WORK = Path(os.environ.get("BENCH_WORK", HERE / ".work"))
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


@dataclass
class Run:
    """One command, measured."""

    seconds: float
    peak_mb: float
    code: int
    output: str
    cpu: float = 0.0
    """Processor seconds of the command and all processes that it waited for."""


def measure(command: list[str]) -> Run:
    """Wall and processor time, and peak memory of the largest process among the command and its
    children.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    cpu = usage.ru_utime + usage.ru_stime
    return Run(
        time.perf_counter() - started,
        usage.ru_maxrss / 1024,
        os.waitstatus_to_exitcode(status),
        output,
        cpu,
    )


def tidemill(root: Path, kind: str) -> Callable[[], Run]:
    return lambda: measure(
        [
            sys.executable,
            "-m",
            "pipeline.cli",
            "run",
            f"bench/flows.py:{kind}",
            "--bucket",
            str(root),
            "--json",
        ]
    )


def floor(root: Path, kind: str) -> Callable[[], Run]:
    return lambda: measure([sys.executable, "-m", "bench.floor", kind, str(root)])


def peer(name: str, root: Path, kind: str) -> Callable[[], Run]:
    return lambda: measure(
        [str(WORK / "peers/bin/python"), str(HERE / f"peer_{name}.py"), kind, str(root)]
    )


def forget(root: Path) -> None:
    """Everything that any program made of a bucket."""
    for name in ("tables", "_tidemill", ".tidemill", "floor", "dlt", "daft"):
        shutil.rmtree(root / name, ignore_errors=True)
    os.sync()


@dataclass
class Work:
    """One line of the table."""

    name: str
    target: str
    runs: dict[str, list[Run]] = field(default_factory=dict)

    def compare(
        self,
        programs: dict[str, Callable[[], Run]],
        repeats: int,
        before: Callable[[], None],
        codes: tuple[int, ...] = (0,),
    ) -> None:
        """Each program in turn, and that several times: what disturbs one disturbs all."""
        for i in range(repeats):
            for name, program in programs.items() if i % 2 == 0 else reversed(programs.items()):
                before()
                run = program()
                assert run.code in codes, f"{name} ended with {run.code}:\n{run.output[-3000:]}"
                self.runs.setdefault(name, []).append(run)
                print(
                    f"  {self.name}: {name} {run.seconds:.2f} s, {run.peak_mb:.0f} MB",
                    file=sys.stderr,
                    flush=True,
                )

    def seconds(self, program: str) -> float:
        return statistics.median(run.seconds for run in self.runs[program])

    def peak_mb(self, program: str) -> float:
        return statistics.median(run.peak_mb for run in self.runs[program])

    def row(self) -> list[str]:
        ours = self.seconds("tidemill")
        cells = [self.name, f"{ours:.2f} s", f"{self.peak_mb('tidemill'):.0f} MB"]
        for name in ("floor", "dlt", "daft"):
            cells.append(
                f"{self.seconds(name):.2f} s ({ours / self.seconds(name):.2f})"
                if name in self.runs
                else ""
            )
        return [*cells, self.target]


def first_ingest(
    kind: str, count: int, target: str, repeats: int, peers: tuple[str, ...] = ()
) -> Work:
    root, work = workloads.bucket(WORK, kind, count), Work(f"{count:,} {kind}", target)
    programs = {"tidemill": tidemill(root, kind), "floor": floor(root, kind)} | {
        p: peer(p, root, kind) for p in peers
    }
    work.compare(programs, repeats, lambda: forget(root))
    return work


def malformed(count: int, repeats: int) -> Work:
    root, work = (
        workloads.bucket(WORK, "logs", count),
        Work(f"{count:,} logs, 50 broken", "1.4 x floor"),
    )
    workloads.break_some(root, count, 50)
    try:
        both = {"tidemill": tidemill(root, "logs"), "floor": floor(root, "logs")}
        work.compare(both, repeats, lambda: forget(root), codes=(0, 1))
        for run in work.runs["tidemill"]:
            said = json.loads(run.output.splitlines()[0])
            assert (said["committed"], said["quarantined"]) == (count - 50, 50), said
    finally:
        workloads.fix(root, count, 50)
    return work


def nothing_new(count: int, repeats: int) -> list[Work]:
    root = workloads.bucket(WORK, "tiny", count)
    forget(root)
    for program in (tidemill(root, "tiny"), floor(root, "tiny")):
        assert program().code == 0
    cold = Work(f"nothing new, {count:,} processed, new process", "0.6 s, 150 MB")
    cold.compare(
        {"tidemill": tidemill(root, "tiny"), "floor": floor(root, "tiny")}, repeats, os.sync
    )
    warm = Work(f"nothing new, {count:,} processed, same process", "0.2 s")
    run = measure([sys.executable, "-m", "bench.warm", str(root), "5"])
    assert run.code == 0, run.output
    passes = json.loads(run.output.splitlines()[-1])
    warm.runs["tidemill"] = [Run(seconds, run.peak_mb, 0, "") for seconds in passes[1:]]
    return [cold, warm]


def increment(count: int, new: int, repeats: int) -> Work:
    root, work = (
        workloads.bucket(WORK, "logs", count),
        Work(f"{new} new after {count:,} logs", "0.6 s"),
    )
    forget(root)
    for program in (tidemill(root, "logs"), floor(root, "logs")):
        assert program().code == 0
    added: list[Path] = []

    def upload() -> None:
        start = count + len(added)
        for i in range(start, start + new):
            path = root / "raw" / "new" / f"{i}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(workloads.log_file(i))
            added.append(path)

    for i in range(repeats):
        upload()
        both = {"tidemill": tidemill(root, "logs"), "floor": floor(root, "logs")}
        work.compare(dict(both if i % 2 == 0 else reversed(both.items())), 1, lambda: None)
    shutil.rmtree(root / "raw" / "new")
    return work


def memory(small: int, large: int) -> Work:
    work = Work(f"peak memory, {large:,} against {small:,} tiny files", "within 20 %")
    peaks = []
    for count in (small, large):
        root = workloads.bucket(WORK, "tiny", count)
        forget(root)
        run = tidemill(root, "tiny")()
        peaks.append(run.peak_mb)
        work.runs["tidemill"] = [run]
        print(f"  {work.name}: {count} files, {run.peak_mb:.0f} MB", file=sys.stderr, flush=True)
    work.name += f": {peaks[1]:.0f} / {peaks[0]:.0f} MB = {peaks[1] / peaks[0]:.2f}"
    return work


def make_peers() -> None:
    """An environment of their own for the programs that we compare with."""
    if not (WORK / "peers/bin/python").exists():
        print("  installing dlt and Daft", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(WORK / "peers")], check=True)
        pip = [
            str(WORK / "peers/bin/python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "-r",
            str(HERE / "requirements-peers.txt"),
        ]
        subprocess.run(pip, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    names = ["logs", "csv", "images", "tiny", "nothing", "increment", "malformed", "memory"]
    parser.add_argument("--only", nargs="*", choices=names)
    parser.add_argument("--peers", action="store_true", help="measure dlt and Daft too")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="a part of each workload, for a quick look"
    )
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    if args.peers:
        make_peers()
    n = {kind: max(60, int(size * args.scale)) for kind, size in workloads.SIZES.items()}
    dlt, both = (("dlt",), ("dlt", "daft")) if args.peers else ((), ())
    r = args.repeats
    jobs: dict[str, Callable[[], Any]] = {
        "logs": lambda: first_ingest(
            "logs", n["logs"], "1.2 x floor, 1/2.5 x dlt, 1 x Daft", r, both
        ),
        "csv": lambda: first_ingest("csv", n["csv"], "1.15 x floor", r, dlt),
        "images": lambda: first_ingest("images", n["images"], "1.05 x floor", r),
        "tiny": lambda: first_ingest("tiny", n["tiny"], "1.5 x floor", r),
        "nothing": lambda: nothing_new(n["tiny"], r),
        "increment": lambda: increment(n["logs"], 100, r),
        "malformed": lambda: malformed(n["logs"], r),
        "memory": lambda: memory(n["tiny"] // 10, n["tiny"]),
    }
    works: list[Work] = []
    for name, job in jobs.items():
        if args.only is None or name in args.only:
            result = job()
            works += result if isinstance(result, list) else [result]
    report(works, args.repeats)


def report(works: list[Work], repeats: int) -> None:
    """The table on standard output, everything in results.json."""
    head = [
        "work",
        "tidemill",
        "peak memory",
        "floor (ratio)",
        "dlt (ratio)",
        "Daft (ratio)",
        "target",
    ]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for work in works:
        print("| " + " | ".join(work.row()) + " |")
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
        "repeats": repeats,
    }
    runs = {
        w.name: {
            p: [[round(r.seconds, 3), round(r.peak_mb)] for r in rs] for p, rs in w.runs.items()
        }
        for w in works
    }
    (HERE / "results.json").write_text(
        json.dumps({"machine": machine, "runs": runs}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
