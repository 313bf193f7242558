"""Whole runs of the command line over a faulty network, through an outage, and on services that
cheat.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from tests.faults.proxy import ALL, Answer, Fault, Proxy, Request, Rule, error, faulty, weather
from tests.support.helpers import LOGS, Project, lines
from tests.support.servers import KEYS, moto_url

FILES = 12
RUNS_MAX = 12


class Bucket:
    """A project on a bucket of its own, reached through a proxy; looked at without it."""

    def __init__(self, folder: Path, proxy: Proxy) -> None:
        self.client = boto3.client("s3", endpoint_url=moto_url(), region_name="us-east-1")
        self.name = f"net-{secrets.token_hex(4)}"
        self.client.create_bucket(Bucket=self.name)
        self.project = Project(
            folder,
            LOGS,
            bucket=f"s3://{self.name}/deep",
            **KEYS,
            AWS_ENDPOINT_URL=proxy.url,
            NO_COLOR="1",
        )
        self.direct = Project(
            folder, LOGS, bucket=f"s3://{self.name}/deep", **KEYS, AWS_ENDPOINT_URL=moto_url()
        )

    def upload(self, first: int, count: int) -> None:
        for i in range(first, first + count):
            self.client.put_object(
                Bucket=self.name,
                Key=f"deep/up/{i}",
                Body=lines({"kind": "ab"[i % 2], "v": i}).encode(),
            )

    def keys(self) -> list[str]:
        return [
            item["Key"]
            for item in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        ]

    def run_until_done(self) -> list[int]:
        """Exit codes of runs up to the first that has nothing to complain about; each other one
        says why in one line.
        """
        codes: list[int] = []
        while not codes or codes[-1]:
            assert len(codes) < RUNS_MAX
            done = self.project.call("run", code=None)
            codes.append(done.returncode)
            assert done.returncode in (0, 1), done.stderr
            assert "bug of Tidemill" not in done.stderr and "Traceback" not in done.stderr, (
                done.stderr
            )
            assert "quarantined" not in done.stdout, (
                done.stdout + self.direct.call("quarantine list", code=None).stdout
            )
            if done.returncode and "put off" not in done.stdout:
                complaint(done.stderr)
        return codes

    def assert_whole(self, files: int) -> None:
        """Every file is committed once, nothing is quarantined, and the sums are those of the
        files.
        """
        assert self.direct.audit()["sources"] == {"committed": files}
        statement = (
            "SELECT count(*) AS n, sum(v) AS v, (SELECT sum(total) FROM by_kind) AS t FROM logs"
        )
        [row] = self.direct.sql(statement)
        assert row == {"n": files, "v": sum(range(files)), "t": sum(range(files))}


def test_a_run_through_every_fault_commits_each_file_once_and_quarantines_none(
    tmp_path: Path,
) -> None:
    with faulty(moto_url(), weather(0.015)) as proxy:
        bucket = Bucket(tmp_path, proxy)
        bucket.upload(0, FILES)
        bucket.run_until_done()
        bucket.upload(FILES, FILES)
        bucket.run_until_done()
    assert sum(proxy.counts[fault] for fault in ALL) > 5
    bucket.assert_whole(2 * FILES)


def complaint(stderr: str) -> str:
    """The one line that says why a run ended; above it there may be its progress."""
    [found] = [line for line in stderr.splitlines() if not re.match(r"logs: [\d,]+ of ", line)]
    assert found.startswith("tidemill: "), stderr
    return found


SOURCES = "/deep/up/[0-9]"


@pytest.mark.parametrize(
    ("fault", "path"), [(Fault.SHORT, "/deep/up/1"), (Fault.SLOW_DOWN, SOURCES)]
)
def test_sources_that_cannot_be_read_for_a_while_wait(
    tmp_path: Path, fault: Fault, path: str
) -> None:
    """Every read of one source, or of all, fails, while everything else works."""
    with faulty(moto_url(), (Rule(fault, 1.0, "GET", path),)) as proxy:
        bucket = Bucket(tmp_path, proxy)
        bucket.upload(0, 3)
        done = bucket.project.call("run", code=1)
        assert "put off" in done.stdout and "quarantined" not in done.stdout, done.stdout
        assert proxy.counts[fault] >= 3
        proxy.rules = ()
        assert bucket.run_until_done() == [0]
    bucket.assert_whole(3)


class GoesDown(Proxy):
    """Out of service from the moment that a source is read until it is told otherwise."""

    armed = True

    def serve(self, request: Request) -> Answer:
        if self.armed and request.method == "GET" and re.search(SOURCES, request.target):
            self.armed, self.down = False, True
        return error(503, "SlowDown") if self.down else self.forward(request)


def test_an_outage_in_the_middle_of_a_run_loses_nothing(tmp_path: Path) -> None:
    with faulty(moto_url(), kind=GoesDown) as proxy:
        bucket = Bucket(tmp_path, proxy)
        bucket.upload(0, FILES)
        done = bucket.project.call("run", code=1)
        assert "SlowDown" in complaint(done.stderr)
        assert proxy.counts["outage"] > 5
        assert bucket.direct.call("quarantine list", code=None).stdout.count("deep/") == 0
        proxy.down = False
        assert bucket.run_until_done()[-1] == 0
    bucket.assert_whole(FILES)


# -- services that cheat ---------------------------------------------------------------------------


class IgnoresConditions(Proxy):
    """As the S3 interface of Google Cloud Storage is said to."""

    def serve(self, request: Request) -> Answer:
        return self.forward(request.without("if-none-match", "if-match"))


class IgnoresIfMatch(Proxy):
    def serve(self, request: Request) -> Answer:
        return self.forward(request.without("if-match") if request.method == "PUT" else request)


class ReadsAnyVersion(Proxy):
    def serve(self, request: Request) -> Answer:
        return self.forward(request.without("if-match") if request.method == "GET" else request)


class ChecksThenWrites(Proxy):
    """Honours If-None-Match, but not of two requests at once: each looks, and both write."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._both = threading.Barrier(2)

    def serve(self, request: Request) -> Answer:
        if request.header("if-none-match") is None:
            return self.forward(request)
        if self.forward(Request("HEAD", request.path, (), b"")).status == 200:
            return error(412, "PreconditionFailed")
        self._both.wait()
        return self.forward(request.without("if-none-match"))


