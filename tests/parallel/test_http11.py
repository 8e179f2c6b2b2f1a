"""`http11 = True`: requests become calls of methods, and what they return becomes responses."""

from __future__ import annotations

import asyncio
import http.client
import json
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from .support import Running, read_all, read_exactly, serving

pytest.importorskip("h11", reason="http11 needs h11")


class Pages:
    http11 = True
    http_methods = ("GET", "HEAD", "POST", "PUT")
    max_request_body = 1 << 20

    def text(self, transport: Any, data: bytes) -> str:
        return "snow \N{SNOWMAN}"

    def raw(self, transport: Any, data: bytes) -> bytes:
        return b"raw"

    def obj(self, transport: Any, data: bytes) -> Any:
        return {"numbers": [1, 2], "none": None}

    def nothing(self, transport: Any, data: bytes) -> None:
        pass

    def echo(self, transport: Any, data: bytes) -> bytes:
        return data

    def about(self, transport: Any, data: bytes) -> Any:
        return {
            "method": transport.http_method,
            "path": transport.http_path,
            "query": transport.http_query,
            "headers": transport.http_headers,
            "header": transport.http_header,
        }

    def made(self, transport: Any, data: bytes) -> str:
        transport.http_status = 201
        transport.http_response_headers["Location"] = "/made/1"
        transport.http_response_headers["Content-Type"] = "text/markdown"
        return "*made*"

    def injected(self, transport: Any, data: bytes) -> str:
        transport.http_response_headers["X"] = "a\r\nSet-Cookie: b"
        return ""

    def fails(self, transport: Any, data: bytes) -> None:
        raise LookupError("in a page")

    async def later(self, transport: Any, data: bytes) -> str:
        await asyncio.sleep(0.01)
        return "later"

    async def fails_later(self, transport: Any, data: bytes) -> str:
        await asyncio.sleep(0.01)
        raise LookupError("later")

    def last(self, transport: Any, data: bytes) -> str:
        transport.close()
        return "last"

    def file(self, transport: Any, data: bytes) -> None:
        transport.sendfile(None, transport.http_query, None)

    def part(self, transport: Any, data: bytes) -> None:
        transport.sendfile_ranged(None, transport.http_query, None, 10, 20)

    def own_head(self, transport: Any, data: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 104\r\n\r\n<"
        transport.sendfile(head, transport.http_query, b"end")

    def read(self, transport: Any, data: bytes) -> None:
        transport.readfile(transport.http_query, lambda _, content: content[:5])

    def _hidden(self, transport: Any, data: bytes) -> str:
        raise AssertionError("not a page")


@pytest.fixture
def running() -> Iterator[Running]:
    with serving(Pages) as running:
        yield running


def ask(running: Running, *lines: str, body: bytes = b"", close: bool = True) -> bytes:
    """One request; everything that comes."""
    lines = (*lines, "Host: x", *(("Connection: close",) if close else ()))
    with running.connect() as sock:
        sock.sendall("\r\n".join((*lines, "", "")).encode() + body)
        return read_all(sock)


def split(response: bytes) -> tuple[str, dict[str, str], bytes]:
    """Status line, headers, body."""
    head, _, body = response.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    return status, dict(line.split(": ", 1) for line in lines), body


def get(running: Running, path: str) -> tuple[str, dict[str, str], bytes]:
    return split(ask(running, f"GET {path} HTTP/1.1"))


def test_results(running: Running) -> None:
    status, headers, body = get(running, "/text")
    assert status == "HTTP/1.1 200 OK"
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert int(headers["Content-Length"]) == len(body) == 8
    assert body.decode() == "snow \N{SNOWMAN}"
    assert headers["Connection"] == "close" and headers["Server"] == "hybridloop"
    assert headers["Date"].endswith(" GMT")
    _, headers, body = get(running, "/raw")
    assert (headers["Content-Type"], body) == ("text/plain; charset=utf-8", b"raw")
    _, headers, body = get(running, "/obj")
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert json.loads(body) == {"numbers": [1, 2], "none": None}
    status, headers, body = get(running, "/nothing")
    assert (status, body) == ("HTTP/1.1 204 No Content", b"")
    assert "Content-Length" not in headers
    status, headers, body = get(running, "/made")
    assert (status, headers["Location"], body) == ("HTTP/1.1 201 Created", "/made/1", b"*made*")
    assert headers["Content-Type"] == "text/markdown"
    # What a page has set is not there for the next one.
    assert "Location" not in get(running, "/text")[1]


def test_the_request(running: Running) -> None:
    answer = ask(
        running, "GET /ab%6fut?a=1&b=%20 HTTP/1.1", "X-Two: 1", "x-two: 2", "Cookie: a", "cookie: b"
    )
    seen = json.loads(split(answer)[2])
    assert (seen["method"], seen["path"], seen["query"]) == ("GET", "/about", "a=1&b=%20")
    assert seen["headers"]["x-two"] == "1, 2" and seen["headers"]["cookie"] == "a; b"
    assert seen["header"]["path"] == "about" and seen["header"]["minor_version"] == 1
    assert seen["header"]["X-Two"] == "1" and seen["header"]["method"] == "GET"
    assert split(ask(running, "GET http://x:1/raw HTTP/1.1"))[2] == b"raw"


def test_head(running: Running) -> None:
    status, headers, body = split(ask(running, "HEAD /text HTTP/1.1"))
    assert (status, body) == ("HTTP/1.1 200 OK", b"")
    assert headers["Content-Length"] == "8"
    assert split(ask(running, "HEAD /missing HTTP/1.1"))[2] == b""


@pytest.mark.parametrize(
    "path", ["/missing", "/", "/text/more", "/_hidden", "/__init__", "/http_methods", "*"]
)
def test_404(running: Running, path: str) -> None:
    status, headers, body = get(running, path)
    assert (status, body) == ("HTTP/1.1 404 Not Found", b"404 Not Found\n")
    assert headers["Content-Length"] == str(len(body))


def test_405(running: Running) -> None:
    status, headers, _ = split(ask(running, "DELETE /text HTTP/1.1"))
    assert status == "HTTP/1.1 405 Method Not Allowed"
    assert headers["Allow"] == "GET, HEAD, POST, PUT"


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET /text HTTP/1.1\r\n\r\n",
        b"GET /text HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"GET /text HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /text HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=[
        "no HTTP",
        "no Host",
        "header without colon",
        "negative length",
        "length and chunks",
        "bad chunk",
        "TLS",
    ],
)
def test_400(running: Running, request_: bytes) -> None:
    with running.connect() as sock:
        # What was right before is answered.
        sock.sendall(b"GET /raw HTTP/1.1\r\nHost: x\r\n\r\n" + request_)
        answers = read_all(sock)
    assert answers.count(b"HTTP/1.1 ") == 2
    first, second = answers.split(b"\r\n\r\nraw")
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert second.startswith(b"HTTP/1.1 400 Bad Request\r\n") and b"Connection: close" in second


