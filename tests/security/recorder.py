"""A reverse proxy before an S3 server that notes each request, and what IAM would have to allow for
it. Standard library only.
"""

from __future__ import annotations

import fnmatch
import http.client
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_KEY = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)


@dataclass(frozen=True, order=True)
class Need:
    """One action on one key; for listings, on one prefix."""

    action: str
    key: str


@dataclass(frozen=True)
class Request:
    """What was asked and answered."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    status: int

    def needs(self) -> list[Need]:
        """What IAM asks for, after the S3 actions' reference: HEAD needs what GET needs, conditions
        at a version also a read.

        Where the object is absent, S3 looks for s3:ListBucket at the prefix of its key, and else
        answers 403.
        """
        parts = urlsplit(self.target)
        query = parse_qs(parts.query, keep_blank_values=True)
        _, _, key = unquote(parts.path).removeprefix("/").partition("/")
        if "versions" in query:
            return [Need("s3:ListBucketVersions", query.get("prefix", [""])[0])]
        if not key and self.method == "GET":
            return [Need("s3:ListBucket", query.get("prefix", [""])[0])]
        if "delete" in query:
            return [
                Need("s3:DeleteObject", unescape(name.decode())) for name in _KEY.findall(self.body)
            ]
        if self.method in ("GET", "HEAD"):
            read = Need("s3:GetObjectVersion" if "versionId" in query else "s3:GetObject", key)
            return [read, Need("s3:ListBucket", key)] if self.status == 404 else [read]
        if self.method == "DELETE":
            return [
                Need("s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject", key)
            ]
        write = [Need("s3:PutObject", key)]
        return [*write, Need("s3:GetObject", key)] if "if-match" in self.headers else write


class Recorder:
    """Listens at `url`; everything that came is in `requests` until `taken`."""

    def __init__(self, upstream: str) -> None:
        self.requests: list[Request] = []
        recorder, host = self, urlsplit(upstream).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                connection = http.client.HTTPConnection(host, timeout=60)
                connection.request(self.command, self.path, body=body, headers=dict(self.headers))
                response = connection.getresponse()
                content = response.read()
                headers = {name.lower(): value for name, value in self.headers.items()}
                recorder.requests.append(
                    Request(self.command, self.path, headers, body, response.status)
                )
                self.send_response(response.status)
                for name, value in response.getheaders():
                    if name.lower() not in (
                        "transfer-encoding",
                        "connection",
                        "content-length",
                        "date",
                        "server",
                    ):
                        self.send_header(name, value)
                length = (
                    response.getheader("Content-Length")
                    if self.command == "HEAD"
                    else str(len(content))
                )
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                self.wfile.write(content)
                connection.close()

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def taken(self) -> list[Request]:
        """What came since this was last called."""
        found, self.requests = self.requests, []
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def recording(upstream: str) -> Iterator[Recorder]:
    recorder = Recorder(upstream)
    try:
        yield recorder
    finally:
        recorder.close()


def grants(policy: dict[str, Any], bucket: str) -> list[Need]:
    """Each action at each pattern that a policy document allows."""
    found = []
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        patterns = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix")
        if patterns is None:
            patterns = [
                arn.removeprefix(f"arn:aws:s3:::{bucket}/") for arn in statement["Resource"]
            ]
        else:
            assert statement["Resource"] == f"arn:aws:s3:::{bucket}"
        found += [Need(statement["Action"], pattern) for pattern in patterns]
    return found


def covers(grant: Need, need: Need) -> bool:
    """Whether a grant allows what is needed."""
    return grant.action == need.action and fnmatch.fnmatchcase(need.key, grant.key)


def refused(policy: dict[str, Any], bucket: str, needs: Sequence[Need]) -> list[Need]:
    """What the policy does not allow."""
    allowed = grants(policy, bucket)
    return sorted({need for need in needs if not any(covers(grant, need) for grant in allowed)})


def unused(policy: dict[str, Any], bucket: str, needs: Sequence[Need]) -> list[Need]:
    """What the policy allows and nobody needed."""
    return sorted(
        grant for grant in grants(policy, bucket) if not any(covers(grant, need) for need in needs)
    )
