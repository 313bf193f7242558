"""What people may write for a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tables.points_in_time import moment

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
