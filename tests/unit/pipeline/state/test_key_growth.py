"""What a listing shows of how keys grow, and where the next one may begin."""

from __future__ import annotations

import random

import pytest

from pipeline.model.listing import Page
from pipeline.state.key_growth import (
    LISTED_MIN,
    OVERLAP_S,
    PREFIXES_MAX,
    Growth,
    Survey,
    explained,
    stretch_of,
)

SECOND = 1_000_000


def survey(objects: dict[str, int], before: Growth | None = None, page: int = 10_000) -> Survey:
    """The listing of objects, each with the second it was uploaded at."""
    found, names = Survey("in/", before), sorted(objects)
    for start in range(0, len(names), page):
        keys = names[start : start + page]
        whens = [objects[key] * SECOND for key in keys]
        found.note(
            Page(keys=keys, etags=[""] * len(keys), sizes=[1] * len(keys), modified_us=whens)
        )
    return found


def in_order(prefix: str, n: int, *, start: int = 0) -> dict[str, int]:
    return {f"{prefix}{i:08d}": i for i in range(start, start + n)}


MANY = LISTED_MIN + 1000


def test_sequence_numbers_grow() -> None:
    growth = survey(in_order("in/", MANY)).growth()
    [frontier] = growth.grown(always=False)
    assert frontier.prefix == "in/"
    assert frontier.last == f"in/{MANY - 1:08d}"
    after = int(frontier.start_after.removeprefix("in/"))
    assert MANY - 1 - OVERLAP_S - 1000 < after <= MANY - 1 - OVERLAP_S


def test_names_in_no_order_do_not_grow() -> None:
    rng = random.Random(1)
    growth = survey({f"in/{rng.randrange(10**9):09d}": i for i in range(MANY)}).growth()
    assert growth.grown(always=False) == []
    assert [f.prefix for f in growth.grown(always=True)] == ["in/"]
    assert "came below a key that was there before" in explained(growth, "auto")


def test_folders_that_grow_side_by_side_are_seen_one_by_one() -> None:
    objects = in_order("in/a/", MANY // 2) | in_order("in/b/", MANY // 2)
    growth = survey(objects, page=7001).growth()
    assert [f.prefix for f in growth.grown(always=False)] == ["in/a/", "in/b/"]
    rng = random.Random(1)
    mixed = objects | {f"in/c/{rng.randrange(10**9):09d}": i for i in range(2000)}
    assert [f.prefix for f in survey(mixed).growth().grown(always=False)] == ["in/a/", "in/b/"], (
        "c/ waits for whole listings"
    )


def test_too_many_folders_grow_as_a_whole_or_not_at_all() -> None:
    names = [f"in/{chr(97 + i)}/" for i in range(PREFIXES_MAX + 1)]
    assert (
        survey({key: when for name in names for key, when in in_order(name, 4000).items()})
        .growth()
        .grown(always=False)
        == []
    )
    days = {
        f"in/2026-{day:03d}/{i:05d}": 86_400 * day + i for day in range(60) for i in range(1000)
    }
    assert [f.prefix for f in survey(days).growth().grown(always=False)] == ["in/"], (
        "days follow each other"
    )


def test_few_objects_are_listed_whole() -> None:
    growth = survey(in_order("in/", 1000)).growth()
    assert growth.grown(always=False) == []
    assert "cheap" in explained(growth, "auto")
    assert len(growth.grown(always=True)) == 1


@pytest.mark.parametrize("listing", ["auto", "growing", "whole"])
def test_the_choice_is_explained(listing: str) -> None:
    text = explained(survey(in_order("in/", MANY)).growth(), listing)
    assert ("from the last key on below 'in/'" in text) is (listing != "whole")


def test_a_later_listing_moves_the_frontier_on() -> None:
    growth = survey(in_order("in/a/", MANY // 2) | in_order("in/b/", MANY // 2)).growth()
    [a, b] = growth.grown(always=False)
    later = survey(
        in_order("in/b/", 2000, start=int(b.start_after[5:]) + 1), before=growth
    ).further([a, b])
    assert later is not None
    [same, moved] = later.grown(always=False)
    assert same == a, "nothing was listed there"
    assert b.last < moved.last
    assert b.start_after < moved.start_after < moved.last
    assert (moved.seen, moved.late) == (b.seen, b.late), "only whole listings count"


def test_a_stretch_covers_its_prefix_and_no_neighbour() -> None:
    growth = survey(in_order("in/a/", MANY // 2) | in_order("in/b/", MANY // 2)).growth()
    stretch = stretch_of(growth.grown(always=False)[0], "in/")
    assert stretch.upto is not None
    assert stretch.after < "in/a/99999999" <= stretch.upto
    assert not stretch.after < "in/b/00000000" <= stretch.upto
    whole = stretch_of(survey(in_order("in/", MANY)).growth().grown(always=False)[0], "in/")
    assert whole.upto is None
