"""python -m bench.warm BUCKET N: passes of one process over the tiny files; prints the seconds of
each as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from bench.flows import tiny
from pipeline.executors.none import NoExecutor
from pipeline.model.policy import Policy
from pipeline.runtime.bucket import Bucket
from pipeline.runtime.runtime import Runtime
from pipeline.runtime.system import keep_arrow_light


async def main() -> None:
    keep_arrow_light()
    runtime = Runtime(tiny, tiny.settings(), Bucket(url=sys.argv[1]).open(), Policy(), NoExecutor())
    await runtime.open()
    state, spent = None, []
    for _ in range(int(sys.argv[2]) + 1):
        started = time.perf_counter()
        report, state = await runtime.run(state)
        assert report.commits == 0
        spent.append(round(time.perf_counter() - started, 4))
    print(json.dumps(spent))


asyncio.run(main())
