"""`http11 = True` and clients that nobody knows: RFC 9112, read by h11, and limits."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests import memory

from .support import Running, read_all, serving

h11 = pytest.importorskip("h11", reason="http11 needs h11")

BODY = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


class Pages:
    http11 = True
    http_methods = ("GET", "POST", "CONNECT")

    def echo(self, transport: Any, data: bytes) -> bytes:
        return data

    def headers(self, transport: Any, data: bytes) -> Any:
        return transport.http_headers

    def smuggled(self, transport: Any, data: bytes) -> str:
        return "smuggled"

    def header(self, transport: Any, data: bytes) -> str:
        name, _, value = data.partition(b":")
        transport.http_response_headers[name.decode("latin-1")] = value.decode("latin-1")
        return ""


@pytest.fixture
def running() -> Iterator[Running]:
    with serving(Pages) as running:
        yield running


def talk(running: Running, sent: bytes) -> list[tuple[int, bytes]]:
    """The status and body of all responses; the connection is closed after what is sent."""
    with running.connect() as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        received = read_all(sock)
    responses = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        lengths = [
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        ]
        length = lengths[0] if lengths else 0
        responses.append((int(head.split()[1]), received[:length]))
        received = received[length:]
    return responses


def request(first: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join((first, "Host: x", *headers, "", "")).encode("latin-1") + body


@pytest.mark.parametrize("headers", [("Connection: Upgrade", "Upgrade: websocket"), ()])
def test_a_body_is_never_a_second_request(running: Running, headers: tuple[str, ...]) -> None:
    length = f"Content-Length: {len(BODY)}"
    sent = request("POST /echo HTTP/1.1", *headers, length, body=BODY)
    assert talk(running, sent) == [(200, BODY)]
    # The next request is answered: the connection goes on as HTTP.
    assert talk(running, sent + request("GET /echo HTTP/1.1")) == [(200, BODY), (200, b"")]


@pytest.mark.parametrize("target", ["x:443", "/echo"])
def test_no_tunnel_is_made(running: Running, target: str) -> None:
    sent = request(f"CONNECT {target} HTTP/1.1", f"Content-Length: {len(BODY)}", body=BODY)
    assert [status for status, _ in talk(running, sent + BODY)] == [405]


def test_trailers_are_no_headers(running: Running) -> None:
    chunks = b"1\r\nx\r\n0\r\nX-User: root\r\nHost: y\r\n\r\n"
    sent = request("POST /headers HTTP/1.1", "Transfer-Encoding: chunked", body=chunks)
    [(status, body)] = talk(running, sent)
    assert status == 200 and b"root" not in body and b"y" not in body


@pytest.mark.parametrize(
    ("first", "headers", "status"),
    [
        ("GET /echo HTTP/1.1", ("Host: y",), 400),
        ("GET /echo HTTP/1.1", ("Host: x",), 400),
        ("GET /echo HTTP/1.1", ("Bad Name: 1",), 400),
        ("GET /echo HTTP/1.1", ("Name : 1",), 400),
        ("GET /echo HTTP/1.1", ("X: a\0b",), 400),
        ("GET /echo HTTP/1.1", ("X: a\rb",), 400),
        ("GET /ec ho HTTP/1.1", (), 400),
        ("GET /echo HTTP/2.0", (), 505),
        ("GET /echo HTTP/11.1", (), 400),
        ("POST /echo HTTP/1.1", ("Content-Length: 3", "Content-Length: 4"), 400),
        ("POST /echo HTTP/1.1", ("Content-Length: 3, 4",), 400),
        ("POST /echo HTTP/1.1", ("Content-Length: +3",), 400),
        ("POST /echo HTTP/1.1", ("Content-Length: 0x3",), 400),
        ("POST /echo HTTP/1.1", ("Content-Length: 3", "Transfer-Encoding: chunked"), 400),
        ("POST /echo HTTP/1.1", ("Transfer-Encoding: chunked, chunked",), 501),
        ("POST /echo HTTP/1.1", ("Transfer-Encoding: gzip, chunked",), 501),
        ("POST /echo HTTP/1.0", ("Transfer-Encoding: chunked",), 400),
    ],
)
def test_what_two_servers_may_read_in_two_ways(
    running: Running, first: str, headers: tuple[str, ...], status: int
) -> None:
    sent = request(first, *headers, body=b"0\r\n\r\n")
    assert [seen for seen, _ in talk(running, sent + BODY)] == [status]


@pytest.mark.parametrize(
    "header",
    ["a b:1", "a\0:1", ":1", "X:a\0b", "X:a\nb", "Content-Length:1", "Transfer-encoding:x"],
)
def test_response_headers_are_checked(running: Running, header: str) -> None:
    body = header.encode("latin-1")
    sent = request("POST /header HTTP/1.1", f"Content-Length: {len(body)}", body=body)
    assert [status for status, _ in talk(running, sent)] == [500]


def test_http_1_0_is_not_told_to_continue(running: Running) -> None:
    sent = request("POST /echo HTTP/1.0", "Expect: 100-continue", "Content-Length: 2", body=b"ab")
    assert talk(running, sent) == [(200, b"ab")]


@pytest.mark.parametrize("size", [60_000, 65_500, 66_000, 100_000, 1_000_000])
@pytest.mark.parametrize("before", [b"", request("GET /echo HTTP/1.1")], ids=["first", "second"])
def test_the_largest_head(running: Running, size: int, before: bytes) -> None:
    """The limit is that of the docs, in however many pieces a head comes."""
    sent = request("GET /echo HTTP/1.1", f"X: {'x' * (size - 41)}")
    answers = [status for status, _ in talk(running, before + sent)]
    assert answers == [200] * bool(before) + [200 if len(sent) <= 65536 else 431]


needs_malloc = pytest.mark.skipif(not memory.available, reason="asks glibc what is in use")


def drop_all(sock: socket.socket) -> None:
    while True:
        try:
            if not sock.recv(1 << 16):
                return
        except TimeoutError:
            continue
        except ConnectionError:
            return


def kept(
    running: Running, part: bytes, count: int, *, start: bytes = b"", read: bool = False
) -> int:
    """How many bytes the process holds when a client has sent all that it could in a second.

    The client keeps nothing of the responses, of which a fast machine sends more.
    """
    before = memory.in_use()
    with running.connect() as sock:
        sock.settimeout(1)
        reader = threading.Thread(target=lambda: read and drop_all(sock))
        reader.start()
        end = time.monotonic() + 1
        try:
            sock.sendall(start)
            for _ in range(count):
                if time.monotonic() < end:
                    sock.sendall(part)
        except (TimeoutError, ConnectionError):
            pass
        held = memory.in_use() - before
        # The rest of the responses may be much, and nobody wants it.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        reader.join()
        return held


@needs_malloc
@pytest.mark.parametrize("read", [False, True], ids=["responses-not-read", "responses-read"])
@pytest.mark.parametrize("size", [0, 1000])
def test_pipelined_requests_wait_in_the_socket(running: Running, size: int, read: bool) -> None:
    one = request("POST /echo HTTP/1.1", f"Content-Length: {size}", body=bytes(size))
    assert kept(running, one * 1000, 1000, read=read) < 20 << 20


@needs_malloc
def test_trailers_and_extensions_of_chunks_are_limited(running: Running) -> None:
    start = request("POST /echo HTTP/1.1", "Transfer-Encoding: chunked")
    trailers = b"x-trailer: value\r\n" * 50_000
    assert kept(running, trailers, 100, start=start + b"0\r\n") < 20 << 20
    assert kept(running, b"x" * 1_000_000, 100, start=start + b"1;x=") < 20 << 20


def verdicts(sent: bytes) -> list[int]:
    """What h11 says by itself: 200 for each request, and the status of the first error."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=65536)
    parser.receive_data(sent)
    statuses = []
    try:
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                return statuses
            if isinstance(event, h11.Request):
                request, headers = event, dict(event.headers)
                both = b"transfer-encoding" in headers and b"content-length" in headers
                if both or (b"transfer-encoding" in headers and event.http_version == b"1.0"):
                    return [*statuses, 400]
                if event.http_version[:1] != b"1":
                    return [*statuses, 505]
                if int(headers.get(b"content-length", 0)) > 16 << 20:
                    return [*statuses, 413]
            elif isinstance(event, h11.EndOfMessage):
                found = request.target.startswith(b"/echo") and request.target[5:6] in (b"", b"?")
                statuses.append(200 if found else 404)
                if request.method == b"CONNECT":
                    return [*statuses[:-1], 405]
                if found and request.method not in (b"GET", b"POST"):
                    statuses[-1] = 405
                response = h11.Response(status_code=statuses[-1], headers=[("Content-Length", "0")])
                parser.send(response)
                parser.send(h11.EndOfMessage())
                if parser.our_state is not h11.DONE:
                    return statuses
                parser.start_next_cycle()
    except h11.RemoteProtocolError as error:
        return [*statuses, error.error_status_hint]


