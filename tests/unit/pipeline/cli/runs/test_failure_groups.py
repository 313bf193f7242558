"""Reasons that differ only in numbers, quoted texts and keys are the same one."""

from __future__ import annotations

import pytest

from pipeline.cli.runs.failure_groups import Entry, Group, grouped, matching, normalised
from pipeline.errors import SettingsError
from pipeline.model.commit import Quarantined


def entry(
    key: str = "up/a", reason: str = "ValueError: no", pipeline: str = "logs", **options: object
) -> Entry:
    plain = {"key": key, "etag": "e", "kind": "failed", "reason": reason, "transform": "parse"}
    return Entry(pipeline, Quarantined(**{**plain, **options}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("ValueError: bad row 17", "ValueError: bad row #"),
        ("ValueError: bad row -17.5e3, of 1,000", "ValueError: bad row #, of #"),
        ("KeyError: 'kind'", "KeyError: '...'"),
        ('KeyError: "it\'s"', "KeyError: '...'"),
        ("can't find 'a' and 'b' in it", "can't find '...' and '...' in it"),
        ("no b'\\xff' here", "no '...' here"),
        ("cut off in 'the mid", "cut off in '...'"),
        ("object at 0x7f3a9c is 550e8400-e29b-41d4-a716-446655440000", "object at # is #"),
        ("digest deadbeef01 differs", "digest # differs"),
        ("decade facade", "decade facade"),
        (
            "column 'v' is string, but in table logs it is int64",
            "column '...' is string, but in table logs it is int64",
        ),
        ("not utf-8 in sha256", "not utf-8 in sha256"),
        ("up/2026/a.csv has 3 columns, a.csv is odd", "<key> has # columns, <key> is odd"),
    ],
)
def test_numbers_quoted_texts_and_keys_do_not_count(reason: str, kept: str) -> None:
    assert normalised(reason, "up/2026/a.csv") == kept


def test_a_key_that_is_a_number_or_part_of_a_word_is_no_key() -> None:
    assert normalised("bad row 100", "up/100") == "bad row #"
    assert normalised("rows of row", "up/row") == "rows of <key>"


def test_groups_are_by_kind_transform_and_reason_largest_first() -> None:
    many = [entry(f"up/{i}", f"ValueError: bad row {i}") for i in range(3)]
    others = [entry("up/x", "KeyError: 'a'"), entry("up/y", "ValueError: bad row 9", kind="lost")]
    others.append(entry("up/z", "ValueError: bad row 9", transform="other"))
    found = grouped([*others, *many])
    assert [(len(g.entries), g.reason) for g in found][:2] == [
        (3, "ValueError: bad row #"),
        (1, "KeyError: 'a'"),
    ]
    assert len(found) == 4


def test_a_group_says_when_its_files_are_tried_again() -> None:
    lost = [entry(kind="lost", retry_at_ms=1000 * s) for s in (100, 4_000)]
    assert Group(lost).again(0) == "in 100 s to 1 h 6 min".replace("1 h 6 min", "66 min 40 s")
    assert Group(lost).again(101_000) == "from now on to 64 min 59 s"
    assert Group(lost).again(9_000_000) == "with the next run"
    assert Group([entry(kind="lost")]).again(0) == "by retry"
    assert Group([entry()]).again(0) == "when the file changes, or by retry"


def test_files_are_chosen_by_words_of_their_reason_as_listed_or_in_full() -> None:
    entries = [
        entry("up/1", "ValueError: bad row 1"),
        entry("up/2", "ValueError: bad row 2", kind="lost"),
        entry("up/3", "KeyError: 'k'"),
    ]
    assert [e.quarantined.key for e in matching(entries, "bad ROW #", None)] == ["up/1", "up/2"]
    assert [e.quarantined.key for e in matching(entries, "row 2", None)] == ["up/2"]
    assert [e.quarantined.key for e in matching(entries, "row", "lost")] == ["up/2"]
    assert [e.quarantined.key for e in matching(entries, None, "failed")] == ["up/1", "up/3"]
    with pytest.raises(SettingsError) as refused:
        matching(entries, "row 3", "lost")
    assert (
        str(refused.value)
        == "no quarantined file has kind lost and 'row 3' in its reason; there is failed:"
        " ValueError: bad row 1 (1); lost: ValueError: bad row 2 (1); failed: KeyError: 'k' (1)"
    )
    assert matching([], "row 3", None) == []
