"""For tests of your flows: `run_inline(pipeline, files)`, and the parts that it is made of."""

from pipeline.testing import InlineExecutor, MemoryStore, Ran, inline_runtime, run_inline

__all__ = ["InlineExecutor", "MemoryStore", "Ran", "inline_runtime", "run_inline"]
