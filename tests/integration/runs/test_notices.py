"""Upload notices: from a real bucket's notifications through a real queue over HTTP to committed
rows, whatever the notices do.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.support.helpers import LOGS, Project, lines
from tests.support.servers import KEYS, moto_url

WITHIN_S = 60.0


class Cloud:
    """A bucket whose notifications go to a queue, and a project on it."""

    def __init__(self, folder: Path, *, dead_letters: bool = False) -> None:
        url, name = moto_url(), f"notices-{secrets.token_hex(4)}"
        self.s3 = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        self.sqs = boto3.client("sqs", endpoint_url=url, region_name="us-east-1")
        self.name = name
        self.s3.create_bucket(Bucket=name)
        attributes = {}
        if dead_letters:
            arn = self.arn(self.sqs.create_queue(QueueName=name + "-dead")["QueueUrl"])
            attributes["RedrivePolicy"] = json.dumps(
                {"deadLetterTargetArn": arn, "maxReceiveCount": 3}
            )
        self.queue = self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        self.project = Project(
            folder, LOGS, bucket=f"s3://{name}/deep", **KEYS, AWS_ENDPOINT_URL=url
        )

    def arn(self, url: str) -> str:
        return str(
            self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"][
                "QueueArn"
            ]
        )

    def notify(self) -> None:
        """From now on the bucket tells the queue what happens in it."""
        reported = [
            {
                "QueueArn": self.arn(self.queue),
                "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],
            }
        ]
        self.s3.put_bucket_notification_configuration(
            Bucket=self.name, NotificationConfiguration={"QueueConfigurations": reported}
        )

    def upload(self, key: str, *rows: dict[str, Any]) -> None:
        self.s3.put_object(Bucket=self.name, Key=f"deep/up/{key}", Body=lines(*rows).encode())

    def tell(self, *keys: str) -> None:
        self.sqs.send_message(QueueUrl=self.queue, MessageBody=json.dumps({"keys": list(keys)}))

    def messages(self) -> int:
        """All that are in the queue, shown or hidden."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)[
            "Attributes"
        ]
        return sum(int(found[name]) for name in names)


class Watcher:
    """`tidemill run --watch --queue`: what it says, line by line."""

    def __init__(self, cloud: Cloud, *options: str) -> None:
        project = cloud.project
        command = project.command(
            "run", str(project.file), "--watch", "--queue", cloud.queue, *options
        )
        self.process = subprocess.Popen(
            command, env=project.env(), cwd=project.folder,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.said: queue.Queue[str] = queue.Queue()
        for stream in (self.process.stdout, self.process.stderr):
            threading.Thread(
                target=lambda s=stream: [self.said.put(line) for line in s], daemon=True
            ).start()

    def line(self, words: str) -> str:
        """The next line that has these words."""
        until = time.monotonic() + WITHIN_S
        while True:
            line = self.said.get(timeout=max(0.0, until - time.monotonic()))
            if words in line:
                return line

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(WITHIN_S)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watcher]]:
    started: list[Watcher] = []

    def start(cloud: Cloud, *options: str) -> Watcher:
        started.append(Watcher(cloud, *options))
        return started[-1]

    yield start
    for watcher in started:
        if watcher.process.poll() is None:
            watcher.kill()


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def sums(cloud: Cloud) -> dict[str, int]:
    return {
        row["kind"]: row["total"] for row in cloud.project.sql("SELECT kind, total FROM by_kind")
    }


def test_what_the_bucket_tells_is_committed_without_a_listing(
    tmp_path: Path, watch: Callable[..., Watcher]
) -> None:
    """Keys come encoded; a listing would find the first file, too, and never has to."""
    cloud = Cloud(tmp_path)
    cloud.upload("first", {"kind": "a", "v": 1})
    watcher = watch(cloud)
    watcher.line("1 file committed")
    cloud.upload("untold", {"kind": "untold", "v": 1})
    cloud.notify()
    cloud.upload("a b+é%2F.jsonl", {"kind": "a", "v": 2})
    watcher.line("1 file committed")
    cloud.upload("second", {"kind": "b", "v": 3})
    watcher.line("1 file committed")
    cloud.s3.delete_object(Bucket=cloud.name, Key="deep/up/first")
    watcher.line("deleted in the bucket")
    eventually(lambda: cloud.messages() == 0)
    assert watcher.stop() == 0
    assert sums(cloud) == {"a": 2, "b": 3}
    assert cloud.project.run()["committed"] == 1, "the untold file, by a listing"
    assert sums(cloud) == {"a": 2, "b": 3, "untold": 1}
    cloud.project.audit()


