"""python -m bench.million [--files 100000 1000000]: a first run over very many small files in a
local directory, and the next one.

Prints wall and processor seconds and the peak memory of the largest process, for each number of
files.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from bench.__main__ import Run, measure

FLOW = """
from pipeline import Object, Pipeline

small = Pipeline("small", source="in/")

@small.transform
def rows(obj: Object):
    return [{"n": int(obj.read())}]
"""


def fill(root: Path, files: int) -> None:
    """So many files of a few bytes, a thousand in each folder."""
    for start in range(0, files, 1000):
        folder = root / "in" / f"{start // 1000:05}"
        folder.mkdir(parents=True)
        descriptor = os.open(folder, os.O_RDONLY)
        for i in range(start, min(start + 1000, files)):
            file = os.open(f"{i:08}", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor)
            os.write(file, b"%d" % i)
            os.close(file)
        os.close(descriptor)


def line(run: Run) -> str:
    """A run's figures, and what it said first."""
    assert run.code == 0, run.output
    return f"{run.seconds:8.1f}{run.cpu:8.1f}{run.peak_mb:9.0f}  {run.output.splitlines()[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, nargs="*", default=[100_000, 1_000_000])
    args = parser.parse_args()
    print(f"{'files':>10}{'wall s':>8}{'cpu s':>8}{'peak MB':>9}")
    for files in args.files:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "flow.py").write_text(FLOW)
            fill(root, files)
            for _ in range(2):
                run = [
                    sys.executable,
                    "-m",
                    "pipeline.cli",
                    "run",
                    str(root / "flow.py"),
                    "--bucket",
                    str(root),
                ]
                print(f"{files:10,}{line(measure(run))}", flush=True)


if __name__ == "__main__":
    main()
