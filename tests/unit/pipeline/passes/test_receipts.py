"""What detached attempts left in the bucket, as a pass believes it: whole notes of open tasks,
checked where a mount was used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model import keys
from pipeline.model.commit import FORMAT_VERSION
from pipeline.model.listing import Stored
from pipeline.model.receipt import LossNote, OutputFile, Receipt, SourceProblem, SourceStatus
from pipeline.model.task import Task
from pipeline.passes.receipts import Gathered, gather, verified
from pipeline.state import codec
from pipeline.state.state import State
from pipeline.testing.memory_store import MemoryStore
from tests.support.builders import inputs_of, task_of

HOME = keys.home("p")
ONE, TWO, OVER = keys.task_id(7, 0), keys.task_id(7, 1), keys.task_id(3, 0)
"""Two open tasks, and one that is over."""
SECOND_US = 1_000_000


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def task(
    id: str = ONE, *names: str, etags: tuple[str, ...] = (), modified_us: tuple[int, ...] = ()
) -> Task:
    named = [f"up/{name}" for name in names or ("a", "b")]
    n = len(named)
    columns = {"etags": list(etags) or ["e"] * n, "modified_us": list(modified_us) or [0] * n}
    return task_of(id, inputs_of(*named, **columns), losses=2)


def state_of(*tasks: Task) -> State:
    state = State("p")
    for one in tasks:
        state.tasks[one.id] = one
    return state


def receipt(of: Task, nonce: str = "n", *problems: SourceProblem, **options: Any) -> Receipt:
    n = len(of.inputs)
    made = Receipt(
        format=FORMAT_VERSION,
        task=of.id,
        nonce=nonce,
        version=of.version,
        rows=[1] * n,
        rejected=[0] * n,
        problems=list(problems),
        files=[],
        schema=None,
        seconds=1.0,
        bytes_read=1,
    )
    return msgspec.structs.replace(made, **options)


def output(name: str, size: int) -> OutputFile:
    return OutputFile(
        table="rows",
        key=f"out/{name}",
        size_bytes=size,
        rows=1,
        partition={},
        schema_id="",
        sha256="",
    )


def note(of: Task, **options: Any) -> LossNote:
    return LossNote(
        **{"format": FORMAT_VERSION, "task": of.id, "dispatch": of.dispatch, "reason": "it died"}
        | options
    )


class Notes:
    """A bucket's notes."""

    def __init__(self) -> None:
        self.store = MemoryStore(page_keys=3)

    def put(self, key: str, body: bytes | Receipt | LossNote) -> None:
        run(self.store.put(key, body if isinstance(body, bytes) else codec.encode(body)))

    def leave(self, *receipts: Receipt) -> None:
        for one in receipts:
            self.put(keys.receipt(HOME, one.task, one.nonce), one)

    def gather(self, state: State, tasks: list[str] | None = None) -> Gathered:
        found: Gathered = run(gather(self.store, HOME, state, "out/", tasks))
        return found


@pytest.fixture
def notes() -> Notes:
    return Notes()


# -- what is found ---------------------------------------------------------------------------------


