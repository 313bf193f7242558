"""The deployed pipeline, end to end: real client, real containers, a real S3 server; Modal itself
is the offline stand-in.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.declare.load_file import load_pipelines
from pipeline.deploy.engines import ModalEngine
from pipeline.passes.runner import Pass
from pipeline.runtime.bucket import Bucket
from pipeline.runtime.system import WallClock
from tests.modal.helpers import Cloud, Deployed
from tests.support.helpers import lines

FLOW = '''
import json, time
from pathlib import Path
from pipeline import Pipeline, Object

logs = Pipeline("logs", source="up/", schedule="*/5 * * * *", access="{access}")

@logs.transform(timeout_s=2, max_containers=2, version="{version}")
def parse(obj: Object):
    """A first row may hold the code at a marker: it says that it began, and waits to be let go."""
    rows = [json.loads(line) for line in obj.lines()]
    hold = rows[0].pop("hold", None)
    began = Path(hold + ".began") if hold else None
    if began is not None and not began.exists():
        began.touch()
        while not Path(hold + ".go").exists():
            time.sleep(0.02)
    return rows

logs.aggregate("by_kind", by=["kind"],
    sql="SELECT kind, count(*) AS n, sum(v) AS total FROM logs GROUP BY kind")
'''


def flow(access: str = "mount", version: str = "1", timeout_s: float = 60) -> str:
    text = FLOW.replace("{access}", access).replace("{version}", version)
    return text.replace("timeout_s=2", f"timeout_s={timeout_s}")


def sums(project: Deployed) -> dict[str, tuple[int, int]]:
    asked = project.call("sql", "SELECT kind, n, total FROM by_kind", "--format", "json", code=None)
    if "no rows are committed yet" in asked.stderr:
        return {}
    return {row["kind"]: (row["n"], row["total"]) for row in json.loads(asked.stdout)}


def running(project: Deployed, function: str = "work_parse") -> Any:
    """The container that runs a function's input now."""
    [found] = [
        c
        for c in project.cloud.modal.containers()
        if c.app == project.app and c.function.name == function
    ]
    return found


class Later(WallClock):
    """A clock that is ahead: every deadline so far has passed."""

    def now_ms(self) -> int:
        return super().now_ms() + 3_600_000


