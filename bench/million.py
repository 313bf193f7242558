"""python -m bench.million [--files 100000 1000000]: a first run over very many small files in a local directory, and the next one.

Prints wall and processor seconds and the peak memory of the largest process, for each number of files.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.__main__ import ENVIRONMENT, ROOT

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


def measured(command: list[str]) -> str:
    """One run of a command as a line."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, said
    cpu = usage.ru_utime + usage.ru_stime
    return f"{time.perf_counter() - began:8.1f}{cpu:8.1f}{usage.ru_maxrss / 1024:9.0f}  {said.splitlines()[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="*", default=[100_000, 1_000_000])
    args = parser.parse_args()
    print(f"{'files':>10}{'wall s':>8}{'cpu s':>8}{'peak MB':>9}")
    for files in args.files:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "flow.py").write_text(FLOW)
            fill(root, files)
            for _ in range(2):
                run = [sys.executable, "-m", "pipeline.cli", "run", str(root / "flow.py"), "--bucket", str(root)]
                print(f"{files:10,}{measured(run)}", flush=True)


if __name__ == "__main__":
    main()
