"""An S3 service with any number of objects and none stored: it answers ListObjectsV2 by arithmetic.

    with lister(keys=10_000_000) as endpoint_url: ...
    python -m bench.s3_lister --keys 10000000 --latency-ms 20

Any bucket name will do. Key i is `in/2026/08/{i:010d}.json`: a minute of last-modified times for
each thousand keys, an etag of its own, sizes below 5,000 bytes. The pages are AWS's own in form;
signatures are not looked at. A page costs about 0.3 ms of processor time, since a thousand keys are
one template in which the leading digits are replaced.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import socket
import socketserver
import subprocess
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl, quote
from xml.sax.saxutils import escape

from tests.support.servers import KEYS

ROOT = Path(__file__).parent.parent
BEGAN = datetime(2026, 8, 1, tzinfo=UTC)
FOLDER = "in/2026/08/"
_PAGE = 1000
_NUMBER, _MINUTE = "NNNNNNN", "YYYY-MM-DDTHH:MM"
_ROW = (
    "<Contents><Key>{key}</Key><LastModified>{minute}:{second:02}.000Z</LastModified><ETag>&quot;{etag}&quot;</ETag>"
    "<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


def key_of(i: int) -> str:
    """The name of object i. Names are in the order of their numbers."""
    return f"{FOLDER}{i:010d}.json"


_ERROR = "<Error><Code>{}</Code><Message>by the synthetic service</Message></Error>"
_HEAD = (
    "HTTP/1.1 {} -\r\nServer: AmazonS3\r\nContent-Type: application/xml\r\nContent-Length:"
    " {}\r\n\r\n"
)


class Bucket:
    """What the service answers. It has no state, so any number of threads may ask."""

    def __init__(self, keys: int) -> None:
        self._all = range(keys)
        rows = [self._row(j).encode() for j in range(_PAGE)]
        self._template = b"".join(rows)
        self._offsets = [0]
        for row in rows:
            self._offsets.append(self._offsets[-1] + len(row))

    @staticmethod
    def _row(j: int) -> str:
        etag = (
            hashlib.md5(b"%d" % j, usedforsecurity=False).hexdigest()[: 32 - len(_NUMBER)] + _NUMBER
        )
        key = f"{FOLDER}{_NUMBER}{j:03d}.json"
        return _ROW.format(
            key=key, minute=_MINUTE, second=j * 60 // _PAGE, etag=etag, size=100 + j * 37 % 4900
        )

    def rows(self, first: int, end: int) -> bytes:
        """The elements of objects [first, end)."""
        parts = []
        for number in range(first // _PAGE, -(-end // _PAGE)):
            minute = (BEGAN + timedelta(minutes=number)).isoformat()[:16].encode()
            page = self._template.replace(_MINUTE.encode(), minute).replace(
                _NUMBER.encode(), b"%07d" % number
            )
            a, b = max(first - number * _PAGE, 0), min(end - number * _PAGE, _PAGE)
            parts.append(page[self._offsets[a] : self._offsets[b]])
        return b"".join(parts)

    def page(self, asked: dict[str, str]) -> bytes:
        """The answer to ListObjectsV2. Raises ValueError for a token that is none of its own."""
        prefix, token, count = (
            asked.get("prefix", ""),
            asked.get("continuation-token", ""),
            int(asked.get("max-keys", _PAGE)),
        )
        end = bisect_left(self._all, prefix + "\U0010ffff", key=key_of)
        first = int(token) if token else self._first(prefix, asked.get("start-after", ""))
        last = max(first, min(end, first + min(count, _PAGE)))
        more = f"<NextContinuationToken>{last}</NextContinuationToken>" if last < end else ""
        head = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult'
            ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>bucket</Name><Prefix>{_text(prefix)}</Prefix>{_echoed(asked)}{more}"
            f"<KeyCount>{last - first}</KeyCount><MaxKeys>{count}</MaxKeys>"
            f"<IsTruncated>{str(last < end).lower()}</IsTruncated>"
        )
        return head.encode() + self.rows(first, last) + b"</ListBucketResult>"

    def _first(self, prefix: str, after: str) -> int:
        at = bisect_left(self._all, prefix, key=key_of)
        return max(at, bisect_right(self._all, after, key=key_of)) if after else at

    def answer(self, method: str, target: str) -> tuple[int, bytes]:
        """Status and body."""
        path, _, query = target.partition("?")
        asked = dict(parse_qsl(query, keep_blank_values=True))
        if method == "GET" and asked.get("list-type") == "2":
            try:
                return 200, self.page(asked)
            except ValueError:
                return 400, _ERROR.format("InvalidArgument").encode()
        is_bucket = method == "HEAD" and path.strip("/").count("/") == 0
        return (200, b"") if is_bucket else (404, _ERROR.format("NoSuchKey").encode())


def _text(value: str) -> str:
    return escape(quote(value, safe="/"))


def _echoed(asked: dict[str, str]) -> str:
    """What AWS repeats of the question."""
    names = {
        "continuation-token": "ContinuationToken",
        "start-after": "StartAfter",
        "encoding-type": "EncodingType",
    }
    return "".join(
        f"<{name}>{_text(asked[key])}</{name}>" for key, name in names.items() if asked.get(key)
    )


class _Connection(socketserver.BaseRequestHandler):
    """Requests of one client, each without a body, one after the other."""

    server: _Server

    def handle(self) -> None:
        connection: socket.socket = self.request
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        held = b""
        with suppress(ConnectionError):
            while True:
                while b"\r\n\r\n" not in held:
                    part = connection.recv(65536)
                    if not part:
                        return
                    held += part
                asked, _, held = held.partition(b"\r\n\r\n")
                method, target, _ = asked.partition(b"\r\n")[0].decode("latin-1").split(" ")
                if self.server.latency_s:
                    time.sleep(self.server.latency_s)
                status, body = self.server.bucket.answer(method, target)
                head = _HEAD.format(status, len(body))
                connection.sendall(head.encode() + (b"" if method == "HEAD" else body))


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, keys: int, latency_s: float, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Connection)
        self.bucket = Bucket(keys)
        self.latency_s = latency_s


@contextmanager
def lister(*, keys: int, latency_ms: float = 0.0) -> Iterator[str]:
    """The endpoint of such a service in a process of its own, while the block runs.

    Sets credentials where there are none.
    """
    for name, value in KEYS.items():
        os.environ.setdefault(name, value)
    command = [
        sys.executable,
        "-m",
        "bench.s3_lister",
        "--keys",
        str(keys),
        "--latency-ms",
        str(latency_ms),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--port", type=int, default=0)
    asked = parser.parse_args()
    with _Server(asked.keys, asked.latency_ms / 1000, asked.port) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