def pass_an_hour_later(project: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a tick an hour from now would do."""
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)

    async def go() -> None:
        bucket = Bucket(url=project.bucket, endpoint_url=project.cloud.url, region="us-east-1")
        [pipeline] = load_pipelines(str(project.file))
        runtime = ModalEngine(str(project.file), bucket, app=project.app).runtime(
            pipeline, bucket.open()
        )
        await Pass(dataclasses.replace(runtime.context(), clock=Later())).run()

    asyncio.run(go())


@pytest.mark.parametrize("access", ["mount", "api"])
def test_uploads_become_rows_and_aggregates_once(cloud: Cloud, access: str) -> None:
    sink = """
from sinks import Delta
logs.sink("lake", Delta("lake/"))
"""
    project = cloud.project(flow(access) + (sink if access == "mount" else ""))
    project.deploy()
    for i in range(30):
        project.upload(f"up/{i:02}-é +%.jsonl", lines({"kind": "ab"[i % 2], "v": i}))
    project.upload("up/bad.jsonl", "not json\n")
    project.fire()

    expected = {"a": (15, sum(range(0, 30, 2))), "b": (15, sum(range(1, 30, 2)))}
    assert sums(project) == expected
    assert project.audit()["sources"] == {"committed": 30, "quarantined": 1}
    assert "JSONDecodeError" in project.call("quarantine", "list", code=None).stderr + str(
        project.sql("SELECT reason FROM quarantine")
    )
    before = len(project.inputs("work_parse"))
    project.fire()
    assert len(project.inputs("work_parse")) == before, "a second tick submits nothing"

    project.upload("up/00-é +%.jsonl", lines({"kind": "a", "v": 1000}))
    project.delete("up/01-é +%.jsonl")
    project.fire()
    assert sums(project) == {"a": (15, expected["a"][1] + 1000), "b": (14, expected["b"][1] - 1)}
    project.audit()
    if access == "mount":
        [held] = json.loads(project.call("sinks", "--json").stdout)
        assert (held["problem"], held["is_behind"]) == ("", False), "the app published"
    secrets_seen = list(cloud.modal.functions(project.app)["work_parse"].secret_ids)
    assert bool(secrets_seen) == (access == "api"), "workers behind mounts hold no credentials"


def test_a_killed_and_a_preempted_container_cost_nothing(cloud: Cloud, tmp_path: Path) -> None:
    project = cloud.project(flow(timeout_s=60))
    project.deploy()
    for n, end in enumerate((cloud.modal.kill, cloud.modal.preempt)):
        hold = tmp_path / f"hold{n}"
        project.upload(f"up/{n}-held.jsonl", lines({"kind": "held", "v": 1, "hold": str(hold)}))
        project.upload(f"up/{n}-other.jsonl", lines({"kind": "other", "v": 1}))
        cloud.modal.fire(project.app, "tick")
        project.until(lambda hold=hold: Path(f"{hold}.began").exists())
        end(running(project).task_id)
        cloud.modal.wait_idle()
        assert sums(project) == {"held": (n + 1, n + 1), "other": (n + 1, n + 1)}
    assert [one.executions for one in project.inputs("work_parse")] == [2, 2]
    project.audit()


def test_a_call_beyond_its_time_costs_its_own_file_alone(cloud: Cloud, tmp_path: Path) -> None:
    project = cloud.project(flow(timeout_s=5))
    project.deploy()
    hold = tmp_path / "hold"
    project.upload("up/slow-once.jsonl", lines({"kind": "slow", "v": 1, "hold": str(hold)}))
    project.upload("up/zz.jsonl", lines({"kind": "fast", "v": 1}))
    project.fire()
    assert sums(project) == {}, "one task, and it was lost"
    project.fire()  # the slow file is alone now, and not held a second time
    assert sums(project) == {"slow": (1, 1), "fast": (1, 1)}
    assert {one.status for one in project.inputs("work_parse")} == {"done"}, (
        "the container lived on"
    )
    project.audit()


def test_an_order_run_twice_counts_once(cloud: Cloud) -> None:
    project = cloud.project(flow())
    project.deploy()
    cloud.modal.faults.duplicate("work_parse", n=2)
    for i in range(4):
        project.upload(f"up/{i}.jsonl", lines({"kind": "a", "v": i}))
    project.fire()
    assert max(one.executions for one in project.inputs("work_parse")) == 2
    assert sums(project) == {"a": (4, 6)}
    receipts = [key for key in project.keys("_tidemill/logs/receipts/") if key.endswith(".json")]
    assert len(receipts) == 2, "both executions wrote one"
    project.audit()


def test_orders_that_never_arrive_are_sent_again(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = cloud.project(flow())
    project.deploy()
    cloud.modal.faults.lose("work_parse", n=1)
    project.upload("up/a.jsonl", lines({"kind": "a", "v": 1}))
    project.fire()
    project.fire()
    assert sums(project) == {}, "its deadline has not passed"
    pass_an_hour_later(project, monkeypatch)
    cloud.modal.wait_idle()
    project.fire()
    assert sums(project) == {"a": (1, 1)}
    assert project.sql("SELECT * FROM quarantine") == []


def test_a_submission_cut_off_half_way_loses_nothing(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = cloud.project(flow("api"))
    project.deploy()
    cloud.modal.faults.cut_submission("work_parse", after=1)
    for i in range(300):
        project.upload(f"up/{i:03}.jsonl", lines({"kind": "a", "v": 1}))
    project.fire()
    [tick] = project.inputs("tick")
    assert tick.status == "failed"
    cloud.modal.faults.cuts.clear()
    assert project.sql("SELECT count(*) AS n FROM logs")[0]["n"] == 250, (
        "one task of several was submitted"
    )
    project.fire()
    pass_an_hour_later(project, monkeypatch)
    cloud.modal.wait_idle()
    project.fire()
    assert sums(project) == {"a": (300, 300)}
    project.audit()


def test_ticks_that_overlap_and_a_full_queue(cloud: Cloud) -> None:
    project = cloud.project(flow())
    project.deploy()
    cloud.modal.faults.exhaust(2)
    for i in range(20):
        project.upload(f"up/{i}.jsonl", lines({"kind": "a", "v": 1}))
    for _ in range(3):
        cloud.modal.fire(project.app, "tick")
    cloud.modal.wait_idle()
    project.fire()
    assert sums(project) == {"a": (20, 20)}
    project.audit()


def test_a_redeploy_in_the_middle_of_a_run(cloud: Cloud, tmp_path: Path) -> None:
    project = cloud.project(flow(timeout_s=60))
    project.deploy()
    hold = tmp_path / "hold"
    project.upload("up/old.jsonl", lines({"kind": "old", "v": 1, "hold": str(hold)}))
    cloud.modal.fire(project.app, "tick")
    project.until(lambda: Path(f"{hold}.began").exists())
    project.write(flow(timeout_s=60, version="2"))
    project.deploy()
    project.upload("up/new.jsonl", lines({"kind": "new", "v": 1}))
    cloud.modal.fire(project.app, "tick")
    project.until(lambda: any(one.status == "done" for one in project.inputs("work_parse")))
    Path(f"{hold}.go").touch()  # a worker of the old version finishes late
    cloud.modal.wait_idle()
    project.fire()
    versions = {
        row["key"]: row["version"] for row in project.sql("SELECT key, version FROM sources")
    }
    assert versions == {"up/old.jsonl": "1", "up/new.jsonl": "2"}
    assert sums(project) == {"old": (1, 1), "new": (1, 1)}
    project.audit()


def test_an_object_overwritten_after_it_was_planned_is_never_believed(cloud: Cloud) -> None:
    """Through a mount no read can ask for a version, so the workers' word is checked before it is
    committed.
    """
    project = cloud.project(flow())
    project.deploy()
    project.upload("up/a.jsonl", lines({"kind": "a", "v": 1}))
    cloud.modal.pause("work_parse")
    cloud.modal.fire(project.app, "tick")
    project.until(lambda: project.inputs("work_parse"))
    project.upload("up/a.jsonl", lines({"kind": "a", "v": 2}))  # of the same size
    cloud.modal.resume("work_parse")
    cloud.modal.wait_idle()
    assert sums(project) == {}
    project.fire()
    assert sums(project) == {"a": (1, 2)}
    project.audit()


def test_many_small_files_are_few_inputs(cloud: Cloud) -> None:
    """Counted, not run: the workers are held. `python -m bench.modal` runs 20,000
    to their end.
    """
    project = cloud.project(flow("api"))
    project.deploy()
    cloud.modal.pause("work_parse")
    body = lines({"kind": "a", "v": 1})
    for i in range(1_000):
        project.upload(f"up/{i:05}.jsonl", body)
    project.fire()
    assert 1 <= len(project.inputs("work_parse")) <= 4
    assert len(project.keys("_tidemill/logs/assignments/")) >= 1, (
        "long orders travel through the bucket"
    )
    project.fire()
    assert len(project.inputs("work_parse")) <= 4, "nobody plans them again"
    cloud.modal.resume("work_parse")


def test_hints_are_looked_up_and_processed_without_a_listing(cloud: Cloud) -> None:
    import urllib.request

    project = cloud.project(
        flow().replace('schedule="*/5 * * * *"', 'schedule="*/5 * * * *", sweep="0 3 * * *"')
    )
    project.deploy()
    project.upload("up/hinted one.jsonl", lines({"kind": "a", "v": 1}))
    project.upload("up/silent.jsonl", lines({"kind": "b", "v": 1}))
    project.fire()
    assert project.inputs("work_parse") == [], "with a sweep, ticks do not list"
    bucket, _, prefix = project.bucket.removeprefix("s3://").partition("/")
    event = {
        "Records": [
            {"s3": {"bucket": {"name": bucket}, "object": {"key": f"{prefix}/up/hinted+one.jsonl"}}}
        ]
    }
    url = cloud.modal.url(project.app, "hint")
    request = urllib.request.Request(url, data=json.dumps(event).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert (answer.status, json.load(answer)) == (202, {"accepted": 1})
    cloud.modal.wait_idle()
    assert sums(project) == {"a": (1, 1)}
    project.fire("sweep")
    assert sums(project) == {"a": (1, 1), "b": (1, 1)}
    assert cloud.modal.functions(project.app)["hint"].webhook_config.requires_proxy_auth


def test_a_cost_limit_holds_files_back_and_a_later_run_goes_on(cloud: Cloud) -> None:
    limited = flow("api").replace(
        'schedule="*/5 * * * *"', 'schedule="*/5 * * * *", max_cost_usd=0.0000145'
    )
    project = cloud.project(limited)
    project.deploy()
    for i in range(6):
        project.upload(f"up/{i}.jsonl", lines({"kind": "a", "v": i}))
    report = project.run("--engine", "modal")
    assert (report["planned"], report["over_budget"]) == (
        4,
        2,
    ), "at an assumed fifth of a second each"
    cloud.modal.wait_idle()
    said = project.call("run", "--engine", "modal").stdout
    assert "2 files handed over" in said
    cloud.modal.wait_idle()
    project.fire()
    assert sums(project) == {"a": (6, 15)}


BATCHES = """
from pipeline import Pipeline, Object

texts = Pipeline("texts", source="up/", schedule="*/5 * * * *", access="api")

@texts.transform(batch_size=4, batch_wait_ms=2000, max_containers=4)
class Count:
    def load(self):
        self.calls = 0
    def __call__(self, objs: list[Object]):
        self.calls += 1
        return [{"name": o.name, "together": len(objs), "call": self.calls} for o in objs]
"""


def test_small_tasks_share_a_batch_and_full_ones_do_not_wait(cloud: Cloud) -> None:
    project = cloud.project(BATCHES)
    project.deploy()
    cloud.modal.pause("batch_count.run")
    for i in range(3):
        project.upload(f"up/small-{i}", "x")
        project.call("submit", f"up/small-{i}", "--engine", "modal")
    cloud.modal.resume("batch_count.run")
    cloud.modal.wait_idle()
    rows = "SELECT DISTINCT together, call FROM texts WHERE name LIKE '{}%' ORDER BY ALL"
    assert project.sql(rows.format("small")) == [{"together": 3, "call": 1}], "three jobs, one call"
    assert len(project.inputs("batch_count.run")) == 3
    assert "count: batches 75% full" in project.call("status").stdout

    for i in range(8):
        project.upload(f"up/many-{i}", "x")
    project.fire()
    assert project.sql(rows.format("many")) == [
        {"together": 4, "call": 1},
        {"together": 4, "call": 2},
    ]
    assert len(project.inputs("work_count.run")) == 1
    project.audit()


def test_code_runs_only_what_was_planned_for_it(cloud: Cloud) -> None:
    """Orders that wait while new code is deployed are planned again: rows say which code made them,
    and say the truth.
    """
    project = cloud.project(flow("api"))
    project.deploy()
    project.upload("up/a.jsonl", lines({"kind": "a", "v": 1}))
    cloud.modal.pause("work_parse")
    project.fire()
    project.write(flow("api", version="2"))
    project.deploy()
    cloud.modal.resume("work_parse")
    cloud.modal.wait_idle()
    assert sums(project) == {}
    project.fire()
    project.fire()
    assert project.sql("SELECT version FROM sources") == [{"version": "2"}]
    assert sums(project) == {"a": (1, 1)}

    project.write(flow("api", version="3"))
    refused = project.call("backfill", "--engine", "modal", "--wait", code=2)
    assert "planned for version 3 of parse, the deployed code is 2: deploy again" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 2, refused.stderr
    assert sums(project) == {"a": (1, 1)}, "the old rows stay"
    project.audit()
