"""Sorted runs in levels: whatever is merged where, they hold what was put into them, and a small
change rewrites little.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.commit_log import run_reader
from pipeline.commit_log.run_reader import RunGone
from pipeline.commit_log.run_writer import Compaction
from pipeline.errors import InvariantViolated, StateInvalid
from pipeline.model import keys
from pipeline.model.snapshot import Output
from pipeline.state import ledger, outputs
from pipeline.state.ledger import Entry, Ledger
from pipeline.state.outputs import Outputs
from pipeline.state.sorted_runs import Run, SortedRuns, between, decode, described, encode, merge
from pipeline.testing.memory_store import MemoryStore

HOME = keys.home("p")


class Counter:
    """Unique names, and how many rows were written."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def nonce(self) -> str:
        return f"n{next(self._numbers)}"


def entry(etag: str) -> Entry:
    return Entry(etag, 1, 0, 1, 0, "t", "v", 0, "o", 1)


class Table:
    """A ledger alone: changes go in as commits would bring them, and every look asks the stored
    runs.
    """

    def __init__(self, run_rows: int, fanout: int) -> None:
        self.store, self.ids, self.sequence = MemoryStore(), Counter(), 0
        self.runs, self.run_rows, self.fanout = SortedRuns(), run_rows, fanout

    def change(self, changes: dict[str, str | None], doomed: Sequence[str] = ()) -> list[Run]:
        """The runs that were written for it."""
        self.sequence += 1
        before = {run.key for run in self.runs.runs}
        work = Compaction(
            self.store,
            HOME,
            self.sequence,
            self.ids,
            SortedRuns(self.runs.runs),
            ledger.schema(),
            self.run_rows,
            self.fanout,
        )
        asyncio.run(
            work.run(
                ledger.table_of({k: None if e is None else entry(e) for k, e in changes.items()}),
                doomed,
            )
        )
        self.runs = SortedRuns(work.runs.runs)
        return [run for run in self.runs.runs if run.key not in before]

    def whole(self) -> dict[str, str]:
        async def read() -> dict[str, str]:
            tables = [
                t async for t in run_reader.everything(self.store, self.runs, ledger.schema())
            ]
            names = [key for t in tables for key in t.column("key").to_pylist()]
            assert names == sorted(set(names))
            return dict(
                zip(names, (e for t in tables for e in t.column("etag").to_pylist()), strict=True)
            )

        return asyncio.run(read())

    def found(self, names: Sequence[str]) -> dict[str, str | None]:
        known = Ledger(self.runs.runs)
        wanted = sorted(name for name in names if not known.knows(name))
        known.learn(
            wanted, asyncio.run(run_reader.rows(self.store, self.runs, wanted, ledger.schema()))
        )
        answers = {name: known.get(name) for name in names}
        return {
            name: answer.etag if answer is not None else None for name, answer in answers.items()
        }


names = [f"k{i:02d}" for i in range(40)]
changes = st.dictionaries(
    st.sampled_from(names), st.sampled_from([None, "1", "2", "3"]), max_size=12
)


@settings(max_examples=40)
@given(st.lists(changes, max_size=25), st.sampled_from([(1, 2), (3, 2), (4, 3)]), st.data())
def test_runs_hold_what_was_put_into_them(
    history: list[dict[str, str | None]], shape: tuple[int, int], data: st.DataObject
) -> None:
    table, model = Table(*shape), dict[str, str]()
    for change in history:
        doomed = data.draw(
            st.lists(st.sampled_from([run.key for run in table.runs.runs] or [""]), max_size=2)
        )
        table.change(change, doomed)
        model = {k: e for k, e in {**model, **change}.items() if e is not None}
        assert not {run.key for run in table.runs.runs} & set(doomed)
    assert table.whole() == model
    assert table.found(names) == {name: model.get(name) for name in names}
    runs = table.runs
    assert sum(run.rows for run in runs.level(0)) <= shape[0]
    for level in range(1, runs.deepest + 1):
        assert sum(run.rows for run in runs.level(level)) <= shape[0] * shape[1] ** level
        assert all(a.last < b.first for a, b in itertools.pairwise(runs.level(level)))
    assert all(run.rows <= shape[0] for run in runs.runs)


@settings(max_examples=40)
@given(
    st.lists(changes, max_size=12),
    st.sampled_from(["", "k03", "k2"]),
    st.sampled_from(["k05", "k3", "z", None]),
)
def test_a_range_is_the_same_as_the_whole_cut(
    history: list[dict[str, str | None]], after: str, upto: str | None
) -> None:
    table = Table(3, 2)
    for change in history:
        table.change(change)
    found = asyncio.run(run_reader.between(table.store, table.runs, after, upto, ledger.schema()))
    whole = [k for k in table.whole() if k > after and (upto is None or k <= upto)]
    assert (found.column("key").to_pylist() if found is not None else []) == whole
    ends = table.runs.range_ends(after, upto)
    assert ends == sorted(ends)
    assert all(end > after and (upto is None or end < upto) for end in ends)


