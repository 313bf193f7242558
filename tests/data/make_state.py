"""python -m tests.data.make_state: makes tests/data/state-1, a small bucket in format 1 with
something of everything.

Kept as evidence of the format as it was: do not make it again, make the next one beside it when the
format grows.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

from pipeline.errors import InvariantViolated
from pipeline.executors.none import NoExecutor
from pipeline.passes.runner import Pass
from pipeline.testing import inline_runtime
from tests.integration.tables.test_aggregates import flow
from tests.support.helpers import lines

TARGET = Path(__file__).parent / "state-1"


class Interrupted(NoExecutor):
    """A runner that dies between commit and dispatch."""

    owner = "local:elsewhere:boot:0:1:1:x"


async def make() -> None:
    shutil.rmtree(TARGET, ignore_errors=True)
    uploads = TARGET / "up"
    uploads.mkdir(parents=True)
    opened = inline_runtime(flow(), TARGET)
    await opened.open()
    for name, kind, v in (("a", "x", 1), ("b", "y", 2), ("c", "x", 3), ("gone", "z", 9)):
        (uploads / name).write_text(lines({"kind": kind, "v": v, "day": "2026-01-01"}))
    (uploads / "bad").write_text("not json\n")
    _, state = await opened.run()
    (uploads / "a").write_text(
        lines(
            {"kind": "x", "v": 10, "day": "2026-02-01"}, {"kind": "y", "v": 20, "day": "2026-02-01"}
        )
    )
    (uploads / "gone").unlink()
    _, state = await opened.run(state)
    (uploads / "open").write_text(lines({"kind": "x", "v": 5, "day": "2026-03-01"}))
    opened.executor = Interrupted()
    with contextlib.suppress(InvariantViolated):
        await Pass(opened.context(), state).run()
    shutil.rmtree(TARGET / ".tidemill")
    shutil.rmtree(uploads)


if __name__ == "__main__":
    asyncio.run(make())