class ServesOldReads(Proxy):
    """A cache that nobody tells about writes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._cached: dict[str, Answer] = {}

    def serve(self, request: Request) -> Answer:
        answer = self.forward(request)
        if request.method == "GET" and "probe-" in request.path and answer.status in (200, 206):
            return self._cached.setdefault(request.path, answer)
        return answer


class LeavesOutNewKeys(Proxy):
    """Lists keys some time after they were written."""

    def serve(self, request: Request) -> Answer:
        answer = self.forward(request)
        if "list-type" not in request.target:
            return answer
        return replace(
            answer,
            body=re.sub(
                rb"<Contents>(?:(?!</Contents>).)*probe-.*?</Contents>",
                b"",
                answer.body,
                flags=re.DOTALL,
            ),
        )


CHEATS = [
    (IgnoresConditions, "told 8 of 8 writers at once that each had created the same object"),
    (ChecksThenWrites, "of 8 writers at once that each had created the same object"),
    (IgnoresIfMatch, "overwrote an object at another version"),
    (ReadsAnyVersion, "answered a read at another version"),
    (ServesOldReads, "showed older content of an object that had just been overwritten"),
    (LeavesOutNewKeys, "left 4 of 4 objects that had just been written out of a listing"),
]


@pytest.mark.parametrize(("kind", "words"), CHEATS)
def test_a_service_that_cheats_is_refused_before_anything_is_committed(
    tmp_path: Path, kind: Callable[..., Proxy], words: str
) -> None:
    with faulty(moto_url(), kind=kind) as proxy:
        bucket = Bucket(tmp_path, proxy)
        bucket.upload(0, 1)
        done = bucket.project.call("run", code=2)
        assert done.stdout == ""
        assert (
            words in complaint(done.stderr)
            and "use a service that honours If-None-Match" in done.stderr
        ), done.stderr
        assert bucket.keys() == ["deep/up/0"], (
            "nothing is committed, the probe's objects are removed"
        )


@pytest.mark.parametrize(("kind", "words"), CHEATS[::5])
def test_the_doctor_names_a_service_that_cheats(
    tmp_path: Path, kind: Callable[..., Proxy], words: str
) -> None:
    with faulty(moto_url(), kind=kind) as proxy:
        bucket = Bucket(tmp_path, proxy)
        bucket.upload(0, 1)
        away = {
            "MODAL_CONFIG_PATH": str(tmp_path / "none"),
            "MODAL_TOKEN_ID": "ak-x",
            "MODAL_TOKEN_SECRET": "as-x",
        }
        bucket.project.environment |= {**away, "MODAL_SERVER_URL": "http://127.0.0.1:9"}
        checks = json.loads(bucket.project.call("doctor", "--json", code=2).stdout)
        [failed] = [check for check in checks if check["status"] == "FAIL"]
        assert words in failed["found"] and "use a service that honours" in failed["fix"]
        assert bucket.keys() == ["deep/up/0"]


class ListsBackwards(Proxy):
    """Another order is no cheating: then listings are sorted here."""

    def serve(self, request: Request) -> Answer:
        answer = self.forward(request)
        found = re.findall(rb"<Contents>.*?</Contents>", answer.body, flags=re.DOTALL)
        if "list-type" not in request.target or len(found) < 2:
            return answer
        head, tail = (
            answer.body[: answer.body.index(found[0])],
            answer.body[answer.body.rindex(found[-1]) + len(found[-1]) :],
        )
        return replace(answer, body=head + b"".join(found[::-1]) + tail)


def test_a_service_that_lists_in_another_order_is_used_and_the_doctor_warns(tmp_path: Path) -> None:
    with faulty(moto_url(), kind=ListsBackwards) as proxy:
        bucket = Bucket(tmp_path, proxy)
        bucket.upload(0, 3)
        assert bucket.run_until_done() == [0]
        checks = json.loads(bucket.project.call("doctor", "--json", code=None).stdout)
        [order] = [check for check in checks if check["check"].startswith("order ")]
        assert order["status"] == "warn" and "sorted in memory" in order["found"]
        marker = bucket.client.get_object(
            Bucket=bucket.name, Key="deep/_tidemill/logs/format.json"
        )["Body"].read()
        assert json.loads(marker)["probed"] == {"ordered": False}
    bucket.assert_whole(3)
