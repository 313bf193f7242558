"""python -m bench.idle [--files 100000] [--peers]: what a new process takes to find nothing new
among many processed files.

`--peers` measures dlt and Pathway beside it, in turns, each in an environment of its own that is
made first. Processor seconds are those of the command and all processes that it waited for.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from bench import workloads
from bench.__main__ import HERE, WORK, measure

PEERS = {"dlt": ["-r", str(HERE / "requirements-peers.txt")], "pathway": ["pathway"]}


def measured(command: list[str]) -> tuple[float, float]:
    """Processor and wall seconds."""
    run = measure(command)
    assert run.code == 0, run.output[-2000:]
    return run.cpu, run.seconds


def interpreter(name: str) -> str:
    """Of an environment that has this peer."""
    folder = WORK / ("peers" if name == "dlt" else f"peers-{name}")
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"  installing {name}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS[name]], check=True)
    return str(python)


def commands(root: Path, *, peers: bool) -> dict[str, list[str]]:
    found = {
        "tidemill": [
            sys.executable,
            "-m",
            "pipeline.cli",
            "run",
            "bench/flows.py:tiny",
            "--bucket",
            str(root),
            "--json",
        ]
    }
    if peers:
        found["dlt"] = [interpreter("dlt"), str(HERE / "peer_dlt.py"), "tiny", str(root)]
        found["pathway"] = [interpreter("pathway"), str(HERE / "peer_pathway.py"), str(root)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", action="store_true")
    args = parser.parse_args()
    root = workloads.bucket(WORK, "tiny", args.files)
    for name in ("_tidemill", "tables", "dlt", "pathway"):
        shutil.rmtree(root / name, ignore_errors=True)
    programs = commands(root, peers=args.peers)
    first = {name: measured(command) for name, command in programs.items()}
    idle: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for i in range(args.repeats):
        for name in programs if i % 2 == 0 else reversed(programs):
            idle[name].append(measured(programs[name]))
    ours = statistics.median(cpu for cpu, _ in idle["tidemill"])
    print(
        f"{'program':10}{'first: cpu s':>14}{'nothing new: cpu s':>20}"
        f"{'wall s':>9}{'against ours':>14}"
    )
    for name, runs in idle.items():
        cpu, wall = (statistics.median(values) for values in zip(*runs, strict=True))
        print(f"{name:10}{first[name][0]:14.1f}{cpu:20.2f}{wall:9.2f}{cpu / ours:14.1f}")


if __name__ == "__main__":
    main()
