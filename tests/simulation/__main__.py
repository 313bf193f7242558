"""python -m tests.simulation --seeds N --first SEED [--jobs J] [--mutation NAME]: run histories, print one line of figures."""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from unittest.mock import patch

from pipeline import ledger

from . import mutations
from .kernel import Violation
from .world import World

_decode = lru_cache(1024)(ledger.decode)
"""Reading a Parquet run costs more than all else in a history, and gives the same table each time."""


def history(seed: int, mutation: str | None = None) -> tuple[int, str | None, Counter[str], str]:
    """One history: its seed, the violation if there was one, its figures and the fingerprint of its trace."""
    with patch.object(ledger, "decode", _decode), mutations.applied(mutation):
        world = World(seed)
        try:
            world.run()
        except Violation as violation:
            return seed, str(violation), world.kernel.stats, world.kernel.trace.hexdigest()
        except Exception as error:  # whatever the code under test runs into is a violation too
            return seed, f"{type(error).__name__}: {error}", world.kernel.stats, world.kernel.trace.hexdigest()
    return seed, None, world.kernel.stats, world.kernel.trace.hexdigest()


def _chunk(job: tuple[range, str | None]) -> list[tuple[int, str | None, Counter[str], str]]:
    seeds, mutation = job
    return [history(seed, mutation) for seed in seeds]


def run(first: int, seeds: int, jobs: int, mutation: str | None = None) -> tuple[list[tuple[int, str]], Counter[str]]:
    """All violations (seed, message) and the summed figures."""
    step = 25
    work = [(range(s, min(s + step, first + seeds)), mutation) for s in range(first, first + seeds, step)]
    found: list[tuple[int, str]] = []
    figures: Counter[str] = Counter()
    with ProcessPoolExecutor(jobs) as pool:
        for chunk in pool.map(_chunk, work):
            for seed, violation, stats, _ in chunk:
                figures.update(stats)
                figures["histories"] += 1
                if violation is not None:
                    found.append((seed, violation))
    return found, figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--mutation", default=None, choices=[None, *mutations.ALL])
    args = parser.parse_args()
    started = time.perf_counter()
    found, figures = run(args.first, args.seeds, args.jobs, args.mutation)
    for seed, violation in found[:20]:
        print(f"seed {seed}: {violation}")
    spent = time.perf_counter() - started
    counts = ", ".join(f"{figures[name]:,} {name}" for name in sorted(figures) if name != "histories")
    print(f"{figures['histories']:,} histories, {len(found)} violations in {spent:.0f} s ({counts})")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
