"""The watch loop: how long it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from pipeline import Object, Pipeline
from pipeline.errors import StoreUnavailable
from pipeline.model.events import AnyEvent, Retrying
from pipeline.model.pass_report import PassReport
from pipeline.ports import Store
from pipeline.runtime import watch
from pipeline.runtime.runtime import Runtime
from pipeline.runtime.watch import Passes, Watching
from pipeline.state.state import State
from pipeline.testing import inline_runtime


class Inline:
    """An engine without processes."""

    detached = knows_costs = False
    under_way = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def runtime(self, pipeline: Pipeline, store: Store, usd: float | None = None) -> Runtime:
        return inline_runtime(pipeline, self.folder)

    async def close(self) -> None:
        pass


def test_it_waits_as_long_as_it_says_and_longer_after_each_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = iter([True, True, True, False, True, False])
    said: list[float] = []
    waited: list[float] = []

    async def work(runtime: Runtime) -> tuple[PassReport, State]:
        fate = next(fails, None)
        if fate is None:
            passes.stop()
        if fate:
            raise StoreUnavailable("busy")
        return PassReport(), State(runtime.settings.name)

    def listen(event: AnyEvent) -> None:
        if isinstance(event, Retrying):
            said.append(event.after_s)

    async def no_time(awaitable: Awaitable[Any], seconds: float) -> None:
        asyncio.ensure_future(awaitable).cancel()
        waited.append(seconds)
        raise TimeoutError

    monkeypatch.setattr(watch.asyncio, "wait_for", no_time)
    p = Pipeline("p", source="up/")

    @p.transform
    def rows(obj: Object) -> list[dict[str, str]]:
        return [{"key": obj.key}]

    engine = Inline(tmp_path)
    store = engine.runtime(p, None).store  # type: ignore[arg-type]
    passes = Passes([p], store, engine, listener=listen, watching=Watching(interval_s=5), work=work)
    outcome = asyncio.run(passes.run())
    assert outcome.stopped
    assert said == [5, 10, 20, 5]
    assert waited == [5, 10, 20, 5, 5, 5], "after a look that succeeded it is patient again"