def test_what_is_too_large_to_be_a_receipt_is_not_even_read(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(codec.STORED_BYTES_MAX, Receipt, 1000)
    one, two = task(ONE), task(TWO)
    notes.leave(receipt(one))
    notes.put(keys.receipt(HOME, TWO, "huge"), b" " * 1001)
    read: list[str] = []
    get_many = notes.store.get_many

    async def recorded(names: Sequence[str]) -> Any:
        read.extend(names)
        return await get_many(names)

    monkeypatch.setattr(notes.store, "get_many", recorded)
    assert list(notes.gather(state_of(one, two)).receipts) == [ONE]
    assert read == [keys.receipt(HOME, ONE, "n")]


def test_receipts_losses_and_beginnings_of_open_tasks_are_found(notes: Notes) -> None:
    one, two = task(ONE), task(TWO)
    notes.leave(receipt(one))
    notes.put(keys.loss_note(HOME, TWO, 3), note(two, suspect=1, detail="trace", innocent=True))
    notes.put(keys.began(HOME, ONE, 1), b"began\n")
    notes.put(keys.began(HOME, TWO, 3), b"")
    found = notes.gather(state_of(one, two))
    assert found.receipts == {ONE: receipt(one)}
    assert found.began == {(ONE, 1), (TWO, 3)}
    lost = found.losses[TWO]
    loss = lost.loss
    assert (lost.attempt, lost.owner, lost.dispatch) == (1, "modal:app", 3)
    assert (loss.reason, loss.suspect, loss.detail, loss.innocent) == ("it died", 1, "trace", True)


def test_nothing_is_asked_where_no_task_is_open(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes.store, "list", lambda *arguments, **options: pytest.fail("listed"))
    assert notes.gather(State("p")) == Gathered()


def test_notes_of_tasks_that_are_over_are_not_even_read(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    async def get_many(names: list[str]) -> list[Stored | None]:
        read.extend(names)
        return [None] * len(names)

    notes.leave(receipt(task(OVER)), receipt(task(ONE)))
    notes.put(keys.loss_note(HOME, OVER, 1), note(task(OVER)))
    monkeypatch.setattr(notes.store, "get_many", get_many)
    found = notes.gather(state_of(task(ONE)))
    assert read == [keys.receipt(HOME, ONE, "n")]
    assert (found.receipts, found.losses) == (
        {},
        {},
    ), "and what vanished between listing and reading is as if it never was"


def test_of_several_receipts_one_counts(notes: Notes) -> None:
    notes.leave(receipt(task(), "n1"), receipt(task(), "n2"), receipt(task(), "n3"))
    assert notes.gather(state_of(task())).receipts[ONE].nonce == "n1"


def test_only_the_named_tasks_are_looked_for(notes: Notes) -> None:
    one, two = task(ONE), task(TWO)
    notes.leave(receipt(one), receipt(two))
    notes.put(keys.began(HOME, TWO, 1), b"")
    found = notes.gather(state_of(one, two), [ONE, OVER, "no task", ""])
    assert (set(found.receipts), found.began) == ({ONE}, set())
    assert notes.gather(state_of(one, two), []) == Gathered()


@pytest.mark.parametrize("dispatch", [1, 2, 4])
def test_a_loss_note_of_another_dispatch_is_none_of_the_present_one(
    notes: Notes, dispatch: int
) -> None:
    notes.put(keys.loss_note(HOME, ONE, dispatch), note(task(), dispatch=dispatch))
    assert task().dispatch == 3
    assert notes.gather(state_of(task())).losses == {}


# -- what is not believed --------------------------------------------------------------------------

RUBBISH = {
    "empty": b"",
    "cut off": codec.encode(receipt(task()))[:-20],
    "no JSON": b"\x00\xff\xfe",
    "another type": b"[]",
    "a wrong field": codec.encode(receipt(task())).replace(b'"rows":[1,1]', b'"rows":"1,1"'),
    "of a newer format": codec.encode(receipt(task(), format=FORMAT_VERSION + 1)),
    "of a task that is over": codec.encode(receipt(task(OVER))),
    "of another number of files": codec.encode(receipt(task(), rows=[1])),
    "of other code": codec.encode(receipt(task(), version="other")),
    "about files beyond": codec.encode(receipt(task(), "n", SourceProblem(index=9, status="gone"))),
    "of an output that is not there": codec.encode(
        receipt(task(), mounted=True, files=[output("none", 3)])
    ),
}


@pytest.mark.parametrize("body", RUBBISH.values(), ids=RUBBISH)
def test_a_damaged_or_foreign_receipt_is_as_if_it_did_not_exist(notes: Notes, body: bytes) -> None:
    notes.put(keys.receipt(HOME, ONE, "a"), body)
    assert notes.gather(state_of(task())).receipts == {}
    notes.leave(receipt(task(), "z"))
    assert notes.gather(state_of(task())).receipts[ONE].nonce == "z", "and hides none that is whole"


@pytest.mark.parametrize(
    "body", [b"", b"{}", codec.encode(note(task()))[:-3], codec.encode(receipt(task()))]
)
def test_a_damaged_loss_note_says_nothing(notes: Notes, body: bytes) -> None:
    notes.put(keys.loss_note(HOME, ONE, 3), body)
    assert notes.gather(state_of(task())) == Gathered()


names = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "",
            ".json",
            ".lost",
            ".began",
            ".d3.began",
            ".dx.began",
            ".d.began",
            ".d3.lost",
            ".n.json",
            ".n.0.json",
        ]
    ),
)
WHOLE = codec.encode(receipt(task()))
bodies = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"null",
            b"{}",
            b"[]",
            b'{"format":1}',
            b'{"format":99}',
            WHOLE[:50],
            codec.encode(note(task())),
        ]
    ),
)


