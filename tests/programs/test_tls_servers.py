"""aiohttp and uvicorn over TLS, where plain HTTP is tested elsewhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from websockets.asyncio.client import connect

from ..integration.conftest import Certificate
from ..integration.support.loops import ROLES, run_roles, wait_until_async
from .web_servers import aiohttp_of, uvicorn_of

each_role = pytest.mark.parametrize("role", ROLES)
MEBIBYTE = os.urandom(1 << 20)
CONNECTIONS = 100


def session(url: str, certificate: Certificate, **options: Any) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(ssl=certificate.client_context, **options)
    return aiohttp.ClientSession(url, connector=connector)


@each_role
def test_aiohttp_keep_alive_and_many_connections(role: str, certificate: Certificate) -> None:
    all_here = asyncio.Event()
    waiting = 0

    async def gather_all(_request: web.Request) -> web.Response:
        nonlocal waiting
        waiting += 1
        if waiting == CONNECTIONS:
            all_here.set()
        await all_here.wait()
        return web.Response(text="all here")

    async def port(request: web.Request) -> web.Response:
        assert request.secure and request.transport is not None
        assert request.transport.get_extra_info("cipher")
        return web.Response(text=str(request.transport.get_extra_info("peername")[1]))

    app = web.Application()
    app.add_routes([web.get("/gather", gather_all), web.get("/port", port)])

    async def client(url: str) -> None:
        async with session(url, certificate, limit=1) as http:
            ports = set()
            for _ in range(50):
                async with http.get("/port") as response:
                    ports.add(await response.text())
            assert len(ports) == 1
        async with session(url, certificate, limit=0) as http:

            async def one() -> None:
                async with http.get("/gather") as response:
                    assert await response.text() == "all here"

            async with asyncio.TaskGroup() as group:
                for _ in range(CONNECTIONS):
                    group.create_task(one())

    run_roles(role, aiohttp_of(app, certificate.server_context), client)


@each_role
def test_aiohttp_file_and_websocket(role: str, certificate: Certificate, tmp_path: Path) -> None:
    """Files go through `loop.sendfile()`'s fallback here."""
    path = tmp_path / "file.bin"
    path.write_bytes(MEBIBYTE * 3)
    codes: list[int | None] = []

    async def send_file(_request: web.Request) -> web.FileResponse:
        return web.FileResponse(path)

    async def echo(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(max_msg_size=0)
        await websocket.prepare(request)
        async for message in websocket:
            await websocket.send_bytes(message.data)
        codes.append(websocket.close_code)
        return websocket

    app = web.Application()
    app.add_routes([web.get("/file", send_file), web.get("/echo", echo)])

    async def client(url: str) -> None:
        async with session(url, certificate) as http:
            for _ in range(3):
                async with http.get("/file") as response:
                    assert await response.read() == MEBIBYTE * 3
            async with http.get("/file", headers={"Range": "bytes=1000-99999"}) as response:
                assert await response.read() == MEBIBYTE[1000:100_000]
            async with http.ws_connect("/echo", max_msg_size=0, compress=15) as websocket:
                for data in (b"", b"\x00", MEBIBYTE):
                    await websocket.send_bytes(data)
                    assert await websocket.receive_bytes(timeout=60) == data
                await websocket.close(code=4001)
            await wait_until_async(lambda: codes == [4001])

    run_roles(role, aiohttp_of(app, certificate.server_context), client)


@each_role
def test_aiohttp_either_side_leaves(role: str, certificate: Certificate) -> None:
    ended: list[str] = []

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65536)
                # Over TLS asyncio may discard what is written to a lost connection without a word.
                await asyncio.sleep(0)
        except (ConnectionError, asyncio.CancelledError) as exc:
            ended.append(type(exc).__name__)
            raise

    async def leave(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000000"})
        await response.prepare(request)
        await response.write(b"x" * 1000)
        assert request.transport is not None
        request.transport.abort()
        return response

    app = web.Application()
    app.add_routes([web.get("/endless", endless), web.get("/leave", leave)])

    async def client(url: str) -> None:
        async with session(url, certificate) as http:
            response = await http.get("/endless")
            assert len(await response.content.readexactly(300_000)) == 300_000
            response.close()
            await wait_until_async(lambda: ended)
            with pytest.raises(aiohttp.ClientError):
                async with http.get("/leave") as response:
                    await response.read()

    run_roles(role, aiohttp_of(app, certificate.server_context), client)


@each_role
def test_aiohttp_upload_to_a_slow_reader(role: str, certificate: Certificate) -> None:
    """Flow control through TLS: the sender is held back, and nothing is lost."""

    async def slow(request: web.Request) -> web.Response:
        length = 0
        async for chunk in request.content.iter_chunked(50_000):
            length += len(chunk)
            await asyncio.sleep(0.0005)
        return web.Response(text=str(length))

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(16):
            yield MEBIBYTE

    app = web.Application(client_max_size=1 << 26)
    app.add_routes([web.post("/slow", slow)])

    async def client(url: str) -> None:
        async with session(url, certificate) as http:
            async with http.post("/slow", data=pieces()) as response:
                assert int(await response.text()) == 16 << 20

    run_roles(role, aiohttp_of(app, certificate.server_context), client)


async def asgi_echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    assert (scope["type"], scope["scheme"]) == ("websocket", "wss")
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        kind = "text" if message.get("text") is not None else "bytes"
        await send({"type": "websocket.send", kind: message[kind]})


@pytest.mark.parametrize("implementation", ["httptools", "h11"])
@each_role
def test_uvicorn_websocket(role: str, implementation: str, certificate: Certificate) -> None:
    async def client(url: str) -> None:
        uri = url.replace("https", "wss")
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(one(uri))

    async def one(uri: str) -> None:
        async with connect(uri, ssl=certificate.client_context, max_size=None) as connection:
            for message in ("grüße", b"\x00", MEBIBYTE[:200_000]):
                await connection.send(message)
                assert await connection.recv() == message

    serve = uvicorn_of(asgi_echo, certificate, http=implementation, ws_max_size=1 << 24)
    run_roles(role, serve, client)
