"""Which commit changed the columns: exact as far back as the log is kept, and said to be inexact
before.
"""

from __future__ import annotations

import pyarrow as pa

from pipeline.model.commit import Commit, Settled
from sinks.parquet.schema_history import history_of
from sinks.values.schema import encode


def commit(sequence: int, schema: pa.Schema | None = None, **broken: int) -> Commit:
    settled = Settled(
        task="t", nonce="n", rows=[], rejected=[], problems=[], files=[], seconds=0, broken=broken
    )
    entry = Commit(
        format=2,
        sequence=sequence,
        id="i",
        previous=None,
        pipeline="p",
        generation=0,
        writer="w",
        written_ms=0,
    )
    entry.settle, entry.schema = [settled], encode(schema) if schema is not None else None
    return entry


A = pa.schema({"n": pa.int32()})
B = pa.schema({"n": pa.int64(), "m": pa.string()})


def test_a_whole_log_tells_all() -> None:
    found = history_of([commit(1), commit(2, A, c=2), commit(3, B, c=1, d=4)])
    assert [(c.sequence, c.exact, c.added, c.changed) for c in found.changes] == [
        (2, True, {"n": "int32"}, {}),
        (3, True, {"m": "string"}, {"n": ("int32", "int64")}),
    ]
    assert (found.since("n"), found.since("m")) == ((2, True), (3, True))
    assert (found.kept_from, found.broken) == (1, {"c": 3, "d": 4})


def test_a_log_whose_beginning_is_gone_says_so() -> None:
    found = history_of([commit(7), commit(8, A), commit(9, B)])
    assert (found.kept_from, found.since("n"), found.since("m")) == (7, (8, False), (9, True))
    assert history_of([commit(7)]).since("n") == (None, False)
    assert history_of([]).kept_from is None