@given(st.lists(st.tuples(st.sampled_from(["", ONE, OVER, ONE + "0"]), names, bodies), max_size=6))
def test_whatever_lies_there_nothing_but_a_receipt_is_taken_for_one(
    rubbish: list[tuple[str, str, bytes]],
) -> None:
    notes = Notes()
    for task_id, name, body in rubbish:
        notes.put(f"{keys.receipt_prefix(HOME)}{task_id}{name}", body)
    found = notes.gather(state_of(task()))
    assert found.receipts == {}
    assert all(loss.reason == "it died" for loss in found.losses.values())


OWN = f"rows/{keys.output_id(ONE, 'n')}.0.parquet"


@pytest.mark.parametrize(
    "names",
    [
        ["../../up/a"],
        ["x.parquet"],
        [f"rows/{keys.output_id(TWO, 'n')}.0.parquet"],
        [f"rows/{keys.output_id(ONE, 'other')}.0.parquet"],
        [f"rows/../../other/rows/{keys.output_id(ONE, 'n')}.0.parquet"],
        [f"rows//{keys.output_id(ONE, 'n')}.0.parquet"],
        [f"rejected/{keys.output_id(ONE, 'n')}.0.parquet"],
        [OWN, OWN],
    ],
)
def test_a_receipt_that_names_files_of_others_is_as_if_it_did_not_exist(names: list[str]) -> None:
    """Queries would read them, and a vacuum would delete them one day."""
    notes = Notes()
    own = receipt(task(), files=[output(OWN, 5)])
    notes.put(
        keys.receipt(HOME, ONE, "a"),
        msgspec.structs.replace(own, files=[output(name, 5) for name in names]),
    )
    assert notes.gather(state_of(task())).receipts == {}
    notes.put(keys.receipt(HOME, ONE, "z"), own)
    assert notes.gather(state_of(task())).receipts[ONE].files == own.files, (
        "and hides none that is sound"
    )


@pytest.mark.parametrize(
    "change", [{"rows": [-1, 1]}, {"rejected": [-1, 0]}, {"rows": [1]}, {"version": "other"}]
)
def test_a_receipt_with_impossible_counts_is_as_if_it_did_not_exist(change: dict[str, Any]) -> None:
    notes = Notes()
    notes.put(keys.receipt(HOME, ONE, "a"), msgspec.structs.replace(receipt(task()), **change))
    assert notes.gather(state_of(task())).receipts == {}


# -- asked of the store ----------------------------------------------------------------------------


