"""A longer fuzz of keys and parsers, with new examples each time:  python -m tests.hostile
--minutes 5

Prints one line: inputs tried by kind, and failures. A failure is printed with the bytes that cause
it. `--large` streams a sparse file of 10 GB, and prints its peak memory.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.contract.test_store import make_store
from tests.hostile.stored import attempt, parsers
from tests.hostile.strategies import keys, mutated, mutations
from tests.hostile.test_changing import sparse, streamed
from tests.hostile.test_keys import round_trip, run

EXAMPLES = 100
FRESH = settings(
    derandomize=False,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
    database=None,
)


def fuzz(minutes: float, first: int) -> int:
    """Rounds over all parsers and two stores until the time is over.

    Returns the number of failures.
    """
    tried: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    failures = number = 0
    until = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="tidemill-hostile-") as folder:
        stores = {kind: make_store(kind, Path(folder)) for kind in ("memory", "local")}
        names = [*parsers(), *(f"keys, {kind}" for kind in stores)]
        while time.monotonic() < until:
            name, number = names[number % len(names)], number + 1
            try:
                if name in parsers():
                    _parser(name, first + number, tried, outcomes)
                else:
                    kind = name.removeprefix("keys, ")
                    _keys(stores[kind], name, kind, first + number, tried)
            except Exception as error:
                failures += 1
                print(
                    f"{name}, seed {first + number}: {type(error).__name__}: {error}",
                    file=sys.stderr,
                )
                for note in getattr(error, "__notes__", ()):
                    print(f"    {note}"[:2000], file=sys.stderr)
    kinds = ", ".join(f"{name} {tried[name]:,}" for name in names)
    print(
        f"{sum(tried.values()):,} inputs in {minutes:g} min from seed {first}, {failures} failures"
        f" ({kinds}; {dict(outcomes)})"
    )
    return failures


def _parser(name: str, number: int, tried: Counter[str], outcomes: Counter[str]) -> None:
    @seed(number)
    @settings(FRESH, max_examples=EXAMPLES)
    @given(
        st.sampled_from(parsers()[name].seeds),
        st.lists(mutations, min_size=1, max_size=4),
        st.binary(max_size=200),
        st.booleans(),
    )
    def check(body: bytes, damage: list[tuple[str, object]], anything: bytes, is_any: bool) -> None:
        for one in damage:
            body = mutated(body, one)
        tried[name] += 1
        outcomes[attempt(name, anything if is_any else body)] += 1

    check()


def _keys(store: object, name: str, kind: str, number: int, tried: Counter[str]) -> None:
    @seed(number)
    @settings(FRESH, max_examples=EXAMPLES // 4)
    @given(keys)
    def check(key: str) -> None:
        tried[name] += 1
        run(round_trip(store, key, folders=kind == "local"))

    check()


def large(gigabytes: int) -> None:
    """Stream a sparse file."""
    with tempfile.TemporaryDirectory(prefix="tidemill-hostile-") as folder:
        sparse(Path(folder) / "large", gigabytes * 2**30)
        began = time.monotonic()
        size, grown_mb = streamed(Path(folder).as_uri(), "large")
        print(
            f"streamed {size:,} bytes through obj.open() in {time.monotonic() - began:.1f} s, peak"
            f" memory rose by {grown_mb} MB"
        )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one")
    parser.add_argument(
        "--large", action="store_true", help="stream a sparse file of 10 GB instead"
    )
    options = parser.parse_args()
    if options.large:
        large(10)
        return 0
    return (
        1
        if fuzz(options.minutes, random.randrange(10**9) if options.seed is None else options.seed)
        else 0
    )


if __name__ == "__main__":
    sys.exit(main())
