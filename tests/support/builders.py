"""Plain values that many tests need, with everything that a test does not care about filled in."""

from __future__ import annotations

from typing import Any

from pipeline.model.commit import FORMAT_VERSION
from pipeline.model.loss import Loss
from pipeline.model.receipt import Receipt, SourceProblem
from pipeline.model.settings import PipelineSettings, TransformSettings
from pipeline.model.task import Inputs, Task
from pipeline.ports import Finished
from pipeline.work.orders import Answer


def pipeline_settings(*transforms: TransformSettings, **options: Any) -> PipelineSettings:
    """A pipeline `p` that reads `up/` and writes `out/`."""
    plain: dict[str, Any] = {
        "include": ("**",),
        "exclude": (),
        "partition_by": (),
        "widen": "none",
        "aggregates": (),
    }
    return PipelineSettings(
        **{
            "name": "p",
            "source": "up/",
            "output": "out/",
            "transforms": transforms,
            **plain,
            **options,
        }
    )


def inputs_of(*names: str, **columns: list[Any]) -> Inputs:
    """Inputs at version `e` of one byte each; a column may be given."""
    n = len(names)
    plain = {"etags": ["e"] * n, "sizes": [1] * n, "modified_us": [0] * n, "replaces": [None] * n}
    return Inputs(**{"keys": list(names), **plain, **columns})


def task_of(id: str, inputs: Inputs, **options: Any) -> Task:
    """An open task of transform `f` at version `v`, dispatched once, to containers on Modal."""
    plain: dict[str, Any] = {
        "transform": "f",
        "version": "v",
        "generation": 0,
        "attempt": 1,
        "losses": 0,
        "deadline_ms": 0,
    }
    return Task(**{"id": id, "inputs": inputs, "owner": "modal:app", **plain, **options})


def receipt_of(task: Task, *problems: SourceProblem, **options: Any) -> Receipt:
    """A receipt with one row for each input that has no problem."""
    n, bad = len(task.inputs), {p.index for p in problems}
    plain: dict[str, Any] = {
        "nonce": "n",
        "files": [],
        "schema": None,
        "seconds": 1.0,
        "bytes_read": 1,
        "rejected": [0] * n,
    }
    reported = {"rows": [0 if i in bad else 1 for i in range(n)], "problems": list(problems)}
    return Receipt(
        **{
            "format": FORMAT_VERSION,
            "task": task.id,
            "version": task.version,
            **plain,
            **reported,
            **options,
        }
    )


NOT_LOST = Loss(reason="")


def loss_of(ended: Finished | Answer) -> Loss:
    """Why it was lost; without a reason where it was not."""
    return ended.loss or NOT_LOST
