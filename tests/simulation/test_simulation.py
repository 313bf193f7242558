"""The project's own protocol code under faults: nothing lost, nothing doubled, whatever dies and
whenever.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from pipeline.model.policy import Policy
from pipeline.model.settings import DAY_S

from . import explore, longevity
from .__main__ import history
from .mutations import ALL, DIRECTED, PROVEN_REDUNDANT, applied

SEEDS = 300
PARTS = 5

CAUGHT = {
    "any-task-publishes": (112, 113),
    "code-of-any-version": (158, 159),
    "collect-silently": (1111, 1112),
    "collect-uncovered": (0, 10),
    "dead-by-own-task": (0, 10),
    "dispatch-first": (73, 74),
    "fixed-output-names": (16, 17),
    "forget-superseded": (489, 490),
    "keep-nothing": (342, 343),
    "late-aggregates": (0, 10),
    "lost-is-final": (16, 17),
    "merge-blindly": (0, 10),
    "merge-forgets-deaths": (222, 223),
    "name-doomed-runs": (1097, 1098),
    "no-base-sequence": (0, 10),
    "one-nonce-an-order": (91, 92),
    "read-any-version": (0, 10),
    "readers-ignore-dead-keys": (0, 10),
    "settle-blindly": (0, 10),
    "sink-forgets-deaths": (72, 73),
    "stage-by-key-alone": (0, 10),
    "taken-means-ours": (0, 10),
    "trust-listings": (390, 391),
    "trust-mounts": (50, 51),
    "vacuum-at-once": (2898, 2899),
    "vacuum-open-tasks": (0, 10),
}
"""Rules that the simulation guards, and histories of which one shows that the rule is missing.
Where a change of the code moves them, `python -m tests.simulation --table` says which.
"""


@pytest.fixture(autouse=True)
def collected_afterwards() -> Iterator[None]:
    """Garbage goes once after each test: looking for it is a fifth of the time."""
    gc.disable()
    yield
    gc.enable()
    gc.collect()


@pytest.mark.parametrize("part", range(PARTS))
def test_no_history_violates_an_invariant(part: int) -> None:
    seeds = range(part * SEEDS // PARTS, (part + 1) * SEEDS // PARTS)
    found = [(seed, violation) for seed in seeds if (violation := history(seed)[1])]
    assert found == []


@pytest.mark.parametrize(("scene", "requests"), [("plain", 13), ("overwrite", 10), ("delete", 10)])
def test_no_interleaving_of_a_small_world_violates_an_invariant(scene: str, requests: int) -> None:
    found = explore.explore(scene, requests)
    assert found.states > 500
    assert found.buckets > 20


def test_a_missing_rule_is_noticed_by_the_interleavings() -> None:
    with applied("dispatch-first"), pytest.raises(explore.Violation):
        explore.explore("plain", 13)


def test_one_seed_is_one_history() -> None:
    first, again, other = history(7), history(7), history(8)
    assert first == again
    assert first[3] != other[3]


@pytest.mark.parametrize("name", sorted(CAUGHT))
def test_a_missing_rule_is_noticed(name: str) -> None:
    assert name in ALL
    said = [violation for seed in range(*CAUGHT[name]) if (violation := history(seed, name)[1])]
    assert said, f"no history notices that this rule is gone: {ALL[name][0]}"
    assert not any(violation.startswith("TypeError") for violation in said), (
        "the mutation does not fit the code any more"
    )


@pytest.mark.parametrize("name", sorted(DIRECTED))
def test_a_rule_that_histories_do_not_miss_has_a_test_that_does(name: str) -> None:
    DIRECTED[name]()
    with applied(name), pytest.raises(AssertionError):
        DIRECTED[name]()


def test_each_rule_is_guarded() -> None:
    assert {*CAUGHT, *DIRECTED, *PROVEN_REDUNDANT} == set(ALL)


@pytest.mark.parametrize(
    ("commits", "log_entries_max"), [(1_000, 200), (3_000, 200), (1_500, 10_000)]
)
def test_what_is_stored_and_what_loading_takes_do_not_grow_with_history(
    commits: int, log_entries_max: int
) -> None:
    """By count, where commits come fast; by time, where they come slowly."""
    policy = Policy(vacuum_every=64, checkpoint_every=16, log_entries_max=log_entries_max)
    days = 1.0 if log_entries_max == 200 else commits / 100
    year = longevity.Year(policy, retention_s=2 * DAY_S)
    longevity.run(longevity.live(year, commits=commits, days=days, sources=20, looks=50))
    assert year.most["all"] <= longevity.bound(policy, year.settings, commits_a_day=commits / days)
    assert year.load_requests <= longevity.LOAD_REQUESTS_MAX + policy.checkpoint_every


def test_a_mutation_leaves_the_code_as_it_was() -> None:
    before = history(3)
    history(3, "vacuum-open-tasks")
    assert history(3) == before
