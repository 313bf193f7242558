"""A web server that takes document jobs: 202 and an id at once, what became of them later.

    python -m examples.documents.web --bucket s3://my-bucket --port 8000
    curl -X POST localhost:8000/jobs -d '{"keys": ["uploads/documents/report.md"]}'
        {"job": "job-..."}
    curl localhost:8000/jobs/job-...
        {"files": [{"status": "done", ...}], ...}

The job is written to the bucket before Modal hears of it, and its outcome is read from there: an id
is good for years, while Modal forgets a call's result after seven days. `tidemill jobs wait,
cancel` take the same ids.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Callable, Coroutine
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import modal

from examples.documents.flows import documents
from pipeline.deploy.engines import app_name
from pipeline.errors import SettingsError
from pipeline.executors.none import NoExecutor
from pipeline.model.policy import Policy
from pipeline.runtime import jobs
from pipeline.runtime.bucket import Bucket
from pipeline.runtime.runtime import Runtime

APP = os.environ.get("TIDEMILL_APP") or app_name([documents])
BODY_MAX = 1_000_000


def submit(bucket: Bucket, keys: list[str]) -> str:
    """Write the job down and hand it to the deployed app; its id.

    Raises SettingsError for keys the pipeline does not read.
    """
    job = jobs.new_job()
    on_bucket(bucket, lambda runtime: jobs.record(runtime, job, keys, again=False))
    modal.Function.from_name(APP, "submit").spawn(job, keys)
    return job


def outcome(bucket: Bucket, job: str) -> dict[str, object] | None:
    """What became of a job's files, None where there is no such job."""

    async def read(runtime: Runtime) -> dict[str, object] | None:
        record = await jobs.read(runtime, job)
        return (
            None
            if record is None
            else jobs.as_builtins(record, await jobs.outcomes(runtime, record))
        )

    return on_bucket(bucket, read)


def on_bucket(bucket: Bucket, work: Callable[[Runtime], Coroutine[Any, Any, Any]]) -> Any:
    """Do something with the pipeline's state."""

    async def opened() -> Any:
        store = bucket.open()
        try:
            runtime = Runtime(documents, documents.settings(), store, Policy(), NoExecutor())
            await runtime.open()
            return await work(runtime)
        finally:
            await store.close()

    return asyncio.run(opened())


class Handler(BaseHTTPRequestHandler):
    """POST /jobs, GET /jobs/<id>."""

    bucket: Bucket

    def do_POST(self) -> None:
        try:
            keys = json.loads(self.rfile.read(min(int(self.headers["Content-Length"]), BODY_MAX)))[
                "keys"
            ]
            job = submit(self.bucket, [str(key) for key in keys])
        except (SettingsError, ValueError, KeyError, TypeError) as error:
            self.answer(400, {"error": str(error)})
        except modal.exception.Error as error:
            self.answer(503, {"error": f"Modal does not take the job: {error}"})
        else:
            self.answer(202, {"job": job})

    def do_GET(self) -> None:
        found = outcome(self.bucket, self.path.removeprefix("/jobs/"))
        self.answer(404 if found is None else 200, found or {"error": "no such job"})

    def answer(self, status: int, body: dict[str, object]) -> None:
        """One JSON document."""
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--endpoint-url")
    parser.add_argument("--region")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    Handler.bucket = Bucket(
        url=options.bucket, endpoint_url=options.endpoint_url, region=options.region
    )
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    print(f"serving http://127.0.0.1:{server.server_port}/jobs", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
