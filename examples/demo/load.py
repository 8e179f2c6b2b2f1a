"""A light HTTP client for keep-alive load: plain sockets, no event loop, every response checked.

Each connection has one request in flight. The client knows what must come back, so it can compare
bytes instead of parsing, and costs little next to the server it measures.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from examples.demo import app
from examples.demo.server import HOST

DRAIN_TIMEOUT = 10.0
RECEIVE_SIZE = 65536


class WrongResponse(Exception):
    """A response differs from what its request must be answered with."""


@dataclass(frozen=True)
class Exchange:
    """A request and the body of its response."""

    request: bytes
    body: bytes


def get(path: str, body: bytes) -> Exchange:
    return Exchange(f"GET {path} HTTP/1.1\r\nhost: demo\r\n\r\n".encode(), body)


def post(path: str, body: bytes) -> Exchange:
    head = f"POST {path} HTTP/1.1\r\nhost: demo\r\ncontent-length: {len(body)}\r\n\r\n"
    return Exchange(head.encode() + body, body)


def mix(number: int) -> tuple[Exchange, ...]:
    """What one connection sends in turn; its posted body is unlike any other connection's."""
    return (
        get("/", app.TEXT),
        get("/json", app.DOCUMENT),
        post("/echo", f"connection {number:04} ".encode() * 64),
    )


class Connection:
    """One keep-alive connection that always has one request under way."""

    def __init__(self, port: int, number: int, exchanges: Sequence[Exchange] | None = None) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=DRAIN_TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._exchanges = exchanges or mix(number)
        self._next = number
        self._exchange = self._exchanges[0]
        self._received = b""
        self._sent_at = 0

    def send(self) -> None:
        self._exchange = self._exchanges[self._next % len(self._exchanges)]
        self._next += 1
        self._sent_at = time.perf_counter_ns()
        # Small next to the socket's buffer, which is empty: never a partial send.
        self.socket.sendall(self._exchange.request)

    def receive(self) -> int | None:
        """The latency in ns once the whole response is there and right, else None."""
        data = self.socket.recv(RECEIVE_SIZE)
        if not data:
            raise WrongResponse(f"closed in the middle of a response: {self._received!r:.200}")
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return None
        expected = self._exchange.body
        if not head.startswith(b"HTTP/1.1 200 "):
            raise WrongResponse(f"status: expected 200, got {head!r:.200}")
        if content_length(head) != len(expected):
            raise WrongResponse(f"content-length: expected {len(expected)}, got {head!r:.200}")
        if len(body) < len(expected):
            return None
        if body != expected:
            raise WrongResponse(f"body: expected {expected!r:.200}, got {body!r:.200}")
        self._received = b""
        return time.perf_counter_ns() - self._sent_at


def content_length(head: bytes) -> int | None:
    _, found, rest = head.lower().partition(b"\r\ncontent-length: ")
    return int(rest.partition(b"\r\n")[0]) if found else None


@dataclass
class Round:
    """What one round measured; latencies in ns, sorted."""

    seconds: float
    latencies: list[int] = field(repr=False)

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, fraction: float) -> float:
        """The latency in ms that this fraction of the requests did not exceed."""
        index = min(int(fraction * len(self.latencies)), len(self.latencies) - 1)
        return self.latencies[index] / 1e6


def run(port: int, connections: int, seconds: float) -> Round:
    """Keep every connection busy for this long, then wait for the responses still under way."""
    latencies: list[int] = []
    clients = [Connection(port, number) for number in range(connections)]
    try:
        with selectors.DefaultSelector() as selector:
            for client in clients:
                selector.register(client.socket, selectors.EVENT_READ, client)
            started = time.perf_counter()
            deadline = started + seconds
            for client in clients:
                client.send()
            outstanding = connections
            while outstanding:
                events = selector.select(DRAIN_TIMEOUT)
                if not events:
                    raise WrongResponse(
                        f"{outstanding} responses did not come within {DRAIN_TIMEOUT:.0f} s"
                    )
                for key, _ in events:
                    client = key.data
                    latency = client.receive()
                    if latency is None:
                        continue
                    latencies.append(latency)
                    if time.perf_counter() < deadline:
                        client.send()
                    else:
                        outstanding -= 1
            took = time.perf_counter() - started
    finally:
        for client in clients:
            client.socket.close()
    latencies.sort()
    return Round(took, latencies)
