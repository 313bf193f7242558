"""A faulty network between an S3 client and a real S3 server, on real sockets.

Each request is read whole, then its faults are drawn. What is drawn depends on the seed, the
request's method, its path and query without signatures, and on how often the same request came
before: not on the order in which threads run. `Proxy.counts` says how many of each fault were
really done to a client. Hosts are trusted: signatures are passed on as they are.
"""

from __future__ import annotations

import http.client
import random
import re
import socket
import socketserver
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

_SIGNATURE = re.compile(r"(?<=[?&])X-Amz-[A-Za-z-]+=[^&]*&?", re.IGNORECASE)
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "transfer-encoding",
        "content-length",
        "expect",
        "proxy-connection",
    }
)
LATE_AFTER = 7
"""Requests that pass before a late duplicate is delivered."""


class Fault(StrEnum):
    """What may happen to one request."""

    SLOW_DOWN = "503"
    TOO_MANY = "429"
    INTERNAL = "500"
    SLOW = "slow"
    LOST_BEFORE = "lost before"
    LOST_AFTER = "lost after"
    RESET = "reset"
    """The connection is reset in the middle of the answer."""
    CUT = "cut"
    """The answer declares its whole length, and ends before."""
    SHORT = "short"
    """The body is cut, and the length that is declared fits what is left."""
    SHORT_CHUNKED = "short chunked"
    """The body is cut, and is sent as whole chunks without any length."""
    TWICE = "twice"
    """The request is done twice, the second answer is given."""
    LATE = "late"
    """The request is done, and once more after others."""


STATUS = {
    Fault.SLOW_DOWN: (503, "SlowDown"),
    Fault.TOO_MANY: (429, "TooManyRequests"),
    Fault.INTERNAL: (500, "InternalError"),
}
BODY = frozenset({Fault.RESET, Fault.CUT, Fault.SHORT, Fault.SHORT_CHUNKED})
"""Faults of an answer's body: an answer without one goes unharmed."""


@dataclass(frozen=True)
class Rule:
    """One fault, for requests whose method and whose path with its query match the expressions.
    times: the first n only.
    """

    fault: Fault
    probability: float = 1.0
    method: str = ""
    path: str = ""
    times: int | None = None
    slow_s: float = 0.02

    def applies(self, request: Request) -> bool:
        return bool(
            re.fullmatch(self.method or ".*", request.method)
            and re.search(self.path, request.target)
        )


