"""python -m tests.values --minutes 10 [--seed 1]: the properties of this folder on new values,
until the time is over.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from tests.values import test_arrow, test_paths, test_writing
from tests.values.strategies import ANY, JSON, files, grouping, specs

WIDENINGS = st.sampled_from(["none", "float", "string"])
Property = Callable[[settings, int], None]
tried = {"files": 0, "tables": 0}


def _of_files(
    check: Callable[..., None], *more: st.SearchStrategy[Any], kinds: tuple[str, ...] = ANY
) -> Property:
    def run(usual: settings, seed: int) -> None:
        @seeded(seed)
        @given(st.tuples(files(kinds), *more))
        @usual
        def one(drawn: tuple[Any, ...]) -> None:
            tried["files"] += len(drawn[0])
            check(*drawn)

        one()

    return run


def _of_tables(check: Callable[[Any], None]) -> Property:
    def run(usual: settings, seed: int) -> None:
        @seeded(seed)
        @given(test_arrow.tables())
        @usual
        def one(table: Any) -> None:
            tried["tables"] += 1
            check(table)

        one()

    return run


PROPERTIES: dict[str, tuple[int, Property]] = {
    "documents": (60, _of_files(test_writing.check, WIDENINGS, kinds=JSON)),
    "Python values": (60, _of_files(test_writing.check, WIDENINGS)),
    "company": (60, _of_files(test_writing.company, grouping, WIDENINGS, st.integers(1, 9))),
    "company in every mode": (
        60,
        _of_files(test_writing.company, grouping, WIDENINGS, st.integers(1, 9), specs()),
    ),
    "Arrow tables": (60, _of_tables(lambda table: test_arrow.kept(table, table))),
    "Arrow tables in company": (30, _of_tables(test_arrow.company)),
    "Polars frames": (30, _of_tables(test_arrow.of_polars)),
    "pandas frames": (30, _of_tables(test_arrow.of_pandas)),
    "every path": (4, _of_files(test_paths.life, grouping, WIDENINGS)),
    "every path, Arrow": (3, _of_tables(test_paths.life_of_table)),
}
"""Each with the examples of one round."""


def main() -> int:
    """0 if nothing was found."""
    options = argparse.ArgumentParser(prog="python -m tests.values", description=__doc__)
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    given_options = options.parse_args()
    ends_s, seed = time.monotonic() + 60 * given_options.minutes, given_options.seed
    print(f"first seed {seed}")
    while time.monotonic() < ends_s:
        for name, (examples, run) in PROPERTIES.items():
            phases = (Phase.generate, Phase.shrink)
            usual = settings(
                max_examples=examples,
                deadline=None,
                database=None,
                phases=phases,
                suppress_health_check=list(HealthCheck),
            )
            try:
                run(usual, seed)
            except BaseException:
                print(f"{name}: failed with seed {seed}", file=sys.stderr)
                raise
        seed += 1
        print(
            f"{tried['files']:,} files and {tried['tables']:,} tables tried, nothing found",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
