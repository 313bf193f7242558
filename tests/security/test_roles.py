"""Each role's policy allows every request that the role's code makes, and nothing that no request
uses.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import msgspec
import pytest

from infra.iam_policy import bucket_policy
from infra.iam_roles import ROLES, Role
from pipeline import Pipeline
from pipeline.declare.load_file import load_pipelines
from pipeline.deploy.container import order_runner_for
from pipeline.deploy.control import Control, again_while_outdated, bucket_of, deployed_runtime
from pipeline.deploy.deployment import Deployment
from pipeline.executors.none import NoExecutor
from pipeline.model import keys
from pipeline.model.policy import deployed_policy
from pipeline.model.receipt import Receipt
from pipeline.model.task import Assignment
from pipeline.state import codec
from pipeline.work.orders import Order, encode, order_for
from tests.security.recorder import (
    Need,
    Recorder,
    Request,
    covers,
    grants,
    recording,
    refused,
    unused,
)
from tests.support.helpers import Project, lines
from tests.support.servers import KEYS, moto_url

FLOW = """
import json, os
from pipeline import Pipeline, Object

logs = Pipeline("logs", source="up/", retention_days=0, access="api", schedule="*/5 * * * *")

@logs.transform
def parse(obj: Object):
    if obj.name == "wide.jsonl":  # more than one part of a multipart upload
        return [{"kind": "w", "v": 1, "text": os.urandom(100_000)} for _ in range(180)]
    obj.reject("a row", "a reason")
    return [json.loads(line) for line in obj.lines()]

logs.aggregate("by_kind", by=["kind"],
    sql="SELECT kind, count(*) AS n, sum(v) AS total FROM logs GROUP BY kind")
