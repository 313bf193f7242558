"""A pipeline run in a test, a store in memory, an executor in this process: for everyone's tests.

`run_inline(pipeline, files)` is what tests of transforms want. The rest are the parts of a pipeline
without processes and without a bucket.
"""

from pipeline.testing.inline import Ran, inline_runtime, run_inline
from pipeline.testing.inline_executor import InlineExecutor
from pipeline.testing.memory_store import MemoryStore

__all__ = ["InlineExecutor", "MemoryStore", "Ran", "inline_runtime", "run_inline"]
