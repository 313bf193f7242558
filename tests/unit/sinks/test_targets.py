"""What a sink may be is checked when it is declared; what one must do follows from two snapshots
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from pipeline import Pipeline
from pipeline.declare.prefix_overlaps import check_together
from pipeline.deploy.deployment import Deployment, checked
from pipeline.errors import SettingsError
from pipeline.model.commit import AggregateFile
from pipeline.model.receipt import OutputFile
from pipeline.model.snapshot import Changes, Output, Snapshot
from sinks import Catalogue, Delta, DuckDBFile, Postgres
from sinks.copies.change import Mark
from sinks.copies.changes import changes_between
from sinks.values.schema import encode


def sales(**options: Any) -> Pipeline:
    p = Pipeline("sales", source="uploads/", schedule="* * * * *", **options)
    p.transform(lambda_of())
    return p


def lambda_of() -> Callable[[Any], Any]:
    def parse(obj: Any) -> Any:
        return []

    return parse


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda: Delta("lake"), "ends with '/'"),
        (lambda: Delta("s3://other/lake/"), "the pipeline's own bucket"),
        (lambda: Delta("a/../b/"), "without scheme"),
        (lambda: Catalogue("catalogue"), "like Catalogue"),
        (lambda: Catalogue("/c.duckdb"), "without scheme"),
        (lambda: DuckDBFile("s3://b/x.duckdb"), "a path of this machine"),
        (lambda: DuckDBFile("warehouse.parquet"), "a path of this machine"),
        (lambda: Postgres("X", schema="Robert'); DROP"), "lower-case letter"),
        (lambda: sales().sink("lake", "lake/"), "is no sink"),  # type: ignore[arg-type]
        (lambda: sales().sink("lake", Delta), "is no sink"),  # type: ignore[arg-type]
        (lambda: sales().sink("Lake", Delta("lake/")), "use a lower-case letter"),
        (
            lambda: sales().sink("lake", Delta("uploads/lake/")),
            "overlaps the source prefix 'uploads/'",
        ),
        (lambda: sales().sink("lake", Delta("tables/")), "overlaps the output prefix"),
        (lambda: sales().sink("lake", Catalogue("_tidemill/c.duckdb")), "Tidemill's own prefix"),
        (
            lambda: [p := sales(), p.sink("a", Delta("l/")), p.sink("a", Delta("m/"))],
            "the name is taken",
        ),
        (
            lambda: [p := sales(), p.sink("a", Delta("l/")), p.sink("b", Delta("l/"))],
            "the same place",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(declare: Callable[[], object], says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        declare()
    assert "\n" not in str(caught.value)


def test_a_connection_string_is_not_taken_for_a_name_nor_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        Postgres("postgresql://me:hunter2@host/db")
    assert "hunter2" not in str(caught.value)


def test_a_sink_never_writes_where_another_pipeline_reads() -> None:
    first, other = sales(), Pipeline("other", source="lake/")
    first.sink("lake", Delta("lake/"))
    with pytest.raises(SettingsError, match="overlaps the source prefix 'lake/' of pipeline other"):
        check_together([first, other])


def test_a_file_of_this_machine_is_not_deployed() -> None:
    p = sales()
    p.sink("file", DuckDBFile("warehouse.duckdb"))
    with pytest.raises(SettingsError, match="no container reaches"):
        checked(Deployment(file="x.py", bucket="s3://bucket", secret="s"), [p], "app")


# -- changes between two snapshots -----------------------------------------------------------------


def snapshot(sequence: int, outputs: dict[str, list[str]], **options: Any) -> Snapshot:
    """Outputs with their dead keys."""
    file = OutputFile(
        table="rows", key="k", size_bytes=1, rows=1, partition={}, schema_id="s", sha256=""
    )
    plain: dict[str, Any] = {
        "schema": encode(pa.schema([("n", pa.int32())])),
        "aggregates": {},
        "changes": Changes(),
    }
    made = {name: Output(files=[file], live=1, dead=dead) for name, dead in outputs.items()}
    return Snapshot(
        pipeline="p", sequence=sequence, outputs=made, removed={}, quarantine={}, **plain | options
    )


def test_outputs_that_came_went_and_lost_rows() -> None:
    old = snapshot(1, {"t1.a": ["x"], "t2.a": [], "t3.a": []})
    new = snapshot(5, {"t1.a": ["x", "y", "z"], "t3.a": [], "t4.a": ["w"]})
    change = changes_between(old, new, {}, Mark(0, 1))
    assert (change.whole, change.over, change.mark) == (False, Mark(0, 1), Mark(0, 5))
    assert ([*change.added], [*change.vanished], [*change.shrunk]) == (["t4.a"], ["t2.a"], ["t1.a"])
    assert change.gone == [("t1", "y"), ("t1", "z")]


def test_columns_that_came_and_that_changed() -> None:
    wider = encode(pa.schema([("n", pa.int64()), ("new", pa.string()), ("empty", pa.null())]))
    change = changes_between(snapshot(1, {}), snapshot(2, {}, schema=wider), {}, Mark(0, 1))
    assert change.new_columns == ["new"]
    assert change.retyped == {"n": (pa.int32(), pa.int64())}
    assert change.schema.names == ["n", "new", "_source_key", "_source_etag", "_task"], (
        "one without a type is not there yet"
    )


@pytest.mark.parametrize(
    ("before", "now", "changes", "replaced", "dropped"),
    [
        ("f1", "f1", Changes(), (), ()),
        ("f1", "f2", Changes(), ("a",), ()),
        # computed when asked for, until it is committed
        ("f1", "f1", Changes(added=["t.a"]), ("a",), ()),
        (None, "f1", Changes(), ("a",), ()),
        ("f1", None, Changes(), (), ("a",)),
    ],
)
def test_aggregates_are_replaced_where_they_changed(
    before: str | None,
    now: str | None,
    changes: Changes,
    replaced: tuple[str, ...],
    dropped: tuple[str, ...],
) -> None:
    def files(key: str | None) -> dict[str, AggregateFile]:
        return (
            {}
            if key is None
            else {"a": AggregateFile(name="a", definition="d", key=key, size_bytes=1, rows=1)}
        )

    old, new = (
        snapshot(1, {}, aggregates=files(before)),
        snapshot(2, {}, aggregates=files(now), changes=changes),
    )
    change = changes_between(old, new, {} if now is None else {"a": "d"}, Mark(0, 1))
    assert (change.aggregates, change.dropped) == (replaced, dropped)


def test_without_an_old_snapshot_everything_is_new() -> None:
    change = changes_between(None, snapshot(3, {"t1.a": []}), {"a": "d"}, Mark(0, 9))
    assert (change.whole, [*change.added], change.aggregates, change.over) == (
        True,
        ["t1.a"],
        ("a",),
        Mark(0, 9),
    )
