"""The project's own protocol code under faults: nothing lost, nothing doubled, whatever dies and whenever."""

from __future__ import annotations

import pytest

from .__main__ import history
from .mutations import ALL

SEEDS = 2_000
PARTS = 8

CAUGHT = {
    "fixed-output-names": 100,
    "forget-superseded": 400,
    "late-aggregates": 100,
    "lost-is-final": 200,
    "no-base-sequence": 100,
    "read-any-version": 200,
    "readers-ignore-dead-keys": 100,
    "taken-means-ours": 100,
    "one-nonce-an-order": 500,
    "trust-listings": 200,
    "trust-mounts": 400,
    "vacuum-open-tasks": 100,
    "vacuum-shares-runs": 300,
}
"""Rules that the simulation guards, and how many histories may pass before one shows that the rule is missing."""


@pytest.mark.parametrize("part", range(PARTS))
def test_no_history_violates_an_invariant(part: int) -> None:
    seeds = range(part * SEEDS // PARTS, (part + 1) * SEEDS // PARTS)
    found = [(seed, violation) for seed in seeds if (violation := history(seed)[1])]
    assert found == []


def test_one_seed_is_one_history() -> None:
    first, again, other = history(7), history(7), history(8)
    assert first == again
    assert first[3] != other[3]


@pytest.mark.parametrize("name", sorted(CAUGHT))
def test_a_missing_rule_is_noticed(name: str) -> None:
    assert name in ALL
    assert any(history(seed, name)[1] for seed in range(CAUGHT[name])), f"no history notices that this rule is gone: {ALL[name][0]}"


def test_a_mutation_leaves_the_code_as_it_was() -> None:
    before = history(3)
    history(3, "vacuum-open-tasks")
    assert history(3) == before
