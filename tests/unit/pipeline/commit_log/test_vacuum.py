"""What a vacuum leaves, whatever the clocks of the machines say that wrote the log."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from pipeline import Object, Pipeline
from pipeline.commit_log.log import Log, Outdated
from pipeline.commit_log.looking_back import load_at
from pipeline.commit_log.vacuum import vacuum
from pipeline.model.commit import FORMAT_VERSION, Commit, Deleted, Settled
from pipeline.model.policy import Policy
from pipeline.model.receipt import OutputFile
from pipeline.passes import upkeep
from pipeline.passes.audit import all_entries
from pipeline.passes.runner import Pass
from pipeline.runtime.system import RandomIds, WallClock
from pipeline.state.state import State
from pipeline.testing import inline_runtime
from pipeline.testing.memory_store import MemoryStore
from tests.support.builders import inputs_of, pipeline_settings, task_of

DAY_MS = 86_400_000


async def committed(log: Log, state: State, **what: Any) -> None:
    """A commit by a machine whose clock stands at 1970."""
    number = state.sequence + 1
    commit = Commit(
        format=FORMAT_VERSION,
        sequence=number,
        id=f"c{number}",
        previous=state.id,
        pipeline="p",
        generation=0,
        writer="w",
        written_ms=0,
        **what,
    )
    assert await log.append(state, commit)


def test_a_file_removed_by_a_machine_whose_clock_is_years_behind_stays_for_its_retention() -> None:
    store = MemoryStore()
    log, settings = (
        Log(store, "p", clock=WallClock(), policy=Policy()),
        pipeline_settings(retention_s=DAY_MS // 1000),
    )
    task = task_of("00000000000000000001-000000", inputs_of("up/a"))
    file = OutputFile(
        table="rows",
        key=f"out/rows/{task.id}-n-0.parquet",
        size_bytes=4,
        rows=1,
        partition={},
        schema_id="s",
        sha256="",
    )
    settled = Settled(
        task=task.id, nonce="n", rows=[1], rejected=[0], problems=[], files=[file], seconds=1
    )

    async def scenario() -> None:
        state = await log.load()
        await store.put(file.key, b"rows")
        await committed(log, state, plan=[task])
        await committed(log, state, settle=[settled])
        [output] = state.outputs
        await committed(log, state, deleted=[Deleted(key="up/a", output=output)])
        loaded = await log.load()
        assert output in loaded.removed
        done = await vacuum(log, settings, loaded, RandomIds())
        assert done.outputs == []
        assert (await store.get(file.key)).body == b"rows"

    asyncio.run(scenario())


def test_a_vacuum_leaves_the_runs_of_the_ledger_that_an_earlier_state_is_read_from() -> None:
    p = Pipeline("p", source="up/", retention_days=1)
    p.transform(by_lines)

    async def scenario(folder: Path) -> None:
        small = {"overlay_max": 1, "run_rows_max": 2, "run_fanout": 2, "outputs_inline_max": 0}
        opened = inline_runtime(p, folder, checkpoint_every=1, log_entries_max=24, **small)
        await opened.open()
        sources = [folder / "up" / f"{i}" for i in range(8)]
        seen: dict[int, set[str]] = {}
        for content in range(8):
            for source in sources:
                source.write_text(f"{content}{source.name}" * (content + 1))
            _, state = await opened.run()
            seen[state.sequence] = {
                stored.etag for stored in [await opened.store.head(f"up/{s.name}") for s in sources]
            }
            await upkeep.vacuum(Pass(opened.context()))
        log = opened.log()
        looked = [sequence for sequence in seen if sequence > state.sequence - 24]
        for sequence in looked:
            try:
                earlier = await load_at(log, sequence)
                await log.load_outputs(earlier)
                entries = await all_entries(log, earlier)
            except Outdated as error:
                raise AssertionError(
                    f"what was kept for commit {sequence} is gone: {error}"
                ) from None
            assert {entry.etag for entry in entries.values()} == seen[sequence]
        assert len(looked) > 2
        assert await log.floor() > min(seen)

    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "up").mkdir()
        asyncio.run(scenario(Path(made)))


def by_lines(obj: Object) -> list[dict[str, str]]:
    return [{"text": obj.text()}]