class Sources:
    """Source objects and outputs, and a task that was planned over them as they were."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        for name in "abc":
            run(self.store.put(f"up/{name}", name.encode()))
        run(self.store.put("out/x", b"12345"))
        heads = run(self.store.head_many([f"up/{name}" for name in "abc"]))
        self.task = task(
            ONE,
            *"abc",
            etags=tuple(h.etag for h in heads),
            modified_us=tuple(h.modified_us for h in heads),
        )

    def verified(self, *problems: SourceProblem, **options: Any) -> Receipt | None:
        made = receipt(
            self.task,
            "n",
            *problems,
            **{"mounted": True, "unverified": [0, 1, 2], "files": [output("x", 5)]} | options,
        )
        found: Receipt | None = run(verified(self.store, self.task, made))
        return found

    def statuses(self, *problems: SourceProblem, **options: Any) -> dict[int, SourceStatus]:
        found = self.verified(*problems, **options)
        assert found is not None
        assert [p.index for p in found.problems] == sorted(p.index for p in found.problems)
        assert found.unverified == []
        return {p.index: p.status for p in found.problems}

    def set_time(self, key: str, modified_us: int) -> None:
        """As if the object had been written again then, with the same bytes and so
        the same etag.
        """
        self.store._objects[key] = msgspec.structs.replace(
            self.store._objects[key], modified_us=modified_us
        )


@pytest.fixture
def sources() -> Sources:
    return Sources()


def test_sources_at_their_planned_version_are_fine(sources: Sources) -> None:
    assert sources.statuses() == {}


def test_an_attempt_that_read_by_version_is_believed_without_asking(sources: Sources) -> None:
    run(sources.store.delete(["up/a", "out/x"]))
    plain = receipt(sources.task, unverified=[0], files=[output("x", 5)])
    assert run(verified(sources.store, sources.task, plain)) == plain


@pytest.mark.parametrize("size", [4, 6, 0])
def test_an_output_of_another_size_was_not_written_whole(sources: Sources, size: int) -> None:
    assert sources.verified(files=[output("x", size)]) is None


def test_an_output_that_is_not_there_voids_the_receipt(sources: Sources) -> None:
    assert sources.verified(files=[output("x", 5), output("y", 5)]) is None
    assert sources.verified(files=[output("y", 5)], unverified=[]) is None


def test_unverified_sources_that_changed_are_stale_and_those_that_vanished_are_gone(
    sources: Sources,
) -> None:
    run(sources.store.put("up/a", b"new"))
    run(sources.store.delete(["up/c"]))
    assert sources.statuses() == {0: "stale", 2: "gone"}


def test_sources_that_were_verified_while_reading_are_not_asked_about(sources: Sources) -> None:
    run(sources.store.put("up/a", b"new"))
    run(sources.store.delete(["up/c"]))
    assert sources.statuses(unverified=[1]) == {}


def test_the_same_bytes_written_again_later_are_stale(sources: Sources) -> None:
    """Between the two, another version may have been there, and read."""
    planned_us = sources.task.inputs.modified_us[1]
    sources.set_time("up/b", planned_us + 2 * SECOND_US)
    assert sources.statuses() == {1: "stale"}


def test_fractions_of_a_second_do_not_make_a_source_stale(sources: Sources) -> None:
    """A listing may know them where a request for the object does not."""
    sources.set_time("up/b", sources.task.inputs.modified_us[1] // SECOND_US * SECOND_US)
    assert sources.statuses() == {}


def test_what_the_attempt_said_itself_is_kept(sources: Sources) -> None:
    run(sources.store.put("up/a", b"new"))
    run(sources.store.delete(["up/b"]))
    own = SourceProblem(index=0, status="failed", reason="ValueError: no", detail="trace")
    late = SourceProblem(index=2, status="deferred")
    found = sources.verified(own, late)
    assert found is not None
    assert found.problems == [own, SourceProblem(index=1, status="gone"), late]


def test_numbers_of_sources_that_there_are_not_are_ignored(sources: Sources) -> None:
    assert sources.statuses(unverified=[-1, 3, 99, 1]) == {}


def test_gathered_receipts_are_verified(sources: Sources) -> None:
    run(sources.store.put("up/a", b"new"))
    name = f"rows/{keys.output_id(ONE, 'n')}.0.parquet"
    run(sources.store.put(f"out/{name}", b"12345"))
    made = receipt(sources.task, mounted=True, unverified=[0, 1], files=[output(name, 5)])
    run(sources.store.put(keys.receipt(HOME, ONE, "n"), codec.encode(made)))
    found = run(gather(sources.store, HOME, state_of(sources.task), "out/"))
    assert [(p.index, p.status) for p in found.receipts[ONE].problems] == [(0, "stale")]


def test_a_note_stays_readable_by_the_names_that_keys_gives() -> None:
    """The names are a format: containers of an older deployment may still write them."""
    assert keys.began_dispatch(keys.began(HOME, ONE, 12)) == (ONE, 12)
    assert (
        keys.task_of(keys.loss_note(HOME, ONE, 12))
        == keys.task_of(keys.receipt(HOME, ONE, "n"))
        == ONE
    )
    assert keys.loss_note("h/", ONE, 3) == f"h/receipts/{ONE}.d3.lost"
    assert keys.began("h/", ONE, 3) == f"h/receipts/{ONE}.d3.began"
