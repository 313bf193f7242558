"""No secret of the environment, nor what is made of it, gets into an answer, an error, the bucket
or a temporary file.
"""

from __future__ import annotations

import base64
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import boto3
import pytest

from tests.security.recorder import recording
from tests.support.helpers import LOGS, Project, lines
from tests.support.servers import KEYS, moto_url

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "fake/Secret+Access=Key-7f3a",
    "AWS_SESSION_TOKEN": "fake/Session+Token=9b1c//",
    "MODAL_TOKEN_SECRET": "as-fakeModalSecret5d2e",
}
PASSWORD = "fakeEndpointPassw0rd"
SIGNED = ("X-Amz-Signature=", "X-Amz-Credential=", "X-Amz-Security-Token=", "AWS4-HMAC-SHA256 ")
"""Of presigned URLs and signed requests."""


def forms(secret: str) -> list[bytes]:
    """A secret as it could be written down."""
    plain = secret.encode()
    return [
        plain,
        quote(secret, safe="").encode(),
        quote(secret).encode(),
        base64.b64encode(plain).rstrip(b"=")[:-1],
    ]


def found_in(text: bytes) -> list[str]:
    named = [
        name
        for name, secret in (*SECRETS.items(), ("userinfo", PASSWORD))
        if any(form in text for form in forms(secret))
    ]
    return [*named, *(mark for mark in SIGNED if mark.encode() in text)]


class Place:
    """A pipeline on S3 whose environment holds secrets, in folders that are looked through."""

    def __init__(self, folder: Path) -> None:
        self.name = f"secrets-{secrets.token_hex(4)}"
        self.s3 = boto3.client("s3", endpoint_url=moto_url(), region_name="us-east-1")
        self.s3.create_bucket(Bucket=self.name)
        for name, row in (("a.jsonl", {"kind": "x", "v": 1}), ("b.jsonl", {"kind": "y", "v": 2})):
            self.s3.put_object(Bucket=self.name, Key=f"deep/up/{name}", Body=lines(row).encode())
        self.s3.put_object(Bucket=self.name, Key="deep/up/bad.jsonl", Body=b"not json")
        (folder / "tmp").mkdir()
        (folder / "home").mkdir()
        watched = {"TMPDIR": str(folder / "tmp"), "HOME": str(folder / "home")}
        self.project = Project(
            folder, LOGS, bucket=f"s3://{self.name}/deep", **{**KEYS, **SECRETS}, **watched
        )

    def call(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.project.call(command, *arguments, code=None)

    def everything(self) -> Iterator[tuple[str, bytes]]:
        """All objects of the bucket and all files that were left."""
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name):
            for found in page.get("Contents", ()):
                yield (
                    found["Key"],
                    self.s3.get_object(Bucket=self.name, Key=found["Key"])["Body"].read(),
                )
        for path in self.project.folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield str(path), path.read_bytes()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_what_works_shows_no_secret(place: Place) -> None:
    """All commands, debugging, through a server that saw the secrets' signatures in
    each request.
    """
    with recording(moto_url()) as recorder:
        there = ("--endpoint-url", recorder.url, "--debug")
        for command, arguments, code in (
            ("run", ("--json",), 1),
            ("status", (), 0),
            ("sql", ("SELECT * FROM logs, quarantine, commits",), 0),
            ("quarantine show", ("up/bad.jsonl",), 0),
            ("audit", ("--json",), 0),
            ("doctor", (), 1),
        ):
            done = place.call(command, *arguments, *there)
            assert done.returncode == code, f"{command}: {done.stdout} {done.stderr}"
            assert found_in((done.stdout + done.stderr).encode()) == [], command
        asked = recorder.taken()
    assert any("X-Amz-Security-Token=" in request.target for request in asked), (
        "the test itself sees what must not be shown"
    )
    assert [name for name, body in place.everything() if found_in(body)] == []


def test_what_fails_shows_no_secret(place: Place) -> None:
    """No server, no such bucket, refusals and nonsense of a server; with and without --debug, for
    people and for programs.
    """
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
    denies = Denies()
    host = moto_url().removeprefix("http://")
    try:
        for command, url, *arguments in (
            ("status", f"http://{nobody}"),
            ("run", f"http://user:{PASSWORD}@{host}/x", "--json"),
            ("doctor", f"http://user:{PASSWORD}@{host}"),
            ("sql", f"user:{PASSWORD}@{host}", "SELECT 1", "--debug"),
            ("run", denies.url),
            ("sql", denies.url, "SELECT 1", "--debug"),
            ("doctor", denies.url),
        ):
            done = place.call(command, *arguments, "--endpoint-url", url)
            assert done.returncode in (1, 2), f"{command} {url}: {done.stdout}"
            assert found_in((done.stdout + done.stderr).encode()) == [], (
                f"{command} {url}\n{done.stdout}\n{done.stderr}"
            )
        done = place.call(
            "run", "--bucket", "s3://no-such-bucket-here", "--endpoint-url", moto_url()
        )
        assert (done.returncode, found_in(done.stderr.encode())) == (2, [])
    finally:
        denies.close()
    assert [name for name, body in place.everything() if found_in(body)] == []


class Denies:
    """A server that answers 403 and repeats all that it was sent, as some do in their errors."""

    def __init__(self) -> None:
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
        from threading import Thread

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                reported = f"<StringToSign>{self.path} {self.headers}</StringToSign>"
                said = f"<Code>SignatureDoesNotMatch</Code><Message>{reported}</Message>{reported}"
                body = f"<Error>{said}</Error>".encode()
                self.send_response(403)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else body)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_the_scan_finds_all_forms() -> None:
    for secret in SECRETS.values():
        for text in (secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()):
            assert found_in(f"x {text} y".encode())
    assert os.environ.get("AWS_SECRET_ACCESS_KEY") not in SECRETS.values()
