"""The deployed app: which function runs what, on which machine, seeing which part of the bucket.

No logic of its own.

For each pipeline of FILE (its name is appended where FILE declares several):

    tick        scheduled       a pass: settle, list, plan, commit, hand over
    sweep       scheduled       the listing, where ticks do not list
    commit      batched, one    receipts of many workers in one append
    aggregate   one container   brings aggregates up to date
    publish     one container   brings declared sinks up to date
    maintain    nightly         compaction and vacuum
    submit                      a job's keys, from elsewhere by Function.from_name
    backfill_*  scheduled       declared backfills
    work_*                      attempts of one transform; a class with `run` where it keeps state
    batch_*     batched         the same for small tasks, where the transform waits for company
                                (see pipeline/work/worker_pools.py)

and one `hint` endpoint, behind Modal's proxy authentication, for notices of uploads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import modal

from infra.builder import AppBuilder
from infra.functions import PipelineFunctions
from pipeline.declare.load_file import is_path, load_pipelines
from pipeline.deploy.deployment import Deployment, checked, from_environment
from pipeline.deploy.engines import app_name
from pipeline.notices.http import hint_application


def build(namespace: dict[str, Any], deployment: Deployment | None = None) -> modal.App:
    """The app, with each function under its name in `namespace`, where containers look for it.

    Raises SettingsError.
    """
    wanted = deployment or from_environment()
    if not modal.is_local():
        wanted = _in_container(wanted)
    pipelines = load_pipelines(wanted.file)
    declared = load_pipelines(wanted.file.partition(":")[0])
    builder = AppBuilder(namespace, checked(wanted, pipelines, app_name(declared)), pipelines)
    for pipeline in pipelines:
        PipelineFunctions(builder, pipeline).add_all()
    _add_hint(builder)
    return builder.app


def _add_hint(builder: AppBuilder) -> None:
    def hinted(names: list[str]) -> int:
        """Hand hinted keys to the ticks of the pipelines that read them."""
        taken = 0
        for pipeline in builder.pipelines:
            mine = [name for name in names if name.startswith(pipeline.source)]
            if mine:
                builder.spawn(builder.name("tick", pipeline), mine)
                taken += len(mine)
        return taken

    def hint() -> Any:
        return hint_application(
            hinted, bucket=builder.deployment.bucket_name, prefix=builder.deployment.bucket_prefix
        )

    builder.add(
        "hint",
        hint,
        modal.asgi_app(requires_proxy_auth=True),
        image=builder.control_image,
        cpu=0.25,
        memory=512,
        timeout=60,
        scaledown_window=60,
        max_containers=2,
    )


def _in_container(deployment: Deployment) -> Deployment:
    import msgspec

    if not is_path(deployment.file.partition(":")[0]):
        return deployment
    return msgspec.structs.replace(
        deployment, file=str(Path(__file__).parent.parent / deployment.file)
    )
