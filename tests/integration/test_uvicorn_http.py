"""uvicorn serves HTTP/1.1 on the loop under test; the clients are plain sockets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator

import psutil
import pytest

from .conftest import Certificate
from .support.http import RawConnection, chunked_post, get, post, post_head
from .support.loops import loop_class_path, run_stock, wait_until
from .support.uvicorn import UvicornProcess, new_token

CONNECTIONS = 1000
TLS_CONNECTIONS = 100
REQUESTS_PER_CONNECTION = 5
MEBIBYTE = os.urandom(1 << 20)


@pytest.fixture(scope="module", params=["httptools", "h11", "httptools-tls", "h11-tls"])
def server(request: pytest.FixtureRequest, certificate: Certificate) -> Iterator[UvicornProcess]:
    implementation, _, tls = request.param.partition("-")
    options = ["--http", implementation]
    if tls:
        options += ["--ssl-keyfile", certificate.key_file, "--ssl-certfile", certificate.cert_file]
    context = certificate.client_context if tls else None
    with UvicornProcess(options=options, tls=context) as process:
        yield process
        process.stop()
        process.assert_clean_log()


def test_runs_on_the_loop_under_test(server: UvicornProcess) -> None:
    with server.connect() as connection:
        described = json.loads(connection.request(get("/describe")).body)
        assert described == {
            "loop": loop_class_path(),
            "state": "yes",
            "client_port": connection.sock.getsockname()[1],
            "scheme": "https" if server.tls else "http",
        }


def test_get(server: UvicornProcess) -> None:
    response = server.request(get("/hello/world"))
    assert (response.status, response.body) == (200, b"hello world")


def test_post_one_mebibyte(server: UvicornProcess) -> None:
    response = server.request(post("/sha256", MEBIBYTE))
    expected = {"sha256": hashlib.sha256(MEBIBYTE).hexdigest(), "length": len(MEBIBYTE)}
    assert json.loads(response.body) == expected


def test_chunked_response(server: UvicornProcess) -> None:
    response = server.request(get("/stream/300"))
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.body == b"".join((b"%08d" % number) * 512 for number in range(300))


def test_chunked_request(server: UvicornProcess) -> None:
    chunks = [MEBIBYTE[start : start + 10_000] for start in range(0, 500_000, 10_000)]
    with server.connect() as connection:
        for piece in chunked_post("/sha256", chunks):
            connection.send(piece)
        answer = json.loads(connection.response().body)
    expected = {"sha256": hashlib.sha256(MEBIBYTE[:500_000]).hexdigest(), "length": 500_000}
    assert answer == expected


def test_keep_alive(server: UvicornProcess) -> None:
    with server.connect() as connection:
        for number in range(50):
            assert connection.request(get(f"/hello/{number}")).body == b"hello %d" % number
        assert connection.request(get("/hello/last", close=True)).body == b"hello last"
        assert connection.at_eof()


def test_pipelined_requests_are_answered_in_order(server: UvicornProcess) -> None:
    expected = []
    requests = b""
    for number in range(20):
        requests += get(f"/hello/{number}") + post("/sha256", b"%d" % number) + get("/stream/2")
        digest = hashlib.sha256(b"%d" % number).hexdigest()
        expected += [
            b"hello %d" % number,
            json.dumps({"sha256": digest, "length": len(str(number))}).encode(),
            b"00000000" * 512 + b"00000001" * 512,
        ]
    with server.connect() as connection:
        connection.send(requests)
        assert [connection.response().body for _ in expected] == expected


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
def test_client_leaves_in_mid_response(server: UvicornProcess, reset: bool) -> None:
    token = new_token()
    connection = server.connect()
    connection.send(get(f"/endless/{token}"))
    connection.wait_for_body_bytes(300_000)
    leave(connection, reset)
    server.wait_for_event(token, "http.disconnect")
    assert server.request(get("/hello/again")).body == b"hello again"


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
def test_client_leaves_in_mid_request(server: UvicornProcess, reset: bool) -> None:
    token = new_token()
    connection = server.connect()
    connection.send(post_head(f"/upload/{token}", 1_000_000) + b"x" * 1000)
    server.wait_for_event(token, "started")
    leave(connection, reset)
    server.wait_for_event(token, "http.disconnect")
    assert server.request(get("/hello/again")).body == b"hello again"


def test_client_leaves_in_mid_header(server: UvicornProcess) -> None:
    fds = psutil.Process(server.pid).num_fds
    before = fds()
    for _ in range(20):
        connection = server.connect()
        connection.send(b"GET /hello HTTP/1.1\r\nHost: te")
        leave(connection, reset=False)
    wait_until(lambda: fds() <= before, what=f"{before} descriptors in the server")
    assert server.request(get("/hello/again")).body == b"hello again"


def leave(connection: RawConnection, reset: bool) -> None:
    if reset:
        connection.reset()
    else:
        connection.sock.close()


def test_many_connections(server: UvicornProcess) -> None:
    """All are open at once, and each carries several requests."""
    count = TLS_CONNECTIONS if server.tls else CONNECTIONS
    name = "localhost" if server.tls else None
    fds = psutil.Process(server.pid).num_fds
    before = fds()

    async def client() -> None:
        all_here = asyncio.Barrier(count + 1)
        slots = asyncio.Semaphore(100)

        async def one(number: int) -> None:
            async with slots:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", server.port, ssl=server.tls, server_hostname=name
                )
            async with all_here:
                pass
            for index in range(REQUESTS_PER_CONNECTION):
                writer.write(get(f"/hello/{number}-{index}"))
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200")
                body = f"hello {number}-{index}".encode()
                assert await reader.readexactly(len(body)) == body
            async with all_here:
                pass
            writer.close()
            await writer.wait_closed()

        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(number))
            async with all_here:
                pass
            async with all_here:
                assert fds() > count

    run_stock(client(), timeout=200)
    wait_until(lambda: fds() <= before, what=f"{before} descriptors in the server")
