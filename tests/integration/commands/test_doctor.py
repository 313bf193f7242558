"""`tidemill doctor`: each check finds what is wrong, says it in one line, and how to fix it."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from grpclib import GRPCError, Status
from grpclib.server import Server
from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientBase

from pipeline.deploy import doctor, machine_checks
from pipeline.errors import StoreDenied, StoreUnavailable
from pipeline.runtime.bucket import Bucket
from pipeline.runtime.system import RandomIds, WallClock
from pipeline.testing.memory_store import MemoryStore
from tests.support.helpers import LOGS, Project
from tests.support.servers import KEYS, moto_url

TOKEN = {"MODAL_TOKEN_ID": "ak-very-private", "MODAL_TOKEN_SECRET": "as-most-private"}
SCHEDULED = LOGS.replace(
    'source="up/"', 'source="up/", schedule="30 6 * * *", timezone="Europe/Riga"'
)
WITH_SECRETS = SCHEDULED.replace("@logs.transform\n", '@logs.transform(secrets=["hf", "db"])\n')


class FakeModal:
    """Just enough of Modal's service to answer the doctor and `plan`.

    What it has no method for is UNIMPLEMENTED.
    """

    def __init__(self, rates: dict[str, str] | None = None) -> None:
        self.rates = rates

    def __mapping__(self) -> Any:
        return ModalClientBase.__mapping__(self)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        async def answer(stream: Any) -> None:
            request = await stream.recv_message()
            method = type(self).__dict__.get(f"answer_{name}")
            if method is None:
                raise GRPCError(Status.UNIMPLEMENTED, name)
            if (given := stream.metadata["x-modal-token-secret"]) != TOKEN["MODAL_TOKEN_SECRET"]:
                raise GRPCError(Status.UNAUTHENTICATED, f"Token validation failed: {given}")
            await stream.send_message(method(self, request))

        return answer

    def answer_WorkspaceNameLookup(self, _: Any) -> Any:
        return api_pb2.WorkspaceNameLookupResponse(username="acme")

    def answer_AuthTokenGet(self, _: Any) -> Any:
        parts = ({"alg": "none"}, {"exp": time.time() + 3600})
        coded = [
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
            for part in parts
        ]
        return api_pb2.AuthTokenGetResponse(token=f"{coded[0]}.{coded[1]}.x")

    def answer_SecretGetOrCreate(self, request: Any) -> Any:
        if request.deployment_name != "hf":
            raise GRPCError(Status.NOT_FOUND, f"no secret {request.deployment_name}")
        return api_pb2.SecretGetOrCreateResponse(
            secret_id="st-1", metadata=api_pb2.SecretMetadata(name="hf")
        )

    def answer_WorkspaceBillingRates(self, _: Any) -> Any:
        if self.rates is None:
            raise GRPCError(Status.PERMISSION_DENIED, "not for members")
        return api_pb2.WorkspaceBillingRatesResponse(rates=self.rates)


@contextmanager
def fake_modal(rates: dict[str, str] | None = None) -> Iterator[str]:
    """The URL of a server that answers as Modal does."""
    loop, server = asyncio.new_event_loop(), None
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))

        async def start() -> Server:
            made = Server([FakeModal(rates)])  # type: ignore[list-item]
            await made.start(sock=bound)
            return made

        async def stop() -> None:
            server.close()
            await server.wait_closed()

        server = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        asyncio.run_coroutine_threadsafe(stop(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)


def closed_port() -> str:
    """A URL at which nothing listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}"


def project(tmp_path: Path, source: str = SCHEDULED, **environment: str) -> Project:
    away = {
        "MODAL_CONFIG_PATH": str(tmp_path / "modal.toml"),
        "MODAL_SERVER_URL": closed_port(),
        "MODAL_PROFILE": "",
    }
    away |= {"MODAL_TOKEN_ID": "", "MODAL_TOKEN_SECRET": ""}
    return Project(tmp_path, source, **{**away, **environment})


def checks(p: Project, *arguments: str, code: int) -> dict[str, dict[str, str]]:
    found = json.loads(p.call("doctor", "--json", *arguments, code=code).stdout)
    assert all(check.keys() == {"check", "status", "found", "fix"} for check in found)
    assert all("\n" not in check["found"] + check["fix"] for check in found)
    assert all((check["status"] == "ok") == (check["fix"] == "") for check in found)
    assert len({check["check"] for check in found}) == len(found)
    return {check["check"]: check for check in found}


