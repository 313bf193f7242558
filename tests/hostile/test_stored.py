"""What lies in the bucket may be damaged, or somebody else's: each parser answers with a value or
with its own error.
"""

from __future__ import annotations

import resource
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InvariantViolated, StateInvalid
from pipeline.model.commit import Commit
from pipeline.model.receipt import LossNote, Receipt, SourceProblem
from pipeline.plan.evidence import fits
from pipeline.state import codec
from pipeline.state.checkpoint import Checkpoint
from pipeline.state.jobs import Job
from pipeline.state.stored_state import checkpoint_of
from tests.hostile.stored import TASK, attempt, commits, output_file, parsers, receipt, task
from tests.hostile.strategies import ODD_VALUES, mutated, mutations
from tests.support.builders import inputs_of, task_of

DEEP = 100_000


@pytest.mark.parametrize("name", parsers())
def test_real_bytes_are_read(name: str) -> None:
    """The seeds of the fuzzing below are good ones: else it would prove nothing."""
    for seed in parsers()[name].seeds:
        assert attempt(name, seed) == "value"


@pytest.mark.parametrize("name", parsers())
def test_damaged_bytes_are_a_value_or_refused_by_name(name: str) -> None:
    """Cut off, bits flipped, spliced, fields of other types, twice, huge: never
    another exception.
    """

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(parsers()[name].seeds), st.lists(mutations, min_size=1, max_size=3))
    def check(body: bytes, damage: list[tuple[str, object]]) -> None:
        for one in damage:
            body = mutated(body, one)
        attempt(name, body)

    check()


@pytest.mark.parametrize("name", parsers())
def test_every_field_of_a_wrong_type_is_a_value_or_refused_by_name(name: str) -> None:
    """Each field with each odd value. `retention_days=None` once ended in a TypeError."""
    for seed in parsers()[name].seeds:
        for place in range(40):
            for value in range(len(ODD_VALUES)):
                attempt(name, mutated(seed, ("field", (place, value))))


@pytest.mark.parametrize("name", parsers())
@pytest.mark.parametrize(
    "deep",
    [
        b"[" * DEEP,
        b'{"a":' * DEEP,
        b'{"format":1,"zz":' + b"[" * DEEP,
        b"9" * DEEP,
        b'"' + b"\\" * DEEP,
    ],
)
def test_deep_and_long_bytes_are_refused_too(name: str, deep: bytes) -> None:
    attempt(name, deep)
    for seed in parsers()[name].seeds[:1]:
        attempt(name, seed[:-1] + b',"unknown":' + deep)
        attempt(name, seed[:-1] + b',"unknown":' + b"[" * DEEP + b"]" * DEEP + b"}")


@pytest.mark.parametrize("kind", [LossNote, Job, Receipt])
def test_larger_objects_than_tidemill_writes_are_refused_undecoded(kind: type) -> None:
    """Refusing costs no memory: nothing of the object is decoded."""
    size = codec.STORED_BYTES_MAX[kind] + 1
    body = bytes(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StateInvalid, match=f"has {size} bytes, more than any"):
        codec.decode(kind, body, "k")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024
    assert not codec.may_be(kind, size)
    assert codec.may_be(kind, size - 1)


def test_nothing_is_written_that_could_not_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(codec.STORED_BYTES_MAX, Receipt, 100)
    with pytest.raises(InvariantViolated, match="could not be read again"):
        codec.encode(receipt())


def test_columns_that_contradict_each_other_are_refused() -> None:
    """Every field has the right type, and the whole makes no sense."""
    first, second, _ = commits()
    uneven = task_of(TASK, inputs_of("up/a", "up/b", etags=["only one"]))
    many = msgspec.structs.replace(
        second.settle[0], problems=[SourceProblem(index=7, status="failed")]
    )
    for commit in (
        msgspec.structs.replace(first, plan=[uneven]),
        msgspec.structs.replace(first, sequence=-1),
        msgspec.structs.replace(second, settle=[many]),
    ):
        with pytest.raises(StateInvalid, match="log/1"):
            codec.decode(Commit, msgspec.json.encode(commit), "log/1")
    short = msgspec.structs.replace(
        second,
        settle=[msgspec.structs.replace(second.settle[0], rows=[1], rejected=[0], problems=[])],
    )
    from tests.hostile.stored import folded

    with pytest.raises(StateInvalid, match="wrong number of sources"):
        folded(1).apply(short, 1)
    state = folded(1)
    state.overlay = {}
    checkpoint = checkpoint_of(state)
    checkpoint.tasks = {TASK: uneven}
    with pytest.raises(StateInvalid, match="contradicts itself"):
        codec.decode(Checkpoint, codec.encode(checkpoint), "checkpoint/1")


FOREIGN = {
    "a way up": {"files": [output_file(key=f"out/rows/../../secret/{TASK}.n.0.parquet")]},
    "a partition that leads up": {
        "files": [output_file(key=f"out/rows/day=1/../{TASK}.n.0.parquet")]
    },
    "another task's file": {"files": [output_file(key=f"out/rows/{2:020d}-000000.n.0.parquet")]},
    "another attempt's file": {"files": [output_file(key=f"out/rows/{TASK}.other.0.parquet")]},
    "another prefix": {"files": [output_file(key=f"elsewhere/rows/{TASK}.n.0.parquet")]},
    "the state's own prefix": {"files": [output_file(key=f"_tidemill/p/log/{TASK}.n.0.parquet")]},
    "an unknown table": {"files": [output_file(table="aggregate")]},
    "a file twice": {"files": [output_file(), output_file()]},
    "negative file size": {"files": [output_file(size_bytes=-1)]},
    "negative rows": {"rows": [-1, 0, 3]},
    "too few sources": {"rows": [1], "rejected": [0]},
    "another task": {"task": f"{3:020d}-000000"},
    "another version of the code": {"version": "w"},
    "a problem beyond the sources": {"problems": [SourceProblem(index=3, status="failed")]},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_receipt_is_not_believed(name: str) -> None:
    assert fits(receipt(), task(), "out/")
    assert not fits(receipt(**FOREIGN[name]), task(), "out/")


def test_no_state_of_the_released_format_is_refused() -> None:
    """The limits and checks above must let everything through that was ever written: see
    tests/data.
    """
    data = Path(__file__).parent.parent / "data"
    kinds = {"log": Commit, "receipts": Receipt, "checkpoint": Checkpoint}
    read = 0
    for path in data.rglob("*.json"):
        kind = kinds.get(path.parent.name)
        if kind is not None:
            codec.decode(kind, path.read_bytes(), path.name)
            read += 1
    assert read > 0
