"""What passes say to listeners."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from pipeline import Object, Pipeline
from pipeline.model import events
from pipeline.model.events import AnyEvent, everyone
from pipeline.testing import inline_runtime


def said(folder: Path, pipeline: Pipeline, **policy: Any) -> list[AnyEvent]:
    heard: list[AnyEvent] = []
    runtime = inline_runtime(pipeline, folder, **policy)
    runtime.listener = everyone(heard.append, lambda event: None)

    async def run() -> None:
        await runtime.open()
        await runtime.run()

    asyncio.run(run())
    return heard


def of(heard: list[AnyEvent], kind: type[Any]) -> list[Any]:
    return [event for event in heard if isinstance(event, kind)]


def flow() -> Pipeline:
    p = Pipeline("p", source="up/", output="out/")
    p.aggregate("sums", by=["k"], sql="SELECT k, sum(n) AS n FROM p GROUP BY k")

    @p.transform
    def rows(obj: Object) -> list[dict[str, object]]:
        return [{"k": obj.name, "n": int(line)} for line in obj.lines()]

    return p


def test_each_step_of_a_pass_is_an_event(tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    for name, text in {"a": "1\n2\n", "b": "no\n", "c": "3\n"}.items():
        (tmp_path / "up" / name).write_text(text)
    heard = said(tmp_path, flow())
    [planned] = of(heard, events.Planned)
    assert (planned.pipeline, planned.files, planned.size_bytes) == ("p", 3, 9)
    assert sum(event.files for event in of(heard, events.Dispatched)) == 3
    committed = of(heard, events.Committed)
    assert (sum(c.files for c in committed), sum(c.rows for c in committed)) == (2, 3)
    [failed] = of(heard, events.Quarantined)
    assert (failed.key, failed.kind, failed.transform) == ("up/b", "failed", "rows")
    assert "invalid literal" in failed.reason
    assert [event.names for event in of(heard, events.Aggregated)] == [("sums",)]
    assert of(heard, events.ColumnsChanged)
    assert of(heard, events.Progressed)[-1].report.committed == 2
    sequences = [e.sequence for e in heard if hasattr(e, "sequence")]
    assert sequences == sorted(sequences), "in the order of commits"


def test_what_goes_is_in_a_commit_and_nothing_new_is_silent(tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "a").write_text("1\n")
    said(tmp_path, flow())
    assert of(said(tmp_path, flow()), events.Event) == []
    (tmp_path / "up" / "a").unlink()
    [gone] = of(said(tmp_path, flow()), events.Committed)
    assert (gone.files, gone.rows, gone.deleted) == (0, 0, 1)


def test_an_aggregate_that_cannot_be_computed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "a").write_text("1\n")
    p = flow()
    p.aggregate("wrong", by=["k"], sql="SELECT k, sum(missing) AS n FROM p GROUP BY k")
    [refused] = of(said(tmp_path, p), events.Refused)
    assert (refused.what, "missing" in refused.reason) == ("aggregate", True)