# -- the command -----------------------------------------------------------------------------------


def test_a_machine_without_a_token_is_told_how_to_get_one(tmp_path: Path) -> None:
    p = project(tmp_path)
    lines = p.call("doctor", code=1).stdout.splitlines()
    assert {line[:6] for line in lines} <= {"ok    ", "warn  ", "FAIL  "}
    [failed] = [line for line in lines if line.startswith("FAIL")]
    assert failed.startswith(
        "FAIL  modal token: profile default: no token; to fix it: modal token new"
    )
    assert f"ok    python: {sys.version_info.major}.{sys.version_info.minor}" in lines[0]
    assert any(
        line.startswith('ok    schedule logs: "30 6 * * *" in Europe/Riga: next 20')
        for line in lines
    )
    assert any(line.startswith("warn  from modal: file:") for line in lines)
    assert [path for path in (p.root / "_tidemill").rglob("*") if path.is_file()] == []


def test_without_a_file_only_the_machine_and_the_account_are_looked_at(tmp_path: Path) -> None:
    import subprocess

    p = project(tmp_path)
    environment = {**p.env(), "TIDEMILL_BUCKET": ""}
    done = subprocess.run(
        p.command("doctor", "--json"), env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert [check["check"] for check in json.loads(done.stdout)] == [
        "python",
        "modal client",
        "modal command",
        "modal token",
    ]


def test_a_modal_that_does_not_answer_is_a_warning_and_no_secret_is_shown(tmp_path: Path) -> None:
    p = project(tmp_path, WITH_SECRETS, **TOKEN)
    found = checks(p, code=0)
    assert (
        found["modal token"]["found"]
        == "profile default: from MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"
    )
    assert found["modal account"]["status"] == "warn"
    assert found["modal secret hf"]["status"] == found["modal secret db"]["status"] == "warn"
    assert "private" not in json.dumps(found)


def test_the_token_works_and_a_missing_secret_is_found(tmp_path: Path) -> None:
    with fake_modal() as url:
        found = checks(project(tmp_path, WITH_SECRETS, **TOKEN, MODAL_SERVER_URL=url), code=1)
    assert found["modal account"] == {
        "check": "modal account",
        "status": "ok",
        "found": "workspace acme",
        "fix": "",
    }
    assert found["modal secret hf"]["status"] == "ok"
    assert found["modal secret db"]["status"] == "FAIL"
    assert found["modal secret db"]["found"] == "does not exist, but logs.parse uses it"
    assert found["modal secret db"]["fix"] == "modal secret create db KEY=VALUE"


def test_a_token_that_is_refused(tmp_path: Path) -> None:
    with fake_modal() as url:
        wrong = {**TOKEN, "MODAL_TOKEN_SECRET": "as-wrong-private"}
        found = checks(project(tmp_path, **wrong, MODAL_SERVER_URL=url), code=1)
    assert found["modal account"]["status"] == "FAIL"
    assert found["modal account"]["found"] == "the token was refused: Token validation failed: ..."
    assert "private" not in json.dumps(found)


def test_a_configuration_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "modal.toml").write_text("[default\n")
    found = checks(project(tmp_path), code=1)
    assert "modal.toml" in found["modal token"]["found"]


def test_a_file_that_does_not_load_is_one_failed_check(tmp_path: Path) -> None:
    with fake_modal() as url:
        p = project(tmp_path, "import no_such_module_at_all", **TOKEN, MODAL_SERVER_URL=url)
        found = checks(p, code=1)
    assert "ModuleNotFoundError" in found["file"]["found"]
    assert found["write _tidemill/"]["status"] == "ok"  # the bucket is looked at all the same


@pytest.mark.parametrize(
    ("bucket", "words"),
    [
        ("ftp://x", "is no bucket Tidemill knows"),
        ("s3://A", "is no S3 bucket name"),
        ("gone", "does not exist"),
    ],
)
def test_a_bucket_that_is_none(bucket: str, words: str, tmp_path: Path) -> None:
    with fake_modal() as url:
        found = checks(project(tmp_path, **TOKEN, MODAL_SERVER_URL=url), "--bucket", bucket, code=2)
    assert [check["check"] for check in found.values() if check["status"] == "FAIL"] in (
        ["bucket"],
        ["list up/"],
    )
    assert any(words in check["found"] for check in found.values())