def test_a_lost_notice_is_made_good_by_the_next_sweep(
    tmp_path: Path, watch: Callable[..., Watcher]
) -> None:
    cloud = Cloud(tmp_path)
    cloud.upload("first", {"kind": "a", "v": 1})
    watcher = watch(cloud, "--sweep", "1")
    watcher.line("1 file committed")
    cloud.upload("untold", {"kind": "untold", "v": 5})
    watcher.line("1 file committed")
    assert watcher.stop() == 0
    assert sums(cloud) == {"a": 1, "untold": 5}


def test_notices_may_come_twice_late_and_for_nothing(
    tmp_path: Path, watch: Callable[..., Watcher]
) -> None:
    cloud = Cloud(tmp_path)
    for i in range(30):
        cloud.upload(f"{i:02}", {"kind": "a", "v": i})
    cloud.project.run()
    cloud.upload("07", {"kind": "a", "v": 1007})
    for i in (7, 29, 7, 3, 7):
        cloud.tell(f"deep/up/{i:02}", "deep/up/never was", "elsewhere/up/x", "deep/other/x")
    watcher = watch(cloud)
    watcher.line("1 file committed")
    cloud.tell("deep/up/07")
    cloud.upload("30", {"kind": "a", "v": 30})
    cloud.tell("deep/up/30")
    watcher.line("1 file committed")
    eventually(lambda: cloud.messages() == 0)
    assert watcher.stop() == 0
    assert sums(cloud) == {"a": 1000 + sum(range(31))}
    assert cloud.project.audit()["sources"] == {"committed": 31}


@pytest.mark.parametrize("dead_letters", [False, True])
def test_what_is_no_notice_is_named_and_set_aside(
    tmp_path: Path, watch: Callable[..., Watcher], dead_letters: bool
) -> None:
    """Where the queue has a place for dead letters they go there, by themselves; else nobody else
    would remove them.
    """
    cloud = Cloud(tmp_path, dead_letters=dead_letters)
    cloud.upload("first", {"kind": "a", "v": 1})
    odd = cloud.sqs.send_message(QueueUrl=cloud.queue, MessageBody="no notice")["MessageId"]
    cloud.tell("deep/up/first")
    watcher = watch(cloud)
    line = watcher.line("no notice of uploads")
    assert odd in line
    assert ("dead-letter" in line) == dead_letters
    eventually(lambda: cloud.messages() == dead_letters)
    assert watcher.stop() == 0
    assert sums(cloud) == {"a": 1}


def test_a_message_is_deleted_only_after_the_commit(
    tmp_path: Path, watch: Callable[..., Watcher]
) -> None:
    cloud = Cloud(tmp_path)
    begun, go = tmp_path / "begun", tmp_path / "go"
    waits = f"""
    if "slow" in obj.key:
        open({str(begun)!r}, "w").close()
        import pathlib, time
        while not pathlib.Path({str(go)!r}).exists():
            time.sleep(0.01)
    """
    cloud.project.write(LOGS.replace("    return [", waits + "return ["))
    cloud.upload("first", {"kind": "a", "v": 1})
    watcher = watch(cloud)
    watcher.line("1 file committed")
    cloud.upload("slow", {"kind": "a", "v": 2})
    cloud.tell("deep/up/slow")
    eventually(begun.exists)
    assert cloud.messages() == 1
    watcher.kill()
    assert cloud.messages() == 1
    go.touch()
    cloud.project.run()
    assert sums(cloud) == {"a": 3}


def test_a_queue_that_is_none(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    absent = cloud.queue + "-absent"
    for options, words in [
        (("--watch", "--queue", absent), f"{absent}: there is no such queue"),
        (("--watch", "--queue", "my-queue"), "'my-queue' is no queue: give its URL"),
        (("--queue", cloud.queue), "--queue needs --watch"),
        (("--sweep", "60"), "--sweep needs --watch"),
        (
            ("--watch", "--queue", cloud.queue, "--bucket", str(tmp_path)),
            "--queue is for notices of an S3 bucket",
        ),
    ]:
        done = cloud.project.call("run", *options, code=2)
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_hint_by_hand_looks_at_these_keys_alone(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for name in "abc":
        project.upload(name, lines({"kind": name, "v": 1}))
    done = project.call("hint", "up/a", "up/never was", "up/a")
    assert "logs: 1 file committed, 1 row" in done.stdout
    assert "nothing new in 1 object" in project.call("hint", "up/a").stdout
    (project.root / "up" / "a").unlink()
    assert "1 file deleted" in project.call("hint", "up/a").stdout
    refused = project.call("hint", "down/a", code=2)
    assert refused.stderr == "tidemill: down/a is below no pipeline's source ('up/')\n"
    assert project.run()["committed"] == 2