@dataclass(frozen=True)
class Request:
    """One HTTP request, whole."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def without(self, *names: str) -> Request:
        return replace(self, headers=tuple(h for h in self.headers if h[0].lower() not in names))

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def identity(self) -> str:
        return f"{self.method} {_SIGNATURE.sub('', self.target)} {self.header('range')}"


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, whole."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def head(self, *more: str) -> bytes:
        named = [f"{key}: {value}" for key, value in self.headers if key.lower() not in _HOP_BY_HOP]
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "?"
        return "\r\n".join([f"HTTP/1.1 {self.status} {phrase}", *named, *more, "", ""]).encode(
            "latin-1"
        )


def error(status: int, code: str) -> Answer:
    """A refusal as S3 words it."""
    error = f"<Error><Code>{code}</Code><Message>by the test</Message></Error>"
    body = f'<?xml version="1.0"?>{error}'.encode()
    return Answer(status, (("Content-Type", "application/xml"),), body)


@dataclass
class Proxy:
    """Listens on a port of its own while the block runs, and forwards to `upstream`.

    rules: may be replaced while it runs. down: answer 503 to everything, whatever the rules say.
    Tests make other services of it by overriding `serve`.
    """

    upstream: str
    rules: tuple[Rule, ...] = ()
    seed: int = 1
    down: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    url: str = ""
    requests: int = 0

    def __post_init__(self) -> None:
        self._address = urlsplit(self.upstream).netloc
        self._lock = threading.Lock()
        self._seen: Counter[str] = Counter()
        self._done: Counter[Rule] = Counter()
        self._late: list[tuple[int, Request]] = []
        self._connections = threading.local()

    def __enter__(self) -> Proxy:
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    proxy._converse(self.request)

        class Server(socketserver.ThreadingTCPServer):
            request_queue_size = 256
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.deliver_late()

    # -- the server's side -------------------------------------------------------------------------

    def serve(self, request: Request) -> Answer:
        """What the service answers."""
        return self.forward(request)

    def forward(self, request: Request) -> Answer:
        """Ask the real server, on a connection of this thread."""
        for attempt in range(2):
            if getattr(self._connections, "open", None) is None:
                self._connections.open = http.client.HTTPConnection(self._address, timeout=60)
            connection = self._connections.open
            try:
                connection.putrequest(
                    request.method, request.target, skip_host=True, skip_accept_encoding=True
                )
                for key, value in request.headers:
                    if key.lower() not in _HOP_BY_HOP:
                        connection.putheader(key, value)
                if request.body or request.method in ("PUT", "POST"):
                    connection.putheader("Content-Length", str(len(request.body)))
                connection.endheaders(request.body or None)
                found = connection.getresponse()
                body, headers = found.read(), tuple(found.getheaders())
            except (http.client.BadStatusLine, BrokenPipeError, ConnectionResetError):
                # the server had closed it
                connection.close()
                self._connections.open = None
                if attempt:
                    raise
                continue
            if found.will_close:
                connection.close()
                self._connections.open = None
            return Answer(found.status, headers, body)
        raise AssertionError

    def deliver_late(self, upto: int | None = None) -> None:
        """Do the duplicates that are due after request number `upto`; all that wait, without it."""
        with self._lock:
            due = [request for at, request in self._late if upto is None or at <= upto]
            self._late = [
                (at, request) for at, request in self._late if upto is not None and at > upto
            ]
        for request in due:
            self.serve(request)

    # -- the client's side -------------------------------------------------------------------------

    def _converse(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request in _requests(connection):
            with self._lock:
                self.requests += 1
                number = self.requests
                rule = None if self.down else self._draw(request)
            if self.down:
                self._count("outage", request)
                _send(connection, error(503, "SlowDown"), request)
            elif not self._treat(connection, request, rule, number):
                return
            self.deliver_late(number)

    def _draw(self, request: Request) -> Rule | None:
        """The first rule that the dice choose, if any."""
        self._seen[request.identity] += 1
        dice = random.Random(f"{self.seed} {request.identity} {self._seen[request.identity]}")
        for rule in self.rules:
            drawn = dice.random() < rule.probability
            if (
                drawn
                and rule.applies(request)
                and (rule.times is None or self._done[rule] < rule.times)
            ):
                self._done[rule] += 1
                return rule
        return None

    def _treat(
        self, connection: socket.socket, request: Request, rule: Rule | None, number: int
    ) -> bool:
        """Do the request with its fault; whether the connection may be used further."""
        fault = rule.fault if rule is not None else None
        if fault in STATUS:
            self._count(fault, request)
            return _send(connection, error(*STATUS[fault]), request)
        if fault is Fault.LOST_BEFORE:
            self._count(fault, request)
            return False
        if fault is Fault.SLOW and rule is not None:
            self._count(fault, request)
            time.sleep(rule.slow_s)
        if fault is Fault.TWICE:
            self._count(fault, request)
            self.serve(request)
        answer = self.serve(request)
        if fault is Fault.LATE:
            self._count(fault, request)
            with self._lock:
                self._late.append((number + LATE_AFTER, request))
        if fault is Fault.LOST_AFTER:
            self._count(fault, request)
            return False
        if fault in BODY and len(answer.body) > 1 and request.method != "HEAD":
            self._count(fault, request)
            return _spoiled(connection, answer, fault)
        return _send(connection, answer, request)

    def _count(self, fault: str, request: Request) -> None:
        with self._lock:
            self.counts[str(fault)] += 1
            self.counts[f"{fault} {request.method}"] += 1


def _requests(connection: socket.socket) -> Iterator[Request]:
    """Requests of one connection, each read whole."""
    held = b""
    while True:
        while b"\r\n\r\n" not in held:
            part = connection.recv(65536)
            if not part:
                return
            held += part
        head, _, held = held.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = tuple((k, v.strip()) for k, _, v in (line.partition(":") for line in rest))
        named = {k.lower(): v for k, v in headers}
        if named.get("transfer-encoding"):
            raise AssertionError("S3 clients declare the length of what they send")
        size = int(named.get("content-length", 0))
        if named.get("expect", "").lower() == "100-continue":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        parts, got = [held], len(held)
        while got < size:
            part = connection.recv(1 << 18)
            if not part:
                return
            parts.append(part)
            got += len(part)
        whole = b"".join(parts)
        held = whole[size:]
        yield Request(method, target, headers, whole[:size])


def _send(connection: socket.socket, answer: Answer, request: Request) -> bool:
    if request.method == "HEAD":
        length = next((v for k, v in answer.headers if k.lower() == "content-length"), "0")
        connection.sendall(answer.head(f"Content-Length: {length}"))
    elif answer.status in (204, 304):
        connection.sendall(answer.head())
    else:
        connection.sendall(answer.head(f"Content-Length: {len(answer.body)}") + answer.body)
    return True


def _spoiled(connection: socket.socket, answer: Answer, fault: Fault) -> bool:
    half = answer.body[: len(answer.body) // 2]
    if fault is Fault.SHORT:
        connection.sendall(answer.head(f"Content-Length: {len(half)}") + half)
        return True
    if fault is Fault.SHORT_CHUNKED:
        connection.sendall(
            answer.head("Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(half), half)
        )
        return True
    connection.sendall(answer.head(f"Content-Length: {len(answer.body)}") + half)
    if fault is Fault.RESET:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    return False


ALL = tuple(Fault)


def weather(
    probability: float, *, faults: tuple[Fault, ...] = ALL, **where: Any
) -> tuple[Rule, ...]:
    """Every fault with the same probability."""
    return tuple(Rule(fault, probability, **where) for fault in faults)


@contextmanager
def faulty(
    upstream: str,
    rules: tuple[Rule, ...] = (),
    *,
    seed: int = 1,
    kind: Callable[..., Proxy] = Proxy,
) -> Iterator[Proxy]:
    """A proxy while the block runs."""
    with kind(upstream, rules, seed) as proxy:
        yield proxy
