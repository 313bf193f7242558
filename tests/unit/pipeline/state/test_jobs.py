"""What became of submitted keys."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model.commit import FORMAT_VERSION, Quarantined
from pipeline.state.jobs import ENDED, Job, Outcome, outcome
from pipeline.state.ledger import Entry

KEY = "up/a"


def job(etag: str = "e1", **options: Any) -> Job:
    facts = {
        "format": FORMAT_VERSION,
        "id": "job-1",
        "pipeline": "p",
        "keys": [KEY],
        "etags": [etag],
        "submitted_ms": 0,
    }
    return Job(**{**facts, "planned": True, "base": 5} | options)


def entry(etag: str = "e1", *, sequence: int = 6) -> Entry:
    return Entry(etag, 1, 0, 3, 0, "f", "v", 0, "o", sequence)


def quarantined(etag: str = "e1", kind: Any = "failed") -> Quarantined:
    return Quarantined(key=KEY, etag=etag, kind=kind, reason="why")


def became(job: Job, **seen: Any) -> Outcome:
    return outcome(job, 0, **{"entry": None, "quarantined": None, "wanted": None} | seen)


@pytest.mark.parametrize(
    ("seen", "status"),
    [
        ({}, "waiting"),
        ({"wanted": ("t", "e1")}, "running"),
        ({"wanted": ("t", "e1"), "entry": entry("e0")}, "running"),
        ({"wanted": ("t", "e1"), "quarantined": quarantined(kind="lost")}, "running"),
        ({"entry": entry()}, "done"),
        ({"entry": entry(), "wanted": ("t", "e2")}, "done"),
        ({"entry": entry(), "quarantined": quarantined("e2")}, "done"),
        ({"quarantined": quarantined()}, "failed"),
        ({"quarantined": quarantined(kind="lost")}, "failed"),
        ({"quarantined": quarantined(), "entry": entry("e0")}, "failed"),
        ({"quarantined": quarantined(kind="cancelled")}, "cancelled"),
        ({"entry": entry("e2")}, "superseded"),
        ({"wanted": ("t", "e2")}, "superseded"),
        ({"quarantined": quarantined("e2")}, "superseded"),
    ],
)
def test_what_became_of_a_key_by_what_the_state_says(seen: dict[str, Any], status: str) -> None:
    assert became(job(), **seen).status == status


def test_a_key_waits_until_its_job_is_planned_whatever_is_known_of_it() -> None:
    assert became(job(planned=False, etags=[]), entry=entry()).status == "waiting"


def test_where_there_was_no_object_the_key_is_missing() -> None:
    found = became(job(""), entry=entry())
    assert (found.status, found.reason) == ("missing", "there was no such object")


def test_rows_and_reasons_come_along() -> None:
    assert became(job(), entry=entry()) == Outcome(key=KEY, status="done", rows=3)
    assert became(job(), quarantined=quarantined()) == Outcome(
        key=KEY, status="failed", reason="why"
    )


def test_what_is_run_again_is_done_only_by_a_commit_after_the_job() -> None:
    """Its rows of before are no answer to the question."""
    again = job(again=True)
    assert became(again, entry=entry(sequence=5)).status not in ENDED
    assert became(again, entry=entry(sequence=5), wanted=("t", "e1")).status == "running"
    assert became(again, entry=entry(sequence=6)).status == "done"
    assert became(job(), entry=entry(sequence=5)).status == "done", "without --again they are"


entries = st.none() | st.builds(entry, st.sampled_from(["e1", "e2"]))
entries_aside = st.none() | st.builds(
    quarantined, st.sampled_from(["e1", "e2"]), st.sampled_from(["failed", "lost", "cancelled"])
)
wanteds = st.none() | st.tuples(st.just("t"), st.sampled_from(["e1", "e2"]))


@given(entries, entries_aside, wanteds)
def test_a_key_that_nobody_works_at_any_more_has_ended_if_anything_is_known(
    e: Any, q: Any, w: Any
) -> None:
    found = became(job(), entry=e, quarantined=q, wanted=w)
    if (e, q, w) == (None, None, None):
        assert found.status == "waiting"
    elif w is None or w[1] != "e1":
        assert found.status in ENDED
    else:
        assert found.status == "running"
