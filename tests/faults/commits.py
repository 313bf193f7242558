"""Many commits of several processes to one log through the faulty proxy, and what the log holds
afterwards.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

import boto3

from pipeline.model import keys
from pipeline.model.commit import Commit
from pipeline.state import codec
from pipeline.stores import open_store
from tests.faults.proxy import ALL, Fault, Proxy, Rule, weather
from tests.support.helpers import ROOT

PIPELINE = "p"
UNANSWERED = tuple(
    Rule(fault, 1.0, "PUT", "/log/", times=6) for fault in (Fault.LOST_AFTER, Fault.LOST_BEFORE)
)


def rules(probability: float) -> tuple[Rule, ...]:
    """All faults; and entries whose answers are lost more often than a writer sends them."""
    return (*UNANSWERED, *weather(probability, faults=ALL))


@dataclass
class Found:
    """What came of it."""

    chain: list[str]
    """Ids in the log, by number."""
    reported: list[str]
    """Ids that their writers took for committed."""
    whole: bool
    """Whether numbers are dense and each entry names its predecessor."""
    writers: Counter[str]
    faults: Counter[str]
    requests: int

    @property
    def items(self) -> Counter[str]:
        """How often each entry is in the log, under whatever id it was sent."""
        return Counter(commit_id.rpartition("-")[0] for commit_id in self.chain)

    @property
    def lost(self) -> int:
        return len(set(self.reported) - set(self.chain))

    @property
    def doubled(self) -> int:
        return sum(n - 1 for n in self.items.values()) + len(self.chain) - len(set(self.chain))


def contend(
    server: str, *, bucket: str, commits: int, processes: int, seed: int, probability: float
) -> Found:
    """Run the writers to their end. Raises AssertionError where one of them fails."""
    boto3.client("s3", endpoint_url=server, region_name="us-east-1").create_bucket(Bucket=bucket)
    shares = [commits // processes + (i < commits % processes) for i in range(processes)]
    with Proxy(server, rules(probability), seed) as proxy:
        words = [sys.executable, "-m", "tests.faults.committer", proxy.url, bucket, PIPELINE]
        running = [
            subprocess.Popen(
                [*words, f"w{i}", str(share)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i, share in enumerate(shares)
        ]
        reported: list[str] = []
        writers: Counter[str] = Counter()
        for process in running:
            out, err = process.communicate()
            assert process.returncode == 0, err[-3000:]
            answer = json.loads(out)
            reported += answer.pop("reported")
            writers.update(answer)
    entries = asyncio.run(_entries(server, bucket))
    whole = [e.sequence for e in entries] == list(range(1, len(entries) + 1))
    whole = (
        whole and [e.previous for e in entries] == [None, *(e.id for e in entries)][: len(entries)]
    )
    return Found([e.id for e in entries], reported, whole, writers, proxy.counts, proxy.requests)


async def _entries(server: str, bucket: str) -> list[Commit]:
    """The log, read without the proxy."""
    store = open_store(f"s3://{bucket}", endpoint_url=server, region="us-east-1")
    found = []
    async for page in store.list(keys.log_prefix(keys.home(PIPELINE))):
        for key, stored in zip(page.keys, await store.get_many(page.keys), strict=True):
            assert stored is not None
            found.append(codec.decode(Commit, stored.body, key))
    return found
