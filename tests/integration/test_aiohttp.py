"""aiohttp's server and client, each and both on the loop under test."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from .conftest import Certificate
from .support.http import RawConnection, get
from .support.loops import (
    ROLES,
    Serve,
    iterate_chunks,
    loop_class_path,
    run_on_loop,
    run_roles,
    wait_until_async,
)
from .support.processes import ServerProcess

each_role = pytest.mark.parametrize("role", ROLES)

CONNECTIONS = 1000
REQUESTS_PER_CONNECTION = 3
MEBIBYTE = os.urandom(1 << 20)


@asynccontextmanager
async def serving(app: web.Application, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls, backlog=512)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def server_of(app: web.Application, tls: ssl.SSLContext | None = None) -> Serve[int]:
    def serve() -> AbstractAsyncContextManager[int]:
        return serving(app, tls)

    return serve


async def hello(request: web.Request) -> web.Response:
    return web.Response(text=f"hello {request.match_info.get('name', '')}")


async def sha256(request: web.Request) -> web.Response:
    digest, length = hashlib.sha256(), 0
    async for chunk in request.content.iter_any():
        digest.update(chunk)
        length += len(chunk)
    return web.json_response({"sha256": digest.hexdigest(), "length": length})


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    async for chunk in iterate_chunks(MEBIBYTE, 10_000):
        await response.write(chunk)
    await response.write_eof()
    return response


def basic_app() -> web.Application:
    app = web.Application(client_max_size=1 << 24)
    app.router.add_get("/hello/{name}", hello)
    app.router.add_post("/sha256", sha256)
    app.router.add_get("/stream", stream)
    return app


def expected_digest(body: bytes) -> dict[str, object]:
    return {"sha256": hashlib.sha256(body).hexdigest(), "length": len(body)}


@each_role
def test_get_and_keep_alive(role: str) -> None:
    async def client(port: int) -> None:
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector) as http:
            for number in range(50):
                async with http.get(f"/hello/{number}") as response:
                    assert response.status == 200
                    assert await response.text() == f"hello {number}"

    run_roles(role, server_of(basic_app()), client)


@each_role
def test_post_one_mebibyte(role: str) -> None:
    async def client(port: int) -> None:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            async with http.post("/sha256", data=MEBIBYTE) as response:
                assert await response.json() == expected_digest(MEBIBYTE)

    run_roles(role, server_of(basic_app()), client)


@each_role
def test_chunked_both_ways(role: str) -> None:
    async def client(port: int) -> None:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            async with http.post("/sha256", data=iterate_chunks(MEBIBYTE, 7_000)) as response:
                assert await response.json() == expected_digest(MEBIBYTE)
            async with http.get("/stream") as response:
                assert response.headers["Transfer-Encoding"] == "chunked"
                assert await response.read() == MEBIBYTE

    run_roles(role, server_of(basic_app()), client)


@each_role
def test_tls(role: str, certificate: Certificate) -> None:
    async def client(port: int) -> None:
        connector = aiohttp.TCPConnector(ssl=certificate.client_context)
        async with aiohttp.ClientSession(f"https://localhost:{port}", connector=connector) as http:
            async with http.post("/sha256", data=MEBIBYTE) as response:
                assert await response.json() == expected_digest(MEBIBYTE)
            async with http.get("/stream") as response:
                assert await response.read() == MEBIBYTE

    run_roles(role, server_of(basic_app(), certificate.server_context), client)


@each_role
def test_file_response(role: str, tmp_path: Path) -> None:
    """Over plain TCP aiohttp sends files by `loop.sendfile`."""
    path = tmp_path / "file.bin"
    path.write_bytes(MEBIBYTE * 3)

    async def send_file(_request: web.Request) -> web.FileResponse:
        return web.FileResponse(path)

    app = web.Application()
    app.router.add_get("/file", send_file)

    async def client(port: int) -> None:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            for _ in range(3):
                async with http.get("/file") as response:
                    assert await response.read() == MEBIBYTE * 3
            async with http.get("/file", headers={"Range": "bytes=1000-99999"}) as response:
                assert response.status == 206
                assert await response.read() == MEBIBYTE[1000:100_000]

    run_roles(role, server_of(app), client)


@each_role
def test_client_leaves_in_mid_response(role: str) -> None:
    """The handler is cancelled or gets an error from its write, and the server goes on."""
    ended: list[str] = []

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65536)
        except (ConnectionError, asyncio.CancelledError) as exc:
            ended.append(type(exc).__name__)
            raise

    app = basic_app()
    app.router.add_get("/endless", endless)

    async def client(port: int) -> None:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            response = await http.get("/endless")
            assert len(await response.content.readexactly(300_000)) == 300_000
            response.close()
            await wait_until_async(lambda: ended)
            async with http.get("/hello/again") as answer:
                assert await answer.text() == "hello again"

    run_roles(role, server_of(app), client)


@each_role
def test_server_leaves_in_mid_response(role: str) -> None:
    async def leave(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000000"})
        await response.prepare(request)
        await response.write(b"x" * 1000)
        assert request.transport is not None
        request.transport.abort()
        return response

    app = web.Application()
    app.router.add_get("/leave", leave)

    async def client(port: int) -> None:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            with pytest.raises(aiohttp.ClientError):
                async with http.get("/leave") as response:
                    await response.read()

    run_roles(role, server_of(app), client)


@each_role
def test_cancelled_request(role: str) -> None:
    arrived: list[str] = []

    async def wait(_request: web.Request) -> web.Response:
        arrived.append("request")
        await asyncio.sleep(3600)
        raise AssertionError("not reached")

    app = basic_app()
    app.router.add_get("/wait", wait)

    async def client(port: int) -> None:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            request = asyncio.create_task(http.get("/wait"))
            await wait_until_async(lambda: arrived)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            async with http.get("/hello/after") as answer:
                assert await answer.text() == "hello after"

    run_roles(role, server_of(app), client)


@each_role
def test_a_thousand_connections(role: str) -> None:
    """All are open and in a request at once, and each carries several requests."""
    waiting: list[asyncio.Event] = []
    count = 0

    async def gather_all(_request: web.Request) -> web.Response:
        nonlocal count
        if not waiting:
            waiting.append(asyncio.Event())
        count += 1
        if count == CONNECTIONS:
            waiting[0].set()
        await waiting[0].wait()
        return web.Response(text="all here")

    app = basic_app()
    app.router.add_get("/gather", gather_all)

    async def client(port: int) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector) as http:

            async def one(number: int) -> None:
                async with http.get("/gather") as response:
                    assert await response.text() == "all here"
                for index in range(REQUESTS_PER_CONNECTION):
                    async with http.get(f"/hello/{number}-{index}") as response:
                        assert await response.text() == f"hello {number}-{index}"

            async with asyncio.TaskGroup() as group:
                for number in range(CONNECTIONS):
                    group.create_task(one(number))

    run_roles(role, server_of(app), client)


@each_role
def test_websocket(role: str) -> None:
    codes: list[int | None] = []

    async def echo(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(max_msg_size=0)
        await websocket.prepare(request)
        async for message in websocket:
            if message.data == "close":
                await websocket.close(code=4321, message=b"as asked")
            elif message.type is aiohttp.WSMsgType.TEXT:
                await websocket.send_str(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                await websocket.send_bytes(message.data)
        codes.append(websocket.close_code)
        return websocket

    app = web.Application()
    app.router.add_get("/echo", echo)

    async def client(port: int) -> None:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            async with http.ws_connect("/echo", max_msg_size=0) as websocket:
                for text in ["grüße", "", "x" * 70_000]:
                    await websocket.send_str(text)
                    assert await websocket.receive_str(timeout=60) == text
                for data in [b"\x00\xff", b"", MEBIBYTE]:
                    await websocket.send_bytes(data)
                    assert await websocket.receive_bytes(timeout=60) == data
                await websocket.close(code=4001)
            await wait_until_async(lambda: codes == [4001])
            async with http.ws_connect("/echo") as websocket:
                await websocket.send_str("close")
                message = await websocket.receive(timeout=60)
                assert message.type is aiohttp.WSMsgType.CLOSE
                assert (message.data, message.extra) == (4321, "as asked")

            async def one(number: int) -> None:
                async with http.ws_connect("/echo") as websocket:
                    for index in range(10):
                        await websocket.send_str(f"{number} {index}")
                        assert await websocket.receive_str(timeout=60) == f"{number} {index}"

            async with asyncio.TaskGroup() as group:
                for number in range(100):
                    group.create_task(one(number))

    run_roles(role, server_of(app), client)


def test_pipelining() -> None:
    def client(port: int) -> None:
        with RawConnection(port) as connection:
            connection.send(b"".join(get(f"/hello/{number}") for number in range(50)))
            for number in range(50):
                assert connection.response().body == b"hello %d" % number

    async def main() -> None:
        async with serving(basic_app()) as port:
            await asyncio.to_thread(client, port)

    run_on_loop(main())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_run_app_ends_on_signal(number: signal.Signals) -> None:
    """`web.run_app(app, loop=...)` leaves the loop by a SystemExit from a signal handler."""
    with ServerProcess(["aiohttp_app.py"]) as server:
        port = server.wait_for_port(r"^port (\d+)$")
        with RawConnection(port) as connection:
            assert connection.request(get("/loop")).body == loop_class_path().encode()
            assert server.stop(number) == 0, server.log
            assert connection.at_eof()
        assert server.log.endswith("cleanup\nclosed True\n")
        server.assert_clean_log()