def test_a_bucket_on_s3_is_listed_written_and_cleaned(tmp_path: Path) -> None:
    url, name = moto_url(), f"doctor-{secrets.token_hex(4)}"
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    client.create_bucket(Bucket=name)
    with fake_modal() as modal:
        p = project(tmp_path, **TOKEN, **KEYS, AWS_ENDPOINT_URL=url, MODAL_SERVER_URL=modal)
        found = checks(p, "--bucket", f"s3://{name}/deep", code=0)
        assert found["list up/"]["found"] == f"no objects yet in s3://{name}/deep/"
        assert (
            found["write _tidemill/logs/"]["found"]
            == "conditional writes and reads are honoured, and seen at once"
        )
        assert found["clock"]["status"] == found["mount logs"]["status"] == "ok"
        assert found["from modal"]["found"] == "the endpoint 127.0.0.1 is on a private network"
        assert client.list_objects_v2(Bucket=name)["KeyCount"] == 0
        missing = checks(p, "--bucket", "s3://no-such-bucket-at-all", code=1)
        assert "there is no bucket 'no-such-bucket-at-all'" in missing["list up/"]["found"]


# -- single checks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "status"), [((3, 11, 0), "ok"), ((3, 14, 2), "ok"), ((3, 10, 9), "FAIL")]
)
def test_python(version: tuple[int, int, int], status: str) -> None:
    assert machine_checks.python_check(version).status == status


VERSIONS = [
    ("1.6.0", "ok"),
    ("1.6.99", "ok"),
    ("1.5.4", "FAIL"),
    ("1.7.0", "FAIL"),
    ("1.60.0", "FAIL"),
    ("2.0", "FAIL"),
    (None, "FAIL"),
]


@pytest.mark.parametrize(("version", "status"), VERSIONS)
def test_modals_client_has_the_pinned_minor_version(version: str | None, status: str) -> None:
    check = machine_checks.client_check(version, ">=1.6,<1.7")
    assert (check.status, check.fix) == (
        status,
        "" if status == "ok" else "pip install 'modal>=1.6,<1.7'",
    )


def test_the_pin_is_read_from_the_metadata() -> None:
    assert (
        machine_checks.modal_pin(["click>=8", "modal-x>=9", 'modal<1.8,>=1.7; extra == "modal"'])
        == "<1.8,>=1.7"
    )
    assert machine_checks.modal_pin(["click>=8"]) == machine_checks.MODAL_PIN


HEADS = [
    ("#!/venv/bin/python3\nimport modal", "/venv/bin/python3"),
    ("#!/venv/bin/python3.11 -E\n", "/venv/bin/python3.11"),
    ('#!/bin/sh\n\'\'\'exec\' "/a long/bin/python" "$0" "$@"\n', "/a long/bin/python"),
    ("#!/bin/sh\n'''exec' /long/bin/python \"$0\" \"$@\"\n", "/long/bin/python"),
    ("#!/bin/bash\nexec modal", None),
    ("\x7fELF", None),
    ("", None),
]


@pytest.mark.parametrize(("head", "interpreter"), HEADS)
def test_a_scripts_interpreter(head: str, interpreter: str | None, tmp_path: Path) -> None:
    (tmp_path / "modal").write_text(head)
    assert machine_checks.interpreter_of(tmp_path / "modal") == interpreter


def test_a_modal_command_of_another_environment() -> None:
    here = machine_checks.command_check("/v/bin/modal", "/v/bin/python3", "/v/bin/python")
    other = machine_checks.command_check("/usr/bin/modal", "/usr/bin/python3", "/v/bin/python")
    assert (here.status, other.status) == ("ok", "warn")
    assert other.found == "/usr/bin/modal runs with /usr/bin/python3, tidemill with /v/bin/python"
    assert (
        machine_checks.command_check(None, None, "/v/bin/python").fix
        == "activate this environment, or write  /v/bin/python -m modal"
    )


