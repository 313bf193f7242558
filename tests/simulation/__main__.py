"""python -m tests.simulation --seeds N --first SEED [--jobs J] [--mutation NAME]: run histories,
print one line of figures.

With --table: one line for each rule of the protocol, the mutation that removes it, and what notices
that it is gone. Each is tried on `--seeds` histories, or on more, until one notices.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from pipeline.errors import StateInvalid
from pipeline.state import sorted_runs

from . import mutations
from .kernel import Violation
from .world import World


@contextmanager
def runs_without_parquet() -> Iterator[None]:
    """Ledger runs are stored as references to their tables: Parquet costs a third of a history, and
    is tested elsewhere.
    """
    tables: list[Any] = []

    def encode(table: Any) -> bytes:
        tables.append(table)
        return f"run {len(tables) - 1}".encode()

    def decode(body: bytes, run: sorted_runs.Run, schema: Any) -> Any:
        if hashlib.sha256(body).hexdigest() != run.sha256:
            raise StateInvalid(run.key)
        return tables[int(body[4:])]

    with patch.object(sorted_runs, "encode", encode), patch.object(sorted_runs, "decode", decode):
        yield


def history(seed: int, mutation: str | None = None) -> tuple[int, str | None, Counter[str], str]:
    """One history: its seed, the violation if there was one, its figures and the fingerprint of its
    trace.
    """
    with runs_without_parquet(), mutations.applied(mutation):
        world = World(seed)
        try:
            world.run()
        except Violation as violation:
            return seed, str(violation), world.kernel.stats, world.kernel.trace.hexdigest()
        except Exception as error:  # whatever the code under test runs into is a violation too
            return (
                seed,
                f"{type(error).__name__}: {error}",
                world.kernel.stats,
                world.kernel.trace.hexdigest(),
            )
        finally:
            world.kernel.close()
    return seed, None, world.kernel.stats, world.kernel.trace.hexdigest()


def _chunk(job: tuple[range, str | None]) -> list[tuple[int, str | None, Counter[str], str]]:
    seeds, mutation = job
    gc.disable()  # a fifth of the time, for cycles that end with each history
    done = [history(seed, mutation) for seed in seeds]
    gc.collect()
    return done


def run(
    first: int, seeds: int, jobs: int, mutation: str | None = None
) -> tuple[list[tuple[int, str]], Counter[str]]:
    """All violations (seed, message) and the summed figures."""
    step = 25
    work = [
        (range(s, min(s + step, first + seeds)), mutation)
        for s in range(first, first + seeds, step)
    ]
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


SEEDS_MAX = 20_000


def noticed(mutation: str, seeds: int) -> tuple[int, int, int | None]:
    """Histories tried, how many noticed, and the first that did."""
    tried, hits, first = 0, 0, None
    while tried < seeds or (first is None and tried < SEEDS_MAX):
        hit = history(tried, mutation)[1] is not None
        first = tried if hit and first is None else first
        hits += hit
        tried += 1
    return tried, hits, first


def table(seeds: int, jobs: int) -> None:
    """The rules as a table in Markdown."""
    names = [
        n
        for n in mutations.ALL
        if n not in mutations.DIRECTED and n not in mutations.PROVEN_REDUNDANT
    ]
    print("| rule | mutation | noticed by |\n|---|---|---|", flush=True)
    with ProcessPoolExecutor(jobs) as pool:
        for name, (tried, hits, first) in zip(
            names, pool.map(noticed, names, [seeds] * len(names)), strict=True
        ):
            print(
                f"| {mutations.ALL[name][0]} | `{name}` | {hits} of {tried:,} histories, first by"
                f" seed {first} |",
                flush=True,
            )
    for name, test in mutations.DIRECTED.items():
        print(f"| {mutations.ALL[name][0]} | `{name}` | `{getattr(test, 'func', test).__name__}` |")
    for name, why in mutations.PROVEN_REDUNDANT.items():
        print(
            f"| {mutations.ALL[name][0]} | `{name}` | cannot be noticed: {' '.join(why.split())} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--mutation", default=None, choices=[None, *mutations.ALL])
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        table(args.seeds, args.jobs)
        return 0
    started = time.perf_counter()
    found, figures = run(args.first, args.seeds, args.jobs, args.mutation)
    for seed, violation in found[:20]:
        print(f"seed {seed}: {violation}")
    spent = time.perf_counter() - started
    counts = ", ".join(
        f"{figures[name]:,} {name}" for name in sorted(figures) if name != "histories"
    )
    print(
        f"{figures['histories']:,} histories, {len(found)} violations in {spent:.0f} s ({counts})"
    )
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