PIECES = [
    b"GET ", b"POST ", b"CONNECT ", b"/echo", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\n", b"\r",
    b"Host: x\r\n", b"Content-Length: 5\r\n", b"Content-Length: 05\r\n", b"hello", b"0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n", b"Connection: close\r\n", b" ", b"\t",
    b"Upgrade: a\r\nConnection: upgrade\r\n", b"Expect: 100-continue\r\n", b": ", b"\0", b"\xff",
]  # fmt: skip
WHOLE = [
    request("GET /echo HTTP/1.1"),
    request("POST /echo HTTP/1.1", "Content-Length: 5", body=b"hello"),
    request("POST /echo HTTP/1.1", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
    request("POST /echo HTTP/1.1", "Upgrade: a", "Content-Length: 5", body=b"hello"),
]


def mutated(random: random.Random) -> bytes:
    """Some requests with a few changes."""
    sent = bytearray(b"".join(random.choices(WHOLE, k=3)))
    for _ in range(random.randrange(4)):
        at = random.randrange(len(sent))
        kind = random.randrange(3)
        piece = random.choice(PIECES)
        sent[at : at + (0, 1, len(piece))[kind]] = piece if kind != 1 else b""
    return bytes(sent)


@pytest.mark.parametrize("seed", range(8))
def test_the_verdicts_are_those_of_h11(running: Running, seed: int) -> None:
    """However a stream of requests comes in pieces, each is judged as the reference does."""
    source = random.Random(seed)
    for _ in range(50):
        sent = mutated(source)
        answers = [status for status, _ in talk(running, sent) if status != 100]
        assert answers == verdicts(sent), sent


def test_a_failing_page_ends_no_other(running: Running) -> None:
    """Errors of one client are no errors of the others."""
    statuses: list[int] = []

    def client() -> None:
        for _ in range(20):
            statuses.extend(status for status, _ in talk(running, request("GET /echo HTTP/1.1")))
            talk(running, request("POST /header HTTP/1.1", "Content-Length: 2", body=b"\0:"))

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert statuses == [200] * 80