def test_half_a_token() -> None:
    check = doctor.token_check("work", {"token_id": "ak-1"}, {})
    assert (check.status, check.found) == ("FAIL", "profile work: token_secret is missing")
    assert check.fix.startswith("set MODAL_TOKEN_SECRET too")
    assert doctor.token_check(
        "work", {"token_id": "ak-1", "token_secret": "as-1"}, {}
    ).found.endswith("from the configuration file")


def test_the_next_times_of_a_schedule_are_in_its_time_zone() -> None:
    # on the 29th clocks in Riga go from 03:00 to 04:00
    now = datetime(2026, 3, 28, 1, 0, tzinfo=UTC)
    assert doctor.fires("30 2 * * *", "Europe/Riga", now) == (
        '"30 2 * * *" in Europe/Riga: next 2026-03-29 02:30, 2026-03-30 02:30, 2026-03-31 02:30'
    )
    assert doctor.fires(300.0, "UTC", now) == "every 300 s from the deploy on"


@pytest.mark.parametrize(
    ("endpoint", "status"),
    [
        (None, "ok"),
        ("https://x.r2.cloudflarestorage.com", "ok"),
        ("http://localhost:9000", "warn"),
        ("http://10.0.0.3", "warn"),
    ],
)
def test_where_modal_can_reach_a_bucket(endpoint: str | None, status: str) -> None:
    assert doctor.reach_check("s3://b/", endpoint, local=False).status == status


@pytest.mark.parametrize(
    ("source", "outputs", "status"),
    [
        ("up/", ["out/", "other/"], "ok"),
        ("up", ["out/"], "FAIL"),
        ("up/", ["out"], "FAIL"),
        ("up/", ["out/", "up/rows/"], "FAIL"),
        ("out/in/", ["out/"], "FAIL"),
    ],
)
def test_prefixes_that_can_be_mounted(source: str, outputs: list[str], status: str) -> None:
    assert doctor.mount_check("p", source, outputs).status == status


class Forgetful(MemoryStore):
    """A store that ignores conditions."""

    async def put(
        self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None
    ) -> None:
        await super().put(key, body)


class Failing(MemoryStore):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def put(
        self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None
    ) -> None:
        raise self.error


class Skewed(WallClock):
    def __init__(self, ahead_s: float) -> None:
        self.ahead_s = ahead_s

    def now_ms(self) -> int:
        return super().now_ms() + int(1000 * self.ahead_s)


def looked(store: MemoryStore, clock: WallClock | None = None) -> list[machine_checks.Check]:
    found = asyncio.run(
        doctor.store_checks(store, "up/", "_tidemill/p/", clock or WallClock(), RandomIds())
    )
    assert store._objects == {}
    return found


def test_a_store_that_ignores_conditions_is_unsafe() -> None:
    last = looked(Forgetful())[-1]
    assert (last.check, last.status) == ("write _tidemill/p/", "FAIL")
    assert "told 8 of 8 writers" in last.found
    assert "Google Cloud Storage" in last.fix


@pytest.mark.parametrize(
    ("error", "word"), [(StoreDenied("no"), "credentials"), (StoreUnavailable("no"), "network")]
)
def test_a_store_that_cannot_be_written(error: Exception, word: str) -> None:
    [listed, written] = looked(Failing(error))
    assert (listed.status, written.status, written.found) == ("ok", "FAIL", "no")
    assert word in written.fix


@pytest.mark.parametrize(
    ("ahead_s", "status"),
    [(0, "ok"), (50, "ok"), (-50, "ok"), (60.5, "ok"), (100, "warn"), (-100, "warn")],
)
def test_clocks_are_compared(ahead_s: float, status: str) -> None:
    clock = looked(MemoryStore(), Skewed(ahead_s))[-1]
    assert (clock.check, clock.status) == ("clock", status)
    if status == "warn":
        assert ("behind" if ahead_s > 0 else "ahead of") in clock.found


def test_a_bucket_without_pipelines_is_looked_at_from_its_root(tmp_path: Path) -> None:
    found = asyncio.run(
        doctor.bucket_checks(Bucket(url=str(tmp_path)), [], WallClock(), RandomIds())
    )
    assert [check.check for check in found] == ["list /", "write _tidemill/", "clock", "from modal"]
