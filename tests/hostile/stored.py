"""Every parser of stored or received bytes, each with real bytes to start from.

A parser's answer is a value or its own error.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from pipeline.commit_log.format_marker import Marker, read_marker
from pipeline.commit_log.log import Log, parse_floor
from pipeline.declare.pipeline import Pipeline
from pipeline.errors import InvariantViolated, SettingsError, StateInvalid
from pipeline.model import keys
from pipeline.model.commit import FORMAT_VERSION, Commit, Deleted, Quarantined, Settled
from pipeline.model.listing import Stored
from pipeline.model.policy import Policy
from pipeline.model.receipt import LossNote, OutputFile, Receipt, SourceProblem
from pipeline.model.snapshot import Output
from pipeline.model.task import Assignment
from pipeline.notices.message import KEYS_MAX, keys_in
from pipeline.plan.evidence import fits
from pipeline.state import codec, ledger, outputs, sorted_runs
from pipeline.state.checkpoint import Checkpoint
from pipeline.state.jobs import Job
from pipeline.state.ledger import Entry
from pipeline.state.state import State
from pipeline.state.stored_state import checkpoint_of, restored
from pipeline.testing.memory_store import MemoryStore
from pipeline.work.orders import decode_answer, decode_assignment, decode_order, encode, order_for
from tests.support.builders import inputs_of, receipt_of, task_of

TASK = f"{1:020d}-000000"


@dataclass(frozen=True)
class Parser:
    """`read` raises nothing but `errors`; `seeds` are bytes that it accepts."""

    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    errors: tuple[type[Exception], ...] = (StateInvalid,)


def output_file(**options: Any) -> OutputFile:
    plain = {
        "table": "rows",
        "key": f"out/rows/{TASK}.n.0.parquet",
        "size_bytes": 9,
        "rows": 2,
        "partition": {},
    }
    return OutputFile(**{**plain, "schema_id": "s", "sha256": "h", **options})


def receipt(**options: Any) -> Receipt:
    problem = SourceProblem(index=1, status="failed", reason="ValueError: no", detail="line 1")
    return msgspec.structs.replace(
        receipt_of(task(), problem, files=[output_file()], schema="abc"), **options
    )


def task() -> Any:
    return task_of(TASK, inputs_of("up/a", "up/b", "up/c"))


def commits() -> list[Commit]:
    reported: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "pipeline": "p",
        "generation": 0,
        "writer": "w",
        "written_ms": 5,
    }
    first = Commit(sequence=1, id="one", previous=None, plan=[task()], **reported)
    r = receipt()
    settled = Settled(
        task=TASK,
        nonce="n",
        rows=r.rows,
        rejected=r.rejected,
        problems=r.problems,
        files=r.files,
        seconds=1.0,
        bytes_read=3,
    )
    aside = Quarantined(key="up/z", etag="e", kind="lost", reason="it died", retry_at_ms=9)
    second = Commit(
        sequence=2,
        id="two",
        previous="one",
        settle=[settled],
        quarantine=[aside],
        schema="abc",
        **reported,
    )
    gone = Deleted(key="up/a", output=f"{TASK}.n")
    return [
        first,
        second,
        Commit(
            sequence=3, id="three", previous="two", deleted=[gone], requeue=["up/z"], **reported
        ),
    ]


def folded(upto: int) -> State:
    state = State("p")
    for commit in commits()[:upto]:
        state.apply(commit, 1)
    return state


def _apply(body: bytes) -> object:
    """A log entry, folded on top of those before it."""
    commit = codec.decode(Commit, body, "log/x.json")
    state = folded(commit.sequence - 1 if commit.sequence in (1, 2, 3) else 0)
    state.apply(commit, 1)
    state.overlay = {}  # as if it was in a run
    checkpoint_of(state)
    return state


def _restore(body: bytes) -> object:
    return restored(codec.decode(Checkpoint, body, "checkpoint/x.json"))


def _publish(body: bytes) -> object:
    """A receipt is taken only if it names files of its own task's attempt, below the output prefix,
    with sane figures.
    """
    found = codec.decode(Receipt, body, "receipts/x.json")
    if fits(found, task(), "out/"):
        assert all(f.key.startswith("out/") and ".." not in f.key.split("/") for f in found.files)
        assert all(keys.task_of(f.key) == TASK for f in found.files)
        assert min([*found.rows, *found.rejected]) >= 0
        assert len(found.rows) == len(found.rejected) == 3
    return found


def _floor(body: bytes) -> object:
    return parse_floor(Stored(body=body, etag="e", size_bytes=len(body), modified_us=0), "gc/floor")


def _hint(body: bytes) -> object:
    store = MemoryStore()
    log = Log(store, "p", clock=None, policy=Policy())  # type: ignore[arg-type]

    async def work() -> str | None:
        await store.put(keys.hint(log.home), body)
        return await log.hinted_checkpoint()

    named = asyncio.run(work())
    assert named is None or named.startswith(keys.checkpoint_prefix(log.home))
    return named


def _run(body: bytes) -> object:
    """A ledger run whose checksum somebody made right."""
    import hashlib

    run = sorted_runs.Run(
        key="r", rows=1, first="a", last="a", sha256=hashlib.sha256(body).hexdigest()
    )
    known, found = ledger.Ledger([run]), sorted_runs.decode(body, run, ledger.schema())
    if found.num_rows < 1000:
        known.learn(["a"], sorted_runs.rows_of(found, ["a"]))
        return known.get("a")
    return None


def _output_run(body: bytes) -> object:
    """A run of outputs, made right in the same way."""
    import hashlib

    run = sorted_runs.Run(
        key="r", rows=1, first="a", last="a", sha256=hashlib.sha256(body).hexdigest()
    )
    known, found = outputs.Outputs(runs=[run]), sorted_runs.decode(body, run, outputs.schema())
    if found.num_rows < 1000:
        known.learn((), found, whole=True)
        return dict(known)
    return None


def _stored(state: State) -> bytes:
    state.overlay = {}  # as if it was in a run
    return codec.encode(checkpoint_of(state))


def _notice(body: bytes) -> object:
    found = keys_in(body, bucket="b", prefix="pre/")
    assert found is None or (
        len(found) <= KEYS_MAX and all(isinstance(key, str) and key for key in found)
    )
    return found


def _settings(body: bytes) -> object:
    """Options of a Pipeline and of its transform, from JSON."""
    try:
        options = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(options, dict):
        return None
    inner = options.pop("transform", {})
    try:
        p = Pipeline(options.pop("name", "p"), **{"source": "up/", **options})
        p.transform(**(inner if isinstance(inner, dict) else {}))(lambda obj: [])
        p.settings()
    except TypeError as error:
        assert (
            "unexpected keyword" in str(error)
            or "multiple values" in str(error)
            or "keywords must be" in str(error)
        ), error
    except SettingsError as error:
        assert "\n" not in str(error), error
    return None


@cache
def parsers() -> dict[str, Parser]:
    """All of them, by name."""
    log = tuple(codec.encode(commit) for commit in commits())
    job = Job(
        format=1,
        id="j",
        pipeline="p",
        keys=["a", "b"],
        etags=["1", ""],
        submitted_ms=1,
        tasks=[TASK],
        calls=["c"],
    )
    note = LossNote(format=1, task=TASK, dispatch=1, reason="gone", suspect=2)
    assignment = Assignment(pipeline="p", task=task(), nonce="n", schema=None)
    order, _ = order_for(assignment, "home/")
    entry = Entry("e", 1, 2, 3, 0, "f", "v", 0, "o", 7)
    s3 = {"Records": [{"s3": {"bucket": {"name": "b"}, "object": {"key": "pre/a+b%2F"}}}]}
    bridge = {"detail": {"bucket": {"name": "b"}, "object": {"key": "pre/x"}}}
    reported = {
        "name": "p",
        "source": "up/",
        "include": ["*.csv"],
        "partition_by": ["day"],
        "retention_days": 3,
        "schedule": "*/5 * * * *",
        "timezone": "Europe/Riga",
        "widen": "float",
        "output": "tables/p/",
        "transform": {
            "match": "*.csv",
            "timeout_s": 5,
            "memory_mb": 500,
            "batch_size": 3,
            "gpu": "L4",
            "volumes": {"/m": "v"},
        },
    }
    notices = tuple(
        json.dumps(one).encode()
        for one in (s3, bridge, {"keys": ["pre/x", "pre/é"]}, {"Event": "s3:TestEvent"})
    )
    refusals = (StateInvalid, InvariantViolated)
    return {
        "log entry": Parser(_apply, log, refusals),
        "commit id": Parser(lambda b: codec.commit_id(b, "k"), log),
        "receipt": Parser(
            _publish, (codec.encode(receipt()), codec.encode(receipt(mounted=True, unverified=[0])))
        ),
        "checkpoint": Parser(_restore, (_stored(folded(1)), _stored(folded(2))), refusals),
        "loss note": Parser(lambda b: codec.decode(LossNote, b, "k"), (codec.encode(note),)),
        "job": Parser(lambda b: codec.decode(Job, b, "k"), (codec.encode(job),)),
        "format": Parser(
            lambda b: read_marker(b, "k"),
            (msgspec.json.encode(Marker(format=1, pipeline="p", source="u/", output="o/")),),
        ),
        "floor": Parser(_floor, (b"17", b"0", b" 5\n")),
        "hint": Parser(_hint, (keys.checkpoint(keys.home("p"), 3, "abc").encode(),)),
        "ledger run": Parser(_run, (sorted_runs.encode(ledger.table_of({"a": entry, "b": None})),)),
        "run of outputs": Parser(
            _output_run,
            (sorted_runs.encode(outputs.table_of({"a": Output(files=[], live=1), "b": None})),),
        ),
        "assignment": Parser(
            lambda b: decode_assignment(b, "k"), (msgspec.json.encode(assignment),)
        ),
        "order": Parser(
            lambda b: decode_order(b.decode("utf-8", "surrogateescape")), (encode(order).encode(),)
        ),
        "answer": Parser(
            lambda b: decode_answer(b.decode("utf-8", "surrogateescape")),
            (b'{"task":"t","nonce":"n"}',),
        ),
        "notice": Parser(_notice, notices, ()),
        "settings": Parser(_settings, (json.dumps(reported).encode(),), ()),
    }


def attempt(name: str, body: bytes) -> str:
    """`value` or `refused`; raises whatever a parser must not raise."""
    parser = parsers()[name]
    try:
        parser.read(body)
    except parser.errors as error:
        assert "\n" not in str(error), f"{name}: {error}"
        return "refused"
    return "value"