def test_a_small_change_rewrites_little_however_much_there_is() -> None:
    """100 commits of 10 keys all over a ledger of 20,000: what one writes is bounded by the shape,
    and small on average.
    """
    table = Table(100, 4)
    for start in range(0, 20_000, 1000):
        table.change({f"k{i:06d}": "1" for i in range(start, start + 1000)})
    written = [
        sum(
            run.rows
            for run in table.change(
                {f"k{(7919 * (10 * n + i)) % 20_000:06d}": "2" for i in range(10)}
            )
        )
        for n in range(100)
    ]
    assert max(written) < 4000
    assert sum(written) / 1000 < 60, "rows written for each one that changed"


def test_keys_that_grow_are_written_about_twice_and_never_again() -> None:
    table, written = Table(100, 4), 0
    for start in range(0, 10_000, 50):
        written += sum(
            run.rows for run in table.change({f"k{i:06d}": "1" for i in range(start, start + 50)})
        )
    assert written < 5 * 10_000
    assert len(table.runs.runs) < 2.5 * 100


def test_a_run_that_was_deleted_is_named() -> None:
    table = Table(3, 2)
    table.change({"a": "1"})
    [run] = table.runs.runs
    asyncio.run(table.store.delete([run.key]))
    with pytest.raises(RunGone) as gone:
        table.whole()
    assert gone.value.run == run


def test_a_damaged_run_is_refused_by_name() -> None:
    body = encode(ledger.table_of({"a": entry("1")}))
    run = described(ledger.table_of({"a": entry("1")}), body, "ledger/x.parquet", 0)
    with pytest.raises(StateInvalid, match="ledger/x"):
        decode(body[:-1] + b"?", run, ledger.schema())


def test_what_was_not_looked_up_is_not_taken_for_absent() -> None:
    run = Run(key="r", rows=1, first="b", last="d", sha256="")
    known = Ledger([run])
    assert known.get("a") is None
    with pytest.raises(InvariantViolated):
        known.get("c")
    held = Outputs({"e": Output(files=[], live=1)}, ["c"], [run])
    assert (held.get("c"), held.get("e"), held.get("z")) == (None, Output(files=[], live=1), None)
    for ask in (lambda: held.get("b"), lambda: list(held)):
        with pytest.raises(InvariantViolated):
            ask()


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([None, 1, 2])),
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([None, 3])),
)
def test_outputs_in_runs_and_those_that_changed_are_one_mapping(
    stored: dict[str, int | None], changed: dict[str, int | None]
) -> None:
    def value(n: int | None) -> Output | None:
        return None if n is None else Output(files=[], live=n)

    table = outputs.table_of({name: value(n) for name, n in stored.items()})
    runs = [described(table, encode(table), "r", 0)] if stored else []
    held = Outputs(
        {n: v for n, v in ((n, value(c)) for n, c in changed.items()) if v is not None},
        [n for n, c in changed.items() if c is None],
        runs,
    )
    held.learn((), table, whole=True)
    assert {name: output.live for name, output in held.items()} == {
        n: v for n, v in {**stored, **changed}.items() if v is not None
    }


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcde"), st.sampled_from([None, "1", "2"])),
        min_size=1,
        max_size=4,
    )
)
def test_the_youngest_row_of_a_key_counts(tables: list[dict[str, str | None]]) -> None:
    made = [
        ledger.table_of({k: None if e is None else entry(e) for k, e in t.items()}) for t in tables
    ]
    expected: dict[str, str | None] = {}
    for t in tables:
        expected |= t
    merged = merge(made, drop_tombstones=True)
    live = {k: e for k, e in sorted(expected.items()) if e is not None}
    assert (
        dict(zip(merged.column("key").to_pylist(), merged.column("etag").to_pylist(), strict=True))
        == live
    )
    assert merge(made, drop_tombstones=False).num_rows == len(expected)


def test_a_slice_of_a_table_shares_its_rows() -> None:
    table: pa.Table = ledger.table_of({k: entry("1") for k in "abcd"})
    assert between(table, "a", "c").column("key").to_pylist() == ["b", "c"]
    assert between(table, "", None).num_rows == 4
    assert between(table, "x", None).num_rows == 0


def test_what_is_stored_does_not_grow_where_keys_come_and_go() -> None:
    """New keys at the end, old ones deleted at the beginning: tombstones meet what they are about,
    and both are gone.
    """
    table = Table(100, 4)
    for i in range(40):
        table.change({f"k{n:06d}": "1" for n in range(500 * i, 500 * (i + 1))})
        table.change({f"k{n:06d}": None for n in range(500 * (i - 4), 500 * (i - 3)) if n >= 0})
    assert len(table.whole()) == 2000
    assert table.runs.rows < 3 * 2000
    assert len(table.runs.runs) < 60