"""

UNUSED = {
    "s3:DeleteObject deep/_tidemill/logs/jobs/*": "only records of jobs that are 90 days old",
    "s3:AbortMultipartUpload": "only after a failure in the middle of a large upload",
    "s3:GetObjectVersion": (
        "only `quarantine replay` of a file that was overwritten since, in a bucket that keeps"
        " versions"
    ),
    "s3:ListBucketVersions": "the same",
}
"""What a policy may allow although nothing here needs it, and why."""


class Keeps(NoExecutor):
    """Takes what is to be dispatched and runs none of it."""

    parallelism = 4
    detached = True

    def __init__(self) -> None:
        self.taken: list[Assignment] = []

    async def dispatch(self, assignments: Sequence[Assignment]) -> None:
        self.taken += assignments


class Field:
    """A bucket behind a recorder, and what each role's code asked of it."""

    def __init__(self, folder: Path, recorder: Recorder) -> None:
        self.recorder = recorder
        self.name = f"roles-{secrets.token_hex(4)}"
        self.s3 = boto3.client("s3", endpoint_url=moto_url(), region_name="us-east-1")
        self.s3.create_bucket(Bucket=self.name)
        self.url = f"s3://{self.name}/deep"
        self.project = Project(folder, FLOW, bucket=self.url, **KEYS, AWS_ENDPOINT_URL=recorder.url)
        self.deployment = Deployment(
            file=str(self.project.file),
            bucket=self.url,
            endpoint_url=recorder.url,
            app="x",
            secret="x",
        )
        self.pipelines = load_pipelines(str(self.project.file))
        self.requests: dict[Role, list[Request]] = {role: [] for role in ROLES}

    def upload(self, name: str, *rows: dict[str, Any]) -> None:
        self.s3.put_object(
            Bucket=self.name,
            Key=f"deep/up/{name}",
            Body=lines(*rows or ({"kind": "x", "v": 1},)).encode(),
        )

    def delete(self, name: str) -> None:
        self.s3.delete_object(Bucket=self.name, Key=f"deep/up/{name}")

    def lose(self, *names: str) -> None:
        """What a killed writer did not write."""
        for name in names:
            self.s3.delete_object(Bucket=self.name, Key=f"deep/{name}")

    def outputs_of(self, assignments: Sequence[Assignment]) -> list[str]:
        listed = self.s3.list_objects_v2(Bucket=self.name, Prefix="deep/tables/")["Contents"]
        tasks = {a.task.id for a in assignments}
        return [
            found["Key"].removeprefix("deep/")
            for found in listed
            if keys.task_of(found["Key"]) in tasks
        ]

    def note(self, role: Role) -> None:
        self.requests[role] += self.recorder.taken()

    def policy(self, role: Role) -> dict[str, Any]:
        return bucket_policy(self.pipelines, self.url, role)

    def needs(self, role: Role) -> list[Need]:
        return [need for request in self.requests[role] for need in request.needs()]

    # -- what the roles do -------------------------------------------------------------------------

    def plan(self) -> list[Assignment]:
        """A tick, whose orders are kept.

        One of them is stored, as those are that are too long for a call.
        """
        executor, store = Keeps(), bucket_of(self.deployment).open()

        async def tick() -> None:
            runtime = deployed_runtime(self.pipelines[0], store, executor)
            await runtime.open()
            await runtime.run()
            for assignment in executor.taken[:1]:
                key = keys.assignment(keys.home("logs"), assignment.task.id, assignment.nonce)
                await store.put(key, msgspec.json.encode(assignment))
            await store.close()

        asyncio.run(tick())
        self.note("operator")
        return executor.taken

    def work(self, assignments: Sequence[Assignment]) -> None:
        """A container on Modal by the API: a stored order, the others as they are, and one again
        after its loss was noted.
        """
        order_runner = order_runner_for(self.deployment, self.pipelines[0], "parse")
        first, *rest = assignments
        stored = keys.assignment(keys.home("logs"), first.task.id, first.nonce)
        order_runner.run([encode(Order(pipeline="logs", task=first.task.id, stored=stored))])
        order_runner.run(
            [encode(Order(pipeline="logs", task=first.task.id, stored=f"{stored}-gone"))]
        )
        for assignment in rest:
            order_runner.run([encode(order_for(assignment, keys.home("logs"))[0])])
        late = msgspec.structs.replace(
            first, task=msgspec.structs.replace(first.task, losses=6, version="other")
        )
        for _ in range(2):
            order_runner.run([encode(order_for(late, keys.home("logs"))[0])])
        order_runner.attempts.close()
        self.note("worker")

    def behind_a_mount(self) -> None:
        """Say in each receipt that it was left by a worker behind a mount: then the settler asks
        the store about all of it.
        """
        prefix = "deep/" + keys.receipt_prefix(keys.home("logs"))
        for found in self.s3.list_objects_v2(Bucket=self.name, Prefix=prefix)["Contents"]:
            if keys.is_receipt(found["Key"]):
                body = self.s3.get_object(Bucket=self.name, Key=found["Key"])["Body"].read()
                receipt = codec.decode(Receipt, body, found["Key"])
                doubtful = msgspec.structs.replace(
                    receipt, mounted=True, unverified=list(range(len(receipt.rows)))
                )
                self.s3.put_object(Bucket=self.name, Key=found["Key"], Body=codec.encode(doubtful))

    def settle(self, tasks: Sequence[str]) -> None:
        """`commit` and `aggregate`, with checkpoints as often as can be."""
        store = bucket_of(self.deployment).open()
        policy = dataclasses.replace(deployed_policy(), checkpoint_every=1)

        async def commit() -> None:
            runtime = deployed_runtime(self.pipelines[0], store, Keeps(), policy)
            await runtime.open()
            passing = await again_while_outdated(runtime, lambda p: p.settle(list(tasks)))
            await passing.checkpoint()
            await store.close()

        asyncio.run(commit())
        Control(self.deployment, self.pipelines[0], alone=True).aggregate()
        self.note("committer")

    def query(self) -> None:
        """What people who only look do."""
        one = "SELECT max(v) v FROM logs, by_kind, logs__rejected, sources, commits"
        self.project.sql(one.replace("max(v)", "max(logs.v)"))
        self.note("reader")

    def operate(self) -> None:
        """A local run, and all that a person may do to the pipeline."""
        self.upload("new.jsonl", {"kind": "y", "v": 3})
        self.delete("b.jsonl")
        self.project.call("doctor", code=None)
        self.project.call("plan")
        self.project.run()
        self.project.call("status")
        self.project.audit()
        self.project.call("backfill", "--prefix", "a")
        self.project.call("submit", "up/new.jsonl")
        self.project.call("vacuum")
        self.note("operator")


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Field]:
    """All of it: planned, worked on, settled, asked, operated."""
    with recording(moto_url()) as recorder, pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        made = Field(tmp_path, recorder)
        for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
            made.upload(name)
        first = made.plan()
        made.upload("d.jsonl")
        made.upload("wide.jsonl")
        second = made.plan()
        made.delete("c.jsonl")
        made.work([*first, *second])
        made.behind_a_mount()
        made.settle([a.task.id for a in (*first, *second)])
        made.upload("e.jsonl")
        third = made.plan()
        made.upload("f.jsonl")
        fourth = made.plan()
        made.work([*third, *fourth])
        made.lose(keys.hint(keys.home("logs")), *made.outputs_of(fourth))
        made.behind_a_mount()
        made.settle([a.task.id for a in (*third, *fourth)])
        made.lose(keys.hint(keys.home("logs")))
        made.query()
        made.operate()
        yield made