def test_too_much(running: Running) -> None:
    with running.connect() as sock:
        sock.sendall(b"GET /raw HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000)
        assert split(read_all(sock))[0].endswith("431 Request Header Fields Too Large")
    answer = ask(running, "POST /echo HTTP/1.1", f"Content-Length: {1 << 30}", close=False)
    assert split(answer)[0].startswith("HTTP/1.1 413 ")
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    answer = ask(
        running, "POST /echo HTTP/1.1", "Transfer-Encoding: chunked", body=chunk * 34, close=False
    )
    assert split(answer)[0].startswith("HTTP/1.1 413 ")


def test_500(caplog: pytest.LogCaptureFixture) -> None:
    """What a client can cause does not end `run()`."""
    paths = ("/fails", "/fails_later", "/injected", "/file?no/such/file")
    with serving(Pages) as running:
        for path in paths:
            status, headers, body = split(ask(running, f"GET {path} HTTP/1.1", close=False))
            assert status == "HTTP/1.1 500 Internal Server Error"
            assert body == b"500 Internal Server Error\n"
            assert headers["Connection"] == "close" and "Set-Cookie" not in headers
        assert get(running, "/raw")[2] == b"raw"
    kinds = [
        record.exc_info[0]
        for record in caplog.records
        if record.exc_info and record.name == "hybridloop.parallel"
    ]
    assert kinds == [LookupError, LookupError, ValueError, FileNotFoundError]
    assert "a request for '/fails' has failed" in caplog.text


def test_the_end_of_the_program_is_not_logged_but_raised() -> None:
    class Exits:
        http11 = True

        def leave(self, transport: Any, data: bytes) -> None:
            raise SystemExit(3)

    with serving(Exits, errors=1) as running:
        assert get(running, "/leave")[0].endswith("500 Internal Server Error")
    assert type(running.errors[0]) is SystemExit


def test_an_exception_handler_instead_of_run() -> None:
    seen: list[Any] = []

    class Handles:
        http11 = True

        def fails(self, transport: Any, data: bytes) -> None:
            raise LookupError

        def exception_handler(self, transport: Any, name: str, exc: Any) -> None:
            seen.append((name, exc[0]))

    with serving(Handles) as running:
        assert get(running, "/fails")[0].endswith("500 Internal Server Error")
    assert seen == [("/fails", LookupError)]


def test_bodies(running: Running) -> None:
    body = bytes(range(256)) * 1000
    answer = ask(running, "POST /echo HTTP/1.1", f"Content-Length: {len(body)}", body=body)
    assert split(answer)[2] == body
    chunks = b"".join(b"%x\r\n%b\r\n" % (n, b"y" * n) for n in (1, 100, 70_000)) + b"0\r\n\r\n"
    answer = ask(running, "PUT /echo HTTP/1.1", "Transfer-Encoding: chunked", body=chunks)
    assert split(answer)[2] == b"y" * 70_101


def test_a_client_that_waits_to_be_asked_for_the_body(running: Running) -> None:
    with running.connect() as sock:
        sock.sendall(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
        asked = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert read_exactly(sock, len(asked)) == asked
        sock.sendall(b"12345GET /last HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"\r\n\r\n12345HTTP/1.1 200" in read_all(sock)


def test_keep_alive(running: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.server.port, timeout=60)
    connection.connect()
    sock = connection.sock
    for _ in range(5):
        for path, expected in (("/raw", b"raw"), ("/later", b"later"), ("/nothing", b"")):
            connection.request("GET", path)
            assert connection.getresponse().read() == expected
        connection.request("HEAD", "/text")
        assert connection.getresponse().read() == b""
        assert connection.sock is sock
    connection.close()
    assert running.server.client_connected_count == 1


def test_http_1_0(running: Running) -> None:
    with running.connect() as sock:
        sock.sendall(b"GET /raw HTTP/1.0\r\n\r\n")
        status, headers, body = split(read_all(sock))
        assert (status, headers["Connection"], body) == ("HTTP/1.1 200 OK", "close", b"raw")
    with running.connect() as sock:
        sock.sendall(b"GET /raw HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert split(read_all(sock))[1]["Connection"] == "close"


def test_pipelining_keeps_the_order(running: Running) -> None:
    paths = ["/later", "/raw", "/missing", "/text", "/later"] * 20 + ["/last", "/raw"]
    requests = b"".join(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode() for path in paths)
    with running.connect() as sock:
        for at in range(0, len(requests), 1000):
            sock.sendall(requests[at : at + 1000])
        answers = read_all(sock)
    bodies = [part.partition(b"\r\n\r\n")[2] for part in answers.split(b"HTTP/1.1 ")[1:]]
    snow = "snow \N{SNOWMAN}".encode()
    assert bodies == [b"later", b"raw", b"404 Not Found\n", snow, b"later"] * 20 + [b"last"]


def test_byte_by_byte(running: Running) -> None:
    with running.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        for n in range(len(request)):
            sock.sendall(request[n : n + 1])
        answer = read_exactly(sock, 100)
        assert b"200 OK" in answer


def test_upgrades_are_not_made(running: Running) -> None:
    answer = ask(running, "GET /raw HTTP/1.1", "Connection: Upgrade, close", "Upgrade: h2c")
    assert split(answer)[2] == b"raw"


def test_files(running: Running, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(bytes(range(100)))
    status, headers, body = get(running, f"/file?{path}")
    assert (status, body) == ("HTTP/1.1 200 OK", bytes(range(100)))
    assert headers["Content-Type"] == "text/html" and headers["Content-Length"] == "100"
    status, headers, body = get(running, f"/part?{path}")
    assert (status, body) == ("HTTP/1.1 206 Partial Content", bytes(range(10, 30)))
    assert headers["Content-Range"] == "bytes 10-29/100"
    assert split(ask(running, f"HEAD /file?{path} HTTP/1.1"))[2] == b""
    assert get(running, f"/own_head?{path}")[2] == b"<" + bytes(range(100)) + b"end"
    assert get(running, f"/read?{path}")[2] == bytes(range(5))


def test_a_catch_all_and_another_json() -> None:
    class All:
        http11 = True

        @staticmethod
        def json_dumps(obj: Any) -> str:
            return "<" + json.dumps(obj) + ">"

        def known(self, transport: Any, data: bytes) -> Any:
            return [1]

        def data_received(self, transport: Any, data: bytes) -> str:
            return f"{transport.http_path} {len(data)}"

    with serving(All) as running:
        assert get(running, "/any/thing")[2] == b"/any/thing 0"
        assert get(running, "/known")[2] == b"<[1]>"
        answer = ask(running, "POST /x HTTP/1.1", "Content-Length: 3", body=b"abc")
        assert split(answer)[2] == b"/x 3"


def test_only_methods_of_the_class_itself_are_pages() -> None:
    class Base:
        def inherited(self, transport: Any, data: bytes) -> str:
            raise AssertionError

    class Page(Base):
        http11 = True
        attribute = "no page"

        class Inner:
            pass

    with serving(Page) as running:
        for path in ("/inherited", "/attribute", "/Inner"):
            assert get(running, path)[0].endswith("404 Not Found")


def test_without_the_parser() -> None:
    script = (
        "import sys\n"
        "sys.modules['h11'] = None\n"
        "from hybridloop import parallel\n"
        "server = parallel.server('127.0.0.1', 0)\n"
        "try:\n"
        "    parallel.register(server, type('P', (), {'http11': True}))\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stderr == ""
    assert "pip install 'hybridloop[http]'" in done.stdout
