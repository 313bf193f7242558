"""python -m tests.faults --commits 500 --processes 4 --seed 1: concurrent commits of real processes
through the faulty proxy.
"""

from __future__ import annotations

import argparse
import secrets
import time

from tests.faults.commits import contend
from tests.faults.proxy import ALL
from tests.support.servers import moto_url


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--commits", type=int, default=500)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--probability", type=float, default=0.02, help="of each fault, for each request"
    )
    args = parser.parse_args()
    started_s = time.monotonic()
    found = contend(
        moto_url(),
        bucket=f"faults-{secrets.token_hex(4)}",
        commits=args.commits,
        processes=args.processes,
        seed=args.seed,
        probability=args.probability,
    )
    missing = args.commits - len(found.items)
    faults = ", ".join(f"{found.faults[fault]} {fault}" for fault in ALL)
    print(
        f"{len(found.chain)} commits of {args.processes} processes, seed {args.seed}:"
        f" {found.lost + missing} lost, {found.doubled} doubled, chain"
        f" {'whole' if found.whole else 'BROKEN'}; {found.requests:,} requests, faults: {faults};"
        f" writers: {', '.join(f'{n} {what}' for what, n in found.writers.items())};"
        f" {time.monotonic() - started_s:.0f} s"
    )
    return 1 if found.lost or found.doubled or missing or not found.whole else 0


if __name__ == "__main__":
    raise SystemExit(main())
