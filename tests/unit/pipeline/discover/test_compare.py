"""Which keys belong to a pipeline, which transform takes them, and what a page says about the
ledger.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.discover.compare import judge
from pipeline.discover.router import Router
from pipeline.model.commit import Quarantined
from pipeline.model.listing import Page
from pipeline.model.settings import PipelineSettings, TransformSettings
from pipeline.state import sorted_runs
from pipeline.state.ledger import Entry, table_of
from pipeline.state.state import State


def settings(
    *matches: str, include: tuple[str, ...] = ("**",), exclude: tuple[str, ...] = ()
) -> PipelineSettings:
    transforms = tuple(
        TransformSettings(name=f"t{i}", version="v", match=(m,)) for i, m in enumerate(matches)
    )
    options: dict[str, Any] = {
        "output": "out/",
        "partition_by": (),
        "widen": "none",
        "aggregates": (),
    }
    return PipelineSettings(
        name="p", source="in/", include=include, exclude=exclude, transforms=transforms, **options
    )


@pytest.mark.parametrize(
    ("glob", "name", "matches"),
    [
        ("*.csv", "a.csv", True),
        ("*.csv", "d/a.csv", False),
        ("**/*.csv", "a.csv", True),
        ("**/*.csv", "d/e/a.csv", True),
        ("**", "d/e/a", True),
        ("d/**", "d/e/a", True),
        ("d/**", "e/a", False),
        ("?.txt", "a.txt", True),
        ("?.txt", "ab.txt", False),
        ("?.txt", "/.txt", False),
        ("[ab].txt", "b.txt", True),
        ("[!ab].txt", "c.txt", True),
        ("[!ab].txt", "a.txt", False),
        ("[a-c]x", "bx", True),
        ("a.b", "aXb", False),
        ("*", "new\nline", True),
        ("a[b", "a[b", True),
        ("year=*/**/*.parquet", "year=2026/m=1/x.parquet", True),
        ("(a|b)", "a", False),
        ("*.CSV", "a.csv", False),
    ],
)
def test_globs(glob: str, name: str, matches: bool) -> None:
    assert (Router(settings(glob)).route(f"in/{name}") == "t0") is matches


def test_the_first_route_wins_and_exclusion_wins_over_all() -> None:
    router = Router(settings("*.csv", "**", include=("*.csv", "d/**"), exclude=("**/tmp*",)))
    assert [router.route(f"in/{n}") for n in ("a.csv", "d/a.csv", "x")] == ["t0", "t1", "t1"]
    assert [router.includes(f"in/{n}") for n in ("a.csv", "d/x", "b.txt", "d/tmp1", "tmp.csv")] == [
        True,
        True,
        False,
        False,
        False,
    ]


versions = st.dictionaries(
    st.sampled_from([f"in/{c}" for c in "abcdefgh"]), st.sampled_from(["1", "2"])
)


def page_of(objects: dict[str, str]) -> Page:
    names = sorted(objects)
    return Page(
        keys=names,
        etags=[objects[k] for k in names],
        sizes=[1] * len(names),
        modified_us=[0] * len(names),
    )


def entry(etag: str) -> Entry:
    return Entry(etag, 1, 0, 1, 0, "t0", "v", 0, f"o{etag}", 1)


def ledger_of(committed: dict[str, str], after: str = "", upto: str | None = None) -> pa.Table:
    return sorted_runs.between(table_of({k: entry(e) for k, e in committed.items()}), after, upto)


def state_of(overlay: dict[str, str | None], quarantined: dict[str, str]) -> State:
    state = State("p")
    state.overlay = {k: None if e is None else entry(e) for k, e in overlay.items()}
    state.quarantine = {
        k: Quarantined(key=k, etag=e, kind="failed", reason="") for k, e in quarantined.items()
    }
    return state


changes = st.dictionaries(
    st.sampled_from([f"in/{c}" for c in "abcdefgh"]), st.sampled_from([None, "1", "2"])
)


@given(versions, versions, changes, versions)
def test_a_page_says_exactly_what_is_new_changed_and_missing(
    listed: dict[str, str],
    committed: dict[str, str],
    overlay: dict[str, str | None],
    quarantined: dict[str, str],
) -> None:
    known = {k: e for k, e in (committed | overlay).items() if e is not None}
    state = state_of(overlay, {k: e for k, e in quarantined.items() if k not in known})
    # with and without the short cut for pipelines that take everything
    for routes in (("**",), ("in-vain", "*")):
        judged = judge(
            page_of(listed), state, ledger_of(committed), Router(settings(*routes)), "", None
        )
        found = {
            k: (e, r)
            for f in judged.found
            for k, e, r in zip(f.inputs.keys, f.inputs.etags, f.inputs.replaces, strict=True)
        }
        assert found == {
            k: (e, f"o{known[k]}" if k in known else None)
            for k, e in listed.items()
            if known.get(k) != e
        }
        assert judged.absent == sorted({*known, *state.quarantine} - set(listed))


@given(versions, st.sampled_from(["", "in/b", "in/d"]), st.sampled_from(["in/e", "in/g", None]))
def test_a_page_judges_only_its_own_range(
    committed: dict[str, str], after: str, upto: str | None
) -> None:
    state = state_of({}, {})
    judged = judge(
        page_of({}), state, ledger_of(committed, after, upto), Router(settings("**")), after, upto
    )
    assert judged.absent == sorted(
        k for k in committed if k > after and (upto is None or k <= upto)
    )


@pytest.mark.parametrize(
    ("etag", "retry_at_ms", "is_found"), [("1", 5, True), ("1", 0, False), ("2", 5, False)]
)
def test_a_committed_version_that_waits_to_be_processed_once_more_is_found(
    etag: str, retry_at_ms: int, is_found: bool
) -> None:
    """A backfill's attempt gave no answer: the old rows count, and the wish stands.

    What failed for good is not found.
    """
    state = state_of({}, {})
    state.quarantine["in/a"] = Quarantined(
        key="in/a", etag=etag, kind="lost", reason="", retry_at_ms=retry_at_ms
    )
    both = {"in/a": "1", "in/b": "1"}
    judged = judge(page_of(both), state, ledger_of(both), Router(settings("**")), "", None)
    assert [(f.inputs.keys, f.inputs.replaces) for f in judged.found] == (
        [(["in/a"], ["o1"])] if is_found else []
    )
