"""One check per thing that a server must get right, through the standard library's HTTP client."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import os
import socket
import time
from collections.abc import Callable, Iterator

from examples.demo import app
from examples.demo.load import WrongResponse
from examples.demo.server import HOST, ServerProcess

TIMEOUT = 20.0
ECHO_BYTES = 4 * 1024 * 1024
KEEP_ALIVE_REQUESTS = 500
CLIENTS = 32


Check = Callable[[ServerProcess], str]


@contextlib.contextmanager
def connect(server: ServerProcess) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=TIMEOUT)
    try:
        yield connection
    finally:
        connection.close()


def expect(what: str, expected: object, actual: object) -> None:
    if expected != actual:
        raise WrongResponse(f"{what}: expected {expected!r:.200}, got {actual!r:.200}")


def fetch(
    connection: http.client.HTTPConnection,
    path: str,
    body: bytes | None = None,
    status: int = 200,
) -> tuple[http.client.HTTPMessage, bytes]:
    """GET, or POST if there is a body; check the status and the length that was announced."""
    connection.request("GET" if body is None else "POST", path, body)
    response = connection.getresponse()
    content = response.read()
    expect(f"status of {path}", status, response.status)
    expect(f"content-length of {path}", str(len(content)), response.headers["content-length"])
    return response.headers, content


def about(server: ServerProcess) -> str:
    with connect(server) as connection:
        facts = json.loads(fetch(connection, "/about")[1])
    expect("process that answered", server.pid, facts["pid"])
    expect("package of the running loop", server.loop.partition(":")[0], facts["package"])
    return f"the server runs on {facts['loop']}, Python {facts['python']}"


def plain_text(server: ServerProcess) -> str:
    with connect(server) as connection:
        expect("text", app.TEXT, fetch(connection, "/")[1])
    return f"{len(app.TEXT)} bytes of text"


def json_document(server: ServerProcess) -> str:
    with connect(server) as connection:
        expect("document", json.loads(app.DOCUMENT), json.loads(fetch(connection, "/json")[1]))
    return "the document parses to what was expected"


def not_found(server: ServerProcess) -> str:
    with connect(server) as connection:
        fetch(connection, "/nowhere", status=404)
    return "an unknown path is answered with 404"


def echo(server: ServerProcess) -> str:
    body = os.urandom(ECHO_BYTES)
    digest = hashlib.sha256(body).hexdigest()
    with connect(server) as connection:
        headers, content = fetch(connection, "/echo", body)
    expect("SHA-256 that the server computed", digest, headers["x-sha256"])
    expect("SHA-256 of what came back", digest, hashlib.sha256(content).hexdigest())
    return f"{len(body):,} random bytes went out and came back, SHA-256 {digest[:12]}…"


def stream(server: ServerProcess) -> str:
    with connect(server) as connection:
        started = time.monotonic()
        connection.request("GET", "/stream")
        response = connection.getresponse()
        expect("status of /stream", 200, response.status)
        expect("transfer-encoding", "chunked", response.headers["transfer-encoding"])
        first = response.readline()
        first_after = time.monotonic() - started
        rest = response.read()
        took = time.monotonic() - started
    lines = (first + rest).splitlines(keepends=True)
    expect("lines", [app.stream_line(n) for n in range(1, app.STREAM_LINES + 1)], lines)
    least = app.STREAM_LINES * app.STREAM_INTERVAL
    if took < least:
        raise WrongResponse(f"{len(lines)} pauses took {took:.4f} s, less than {least:.4f} s")
    return (
        f"{len(lines)} chunks, the first after {first_after * 1e3:.0f} ms, "
        f"the last after {took * 1e3:.0f} ms"
    )


def keep_alive(server: ServerProcess) -> str:
    with connect(server) as connection:
        connection.connect()
        local_port = connection.sock.getsockname()[1]
        for number in range(KEEP_ALIVE_REQUESTS):
            body = f"request {number}".encode() * (number % 7 + 1)
            expect(f"body {number}", body, fetch(connection, "/echo", body)[1])
            # http.client would reconnect without a word if the server had closed.
            expect("local port", local_port, connection.sock.getsockname()[1])
    return f"{KEEP_ALIVE_REQUESTS} requests, each with its own body, over one connection"


def many_clients(server: ServerProcess) -> str:
    def client(number: int) -> int:
        body = number.to_bytes(4, "big") * 20_000
        with connect(server) as connection:
            for _ in range(5):
                expect(f"body of client {number}", body, fetch(connection, "/echo", body)[1])
        return 5

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        total = sum(pool.map(client, range(CLIENTS)))
    return f"{CLIENTS} clients at once, {total} requests, nobody got another's bytes"


def pipelined(server: ServerProcess) -> str:
    request = b"GET / HTTP/1.1\r\nhost: demo\r\n\r\n"
    count = 10
    received = b""
    with socket.create_connection((HOST, server.port), TIMEOUT) as connection:
        connection.sendall(request * count)
        while received.count(app.TEXT) < count:
            data = connection.recv(65536)
            if not data:
                break
            received += data
    expect("responses", count, received.count(b"HTTP/1.1 200 OK\r\n"))
    expect("bodies", count, received.count(b"\r\n\r\n" + app.TEXT))
    return f"{count} requests in one packet, {count} responses in order"


def client_leaves(server: ServerProcess) -> str:
    with socket.create_connection((HOST, server.port), TIMEOUT) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nhost: demo\r\n\r\n")
        expect("start of the stream", b"HTTP/1.1 200", connection.recv(12, socket.MSG_WAITALL))
    with connect(server) as connection:
        expect("text", app.TEXT, fetch(connection, "/")[1])
    return "a client hangs up in the middle of a stream; the next one is served"


CHECKS: tuple[tuple[str, Check], ...] = (
    ("GET /about", about),
    ("GET /", plain_text),
    ("GET /json", json_document),
    ("GET /nowhere", not_found),
    ("POST /echo", echo),
    ("GET /stream", stream),
    ("keep-alive", keep_alive),
    ("concurrency", many_clients),
    ("pipelining", pipelined),
    ("hang-up", client_leaves),
)
