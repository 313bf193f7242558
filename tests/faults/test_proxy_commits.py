"""Commits of several real processes through a network with every fault."""

from __future__ import annotations

from tests.faults.commits import contend
from tests.faults.proxy import ALL
from tests.support.servers import moto_url


def test_no_commit_is_lost_or_doubled_whatever_the_network_does() -> None:
    """`python -m tests.faults` does the same for longer."""
    found = contend(
        moto_url(), bucket="faults-commits", commits=60, processes=3, seed=1, probability=0.02
    )
    assert {fault for fault in ALL if not found.faults[fault]} == set(), (
        "each fault really happened"
    )
    assert found.writers["unknown"] > 0
    assert set(found.items.values()) == {1}
    assert len(found.chain) == 60
    assert sorted(found.reported) == sorted(found.chain), (
        "what a writer takes for committed is, and nothing else"
    )
    assert found.whole
