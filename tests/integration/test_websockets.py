"""The `websockets` library's asyncio client and server, each and both on the loop under test."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from .conftest import Certificate
from .support.loops import ROLES, Serve, run_roles, wait_until_async

each_role = pytest.mark.parametrize("role", ROLES)

CONNECTIONS = 100
MESSAGES = 20


class Echo:
    """A server's handler that keeps the close codes it saw."""

    def __init__(self) -> None:
        self.codes: list[int | None] = []

    async def __call__(self, connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            async for message in connection:
                if message == "close":
                    await connection.close(4321, "as asked")
                else:
                    await connection.send(message)
        self.codes.append(connection.close_code)


def server_of(handler: Echo, tls: ssl.SSLContext | None = None) -> Serve[str]:
    @asynccontextmanager
    async def serving() -> AsyncIterator[str]:
        async with serve(
            handler, "127.0.0.1", 0, ssl=tls, max_size=None, open_timeout=60
        ) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            yield f"{'wss' if tls else 'ws'}://localhost:{port}"

    def start() -> AbstractAsyncContextManager[str]:
        return serving()

    return start


@each_role
def test_echo_ping_and_close(role: str) -> None:
    handler = Echo()

    async def client(uri: str) -> None:
        async with connect(uri, max_size=None, open_timeout=60) as connection:
            for message in ["grüße", "", b"\x00\xff", b"", os.urandom(1 << 20), "x" * 70_000]:
                await connection.send(message)
                assert await connection.recv() == message
            latency = await (await connection.ping(b"payload"))
            assert latency >= 0
            await connection.close(4001)
        await wait_until_async(lambda: handler.codes == [4001])
        async with connect(uri, open_timeout=60) as connection:
            await connection.send("close")
            with pytest.raises(ConnectionClosed) as caught:
                await connection.recv()
            assert caught.value.rcvd is not None
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4321, "as asked")

    run_roles(role, server_of(handler), client)


@each_role
def test_tls(role: str, certificate: Certificate) -> None:
    async def client(uri: str) -> None:
        message = os.urandom(1 << 20)
        async with connect(
            uri, ssl=certificate.client_context, max_size=None, open_timeout=60
        ) as connection:
            await connection.send(message)
            assert await connection.recv() == message

    run_roles(role, server_of(Echo(), certificate.server_context), client)


@each_role
def test_lost_connection(role: str) -> None:
    handler = Echo()

    async def client(uri: str) -> None:
        async with connect(uri, open_timeout=60) as connection:
            await connection.send("here")
            assert await connection.recv() == "here"
            connection.transport.abort()
            await wait_until_async(lambda: handler.codes)
            with pytest.raises(ConnectionClosed):
                await connection.recv()
        assert handler.codes == [1006]

    run_roles(role, server_of(handler), client)


@each_role
def test_a_slow_reader_holds_back_the_sender(role: str) -> None:
    """Flow control: 16 MiB go through a client that reads only when it chooses to."""

    async def client(uri: str) -> None:
        message = b"x" * (1 << 18)
        async with connect(uri, max_size=None, max_queue=2, open_timeout=60) as connection:

            async def send() -> None:
                for _ in range(64):
                    await connection.send(message)

            sender = asyncio.create_task(send())
            for _ in range(64):
                assert len(await connection.recv()) == len(message)
                await asyncio.sleep(0.001)
            await sender

    run_roles(role, server_of(Echo()), client)


@each_role
def test_a_hundred_at_once(role: str) -> None:
    async def client(uri: str) -> None:
        async def one(number: int) -> None:
            async with connect(uri, open_timeout=60) as connection:
                for index in range(MESSAGES):
                    await connection.send(f"{number} {index}")
                    assert await connection.recv() == f"{number} {index}"

        async with asyncio.TaskGroup() as group:
            for number in range(CONNECTIONS):
                group.create_task(one(number))

    run_roles(role, server_of(Echo()), client)
