"""What became of submitted keys, which objects a backfill takes, and what people may write for a
time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.discover.backfill_selection import Selection
from pipeline.discover.compare import Known
from pipeline.discover.router import Router
from pipeline.model.commit import FORMAT_VERSION, Quarantined
from pipeline.model.settings import PipelineSettings, TransformSettings
from pipeline.state.jobs import ENDED, Job, Outcome, outcome
from pipeline.state.ledger import Entry
from pipeline.tables.moments import moment
from tests.support.builders import pipeline_settings

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


# -- outcomes --------------------------------------------------------------------------------------


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


# -- selections ------------------------------------------------------------------------------------

HOUR_US = 3_600_000_000


def settings() -> PipelineSettings:
    return pipeline_settings(
        TransformSettings(name="csv", version="c2", match=("**/*.csv",)),
        TransformSettings(name="rest", version="r1", match=("**/*.t*",)),
    )


def takes(
    key: str = "up/a.csv",
    modified_us: int = 0,
    *,
    version: str = "c2",
    sequence: int = 5,
    **wanted: Any,
) -> bool:
    chosen = Selection(settings=settings(), **wanted).again(Router(settings()))
    return chosen(key, modified_us, Known("e", "o", version, sequence))


def test_without_bounds_everything_is_taken() -> None:
    assert takes()
    assert takes("up/matched-by-nothing")


@pytest.mark.parametrize(
    ("prefix", "taken"),
    [("up/", True), ("up/a", True), ("up/b", False), ("up/a.csv", True), ("up/a.csv2", False)],
)
def test_keys_by_prefix(prefix: str, taken: bool) -> None:
    assert takes(prefix=prefix) is taken


@pytest.mark.parametrize(
    ("at", "taken"), [(-1, False), (0, True), (HOUR_US - 1, True), (HOUR_US, False)]
)
def test_times_from_the_first_on_and_before_the_second(at: int, taken: bool) -> None:
    assert takes(modified_us=at, since_us=0, until_us=HOUR_US) is taken


@pytest.mark.parametrize(
    ("key", "transform", "taken"),
    [
        ("up/a.csv", "csv", True),
        ("up/a.csv", "rest", False),
        ("up/a.txt", "rest", True),
        ("up/a.other", "csv", False),
        ("up/a.csv", "gone", False),
    ],
)
def test_by_the_transform_that_takes_them_now(key: str, transform: str, taken: bool) -> None:
    assert takes(key, transform=transform) is taken


@pytest.mark.parametrize(
    ("key", "version", "taken"),
    [
        ("up/a.csv", "c2", False),
        ("up/a.csv", "c1", True),
        ("up/a.csv", "r1", True),
        ("up/a.txt", "r1", False),
        ("up/a.other", "old", False),
    ],
)
def test_outdated_are_rows_of_another_version_of_the_code_that_takes_the_object_now(
    key: str, version: str, taken: bool
) -> None:
    assert takes(key, version=version, outdated=True) is taken


@pytest.mark.parametrize(("sequence", "taken"), [(4, True), (5, True), (6, False)])
def test_a_resumed_backfill_leaves_out_what_was_committed_since_it_began(
    sequence: int, taken: bool
) -> None:
    assert takes(sequence=sequence, committed_upto=5) is taken


def test_all_bounds_hold_together() -> None:
    fits: dict[str, Any] = {
        "prefix": "up/",
        "since_us": 0,
        "until_us": HOUR_US,
        "transform": "csv",
        "outdated": True,
        "committed_upto": 5,
    }
    assert takes(version="c1", modified_us=1, **fits)
    for wrong in (
        {"prefix": "x"},
        {"since_us": 2},
        {"until_us": 1},
        {"transform": "rest"},
        {"committed_upto": 4},
    ):
        assert not takes(version="c1", modified_us=1, **{**fits, **wrong}), wrong


# -- times -----------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 23, 8, 30, 15, 250, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("now", NOW),
        ("today", datetime(2026, 11, 23, tzinfo=UTC)),
        ("yesterday", datetime(2026, 11, 22, tzinfo=UTC)),
        ("0m", NOW),
        ("90m", NOW - timedelta(minutes=90)),
        ("36h", NOW - timedelta(hours=36)),
        ("7d", NOW - timedelta(days=7)),
        ("2w", NOW - timedelta(days=14)),
        ("7 d", NOW - timedelta(days=7)),
        ("2026-11-23", datetime(2026, 11, 23, tzinfo=UTC)),
        ("2026-11-23T08:00", datetime(2026, 11, 23, 8, tzinfo=UTC)),
        ("2026-11-23 08:00:01", datetime(2026, 11, 23, 8, 0, 1, tzinfo=UTC)),
        ("2026-11-23T08:00Z", datetime(2026, 11, 23, 8, tzinfo=UTC)),
        ("2026-11-23T08:00+02:00", datetime(2026, 11, 23, 6, tzinfo=UTC)),
        *(
            (text, None)
            for text in (
                "",
                "blah",
                "-7d",
                "7",
                "d",
                "7y",
                "7d ago",
                "1.5h",
                "tomorrow",
                "2026-13-01",
                "2026-02-30",
            )
        ),
        *(
            (text, None)
            for text in (
                "999999999d",
                "9" * 30 + "h",
                "9" * 5_000 + "m",
                "2026-11-23T25:00",
                "23.11.2026",
            )
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_moments(text: str, found: datetime | None) -> None:
    assert moment(text, NOW) == found


@given(
    st.text(max_size=12)
    | st.from_regex(r"\d{1,30} ?[mhdw]", fullmatch=True)
    | st.datetimes().map(datetime.isoformat)
)
def test_any_text_is_a_moment_with_a_time_zone_or_none(text: str) -> None:
    found = moment(text, NOW)
    assert found is None or found.tzinfo is not None
    assert found is None or int(found.timestamp() * 1e6) is not None


def test_a_moment_is_the_same_in_every_time_zone() -> None:
    riga = timezone(timedelta(hours=2))
    assert moment("36h", NOW.astimezone(riga)) == moment("36h", NOW)
