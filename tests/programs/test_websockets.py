"""The `websockets` library beyond a plain echo: compression, keep-alive pings, TLS, close codes."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.http11 import Request, Response

from ..integration.conftest import Certificate
from ..integration.support.loops import ROLES, Serve, run_roles, wait_until_async

each_role = pytest.mark.parametrize("role", ROLES)
MEBIBYTE = os.urandom(1 << 20)
TEXT = "übermäßig " * 100_000


async def echo(connection: ServerConnection) -> None:
    with suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


def server_of(handler: Any, **options: Any) -> Serve[str]:
    scheme = "wss" if options.get("ssl") else "ws"

    @asynccontextmanager
    async def serving() -> AsyncIterator[str]:
        async with serve(handler, "127.0.0.1", 0, max_size=None, **options) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            yield f"{scheme}://localhost:{port}"

    def start() -> AbstractAsyncContextManager[str]:
        return serving()

    return start


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@each_role
def test_large_messages(
    role: str, tls: bool, compression: str | None, certificate: Certificate
) -> None:
    server_context = certificate.server_context if tls else None
    client_context = certificate.client_context if tls else None

    async def client(uri: str) -> None:
        async with connect(
            uri, max_size=None, compression=compression, ssl=client_context
        ) as connection:
            names = [type(extension).__name__ for extension in connection.protocol.extensions]
            assert names == (["PerMessageDeflate"] if compression else [])
            for message in (MEBIBYTE, TEXT, MEBIBYTE * 4):
                await connection.send(message)
                assert await connection.recv() == message
            parts = [MEBIBYTE[at : at + 10_000] for at in range(0, len(MEBIBYTE), 10_000)]
            await connection.send(parts)
            assert await connection.recv() == MEBIBYTE

    run_roles(role, server_of(echo, ssl=server_context, compression=compression), client)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
@each_role
def test_close_codes(role: str, code: int, tls: bool, certificate: Certificate) -> None:
    async def close(connection: ServerConnection) -> None:
        await connection.close(code, f"reason {code}")

    async def client(uri: str) -> None:
        context: ssl.SSLContext | None = certificate.client_context if tls else None
        async with connect(uri, ssl=context) as connection:
            with pytest.raises(ConnectionClosed):
                await connection.recv()
            assert (connection.close_code, connection.close_reason) == (code, f"reason {code}")

    server_context = certificate.server_context if tls else None
    run_roles(role, server_of(close, ssl=server_context), client)


@each_role
def test_pings_keep_an_idle_connection_and_end_a_dead_one(role: str) -> None:
    async def client(uri: str) -> None:
        async with connect(uri, ping_interval=0.02, ping_timeout=60) as connection:
            await wait_until_async(lambda: connection.latency > 0)
            await connection.send("alive")
            assert await connection.recv() == "alive"
        async with connect(
            uri, ping_interval=0.02, ping_timeout=0.05, close_timeout=0.1
        ) as connection:
            # The pongs are not read, so that the other end seems dead.
            connection.transport.pause_reading()
            with pytest.raises(ConnectionClosedError) as caught:
                await connection.wait_closed()
                await connection.send("dead")
            assert caught.value.sent is not None and caught.value.sent.code == 1011

    run_roles(role, server_of(echo), client)


@each_role
def test_broadcast(role: str) -> None:
    connections: set[ServerConnection] = set()

    async def join(connection: ServerConnection) -> None:
        connections.add(connection)
        async for message in connection:
            broadcast(connections, message)

    async def client(uri: str) -> None:
        received: list[int] = []

        async def listener(number: int) -> None:
            async with connect(uri) as connection:
                got = 0
                async for message in connection:
                    if message == "end":
                        break
                    got += 1
                received.append(got)

        async with asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(listener(number))
            await wait_until_async(lambda: len(connections) == 30)
            async with connect(uri) as speaker:
                for number in range(50):
                    await speaker.send(f"message {number}")
                    assert await speaker.recv() == f"message {number}"
                await speaker.send("end")
        assert received == [50] * 30

    run_roles(role, server_of(join), client)


@each_role
def test_refused_handshake(role: str) -> None:
    def refuse(connection: ServerConnection, _request: Request) -> Response:
        return connection.respond(403, "not you\n")

    async def client(uri: str) -> None:
        with pytest.raises(InvalidStatus) as caught:
            await connect(uri)
        assert caught.value.response.status_code == 403
        assert caught.value.response.body == b"not you\n"

    run_roles(role, server_of(echo, process_request=refuse), client)