def in_generation(need: Need) -> Need:
    """The same request about another generation of the table: the same code makes it, with other
    prefixes.
    """
    home, places = keys.home("logs"), {"tables/logs/": "tables/logs/generations/2/"}
    places |= {
        f"{home}{what}/": f"{home}{what}/generation-2/" for what in ("receipts", "assignments")
    }
    if not need.key.startswith(f"deep/{home}jobs/"):
        places[home] = keys.of_generation(home, 2)
    for first, other in places.items():
        if first in need.key:
            return dataclasses.replace(need, key=need.key.replace(first, other, 1))
    return need


def test_each_policy_is_enough_and_least(field: Field) -> None:
    """In one test, since the record takes long to make."""
    for role in ROLES:
        policy, needs = field.policy(role), field.needs(role)
        assert needs
        assert refused(policy, field.name, needs) == [], role
        further = [in_generation(need) for need in needs]
        assert refused(policy, field.name, further) == [], f"{role}, in another generation"
        found = unused(policy, field.name, [*needs, *further])
        assert [
            need
            for need in found
            if UNUSED.keys().isdisjoint((need.action, f"{need.action} {need.key}"))
        ] == [], role
    counted = {row["kind"]: row["n"] for row in field.project.sql("SELECT kind, n FROM by_kind")}
    assert counted == {"x": 3, "y": 1, "w": 180}, "the records are of things that worked"
    assert any("uploadId" in request.target for request in field.requests["worker"])


FORBIDDEN: dict[Role, list[tuple[str, str]]] = {
    "reader": [
        ("s3:GetObject", "up/a.jsonl"),
        ("s3:ListBucket", "up/"),
        ("s3:GetObject", "_tidemill/logs/receipts/x.json"),
        ("s3:GetObject", "_tidemill/other/log/1.json"),
        ("s3:PutObject", "_tidemill/logs/log/1.json"),
        ("s3:DeleteObject", "tables/logs/rows/x.parquet"),
    ],
    "worker": [
        ("s3:PutObject", "_tidemill/logs/log/00000000000000000009.json"),
        ("s3:PutObject", "_tidemill/logs/checkpoint/1-x.json"),
        ("s3:PutObject", "_tidemill/logs/assignments/x.json"),
        ("s3:PutObject", "tables/logs/aggregates/by_kind/x.parquet"),
        ("s3:GetObject", "_tidemill/logs/log/1.json"),
        ("s3:DeleteObject", "tables/logs/rows/x.parquet"),
        ("s3:DeleteObject", "_tidemill/logs/receipts/x.json"),
    ],
    "committer": [
        ("s3:DeleteObject", "tables/logs/rows/x.parquet"),
        ("s3:DeleteObject", "_tidemill/logs/log/1.json"),
        ("s3:PutObject", "tables/logs/rows/x.parquet"),
        ("s3:PutObject", "_tidemill/logs/receipts/x.json"),
        ("s3:PutObject", "_tidemill/logs/gc/floor"),
    ],
    "operator": [
        ("s3:DeleteObject", "_tidemill/logs/format.json"),
        ("s3:DeleteObject", "_tidemill/logs/gc/floor"),
        ("s3:PutObject", "_tidemill/other/log/1.json"),
        ("s3:PutBucketPolicy", ""),
    ],
}


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_must_not(role: Role) -> None:
    """And no role may write or delete a source, or anything beside the prefix of the
    bucket's URL.
    """
    policy = bucket_policy([Pipeline("logs", source="up/")], "s3://b/deep", role)
    everybody = [
        ("s3:PutObject", "up/a.jsonl"),
        ("s3:DeleteObject", "up/a.jsonl"),
        ("s3:ListBucket", ""),
    ]
    needs = [Need(action, f"deep/{key}") for action, key in (*FORBIDDEN[role], *everybody)]
    outside = [Need("s3:GetObject", "tables/logs/rows/x.parquet"), Need("s3:ListBucket", "")]
    assert refused(policy, "b", [*needs, *outside]) == sorted({*needs, *outside})


def test_the_evaluator_itself() -> None:
    policy = bucket_policy(load_pipelines("examples.flights.flows"), "s3://b", "reader")
    assert all(
        covers(grant, Need(grant.action, grant.key.replace("*", "x")))
        for grant in grants(policy, "b")
    )
    assert not covers(Need("s3:GetObject", "a/*"), Need("s3:GetObject", "b/a/x"))
    assert Request("HEAD", "/b/a%20b", {}, b"", 404).needs() == [
        Need("s3:GetObject", "a b"),
        Need("s3:ListBucket", "a b"),
    ]
    two = b"<Delete><Object><Key>a&amp;b</Key></Object><Object><Key>c</Key></Object></Delete>"
    assert Request("POST", "/b?delete", {}, two, 200).needs() == [
        Need("s3:DeleteObject", "a&b"),
        Need("s3:DeleteObject", "c"),
    ]
