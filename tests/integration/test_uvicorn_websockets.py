"""uvicorn upgrades connections to WebSocket, which swaps the protocol of a live transport.

The client runs on stock asyncio.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import warnings
from collections.abc import Awaitable, Callable, Iterator

import pytest
import uvicorn.config
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from .conftest import Certificate
from .support.loops import run_stock, wait_until
from .support.uvicorn import UvicornProcess, new_token

CONNECTIONS = 100
MESSAGES = 10


def available_implementations() -> list[str]:
    """The implementations that this uvicorn has and whose packages are installed."""
    available = []
    for name, path in uvicorn.config.WS_PROTOCOLS.items():
        if name in ("auto", "none") or path is None:
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                importlib.import_module(str(path).partition(":")[0])
        except ImportError:
            continue
        available.append(name)
    return available


def server_parameters() -> list[str]:
    plain = available_implementations()
    return [*plain, f"{plain[-1]}+h11", f"{plain[0]}+tls"]


@pytest.fixture(scope="module", params=server_parameters())
def server(request: pytest.FixtureRequest, certificate: Certificate) -> Iterator[UvicornProcess]:
    implementation, _, variant = request.param.partition("+")
    options = ["--ws", implementation, "--http", "h11" if variant == "h11" else "httptools"]
    context = None
    if variant == "tls":
        options += ["--ssl-keyfile", certificate.key_file, "--ssl-certfile", certificate.cert_file]
        context = certificate.client_context
    with UvicornProcess(options=options, tls=context) as process:
        yield process
        process.stop()
        process.assert_clean_log()


def uri(server: UvicornProcess, path: str) -> str:
    return f"{'wss' if server.tls else 'ws'}://localhost:{server.port}{path}"


Conversation = Callable[[ClientConnection], Awaitable[None]]


def talk(server: UvicornProcess, path: str, conversation: Conversation) -> None:
    """Have a conversation over a new connection."""

    async def main() -> None:
        async with connect(
            uri(server, path), ssl=server.tls, max_size=None, open_timeout=60
        ) as websocket:
            await conversation(websocket)

    run_stock(main())


def echoes(*messages: str | bytes) -> Conversation:
    async def conversation(websocket: ClientConnection) -> None:
        for message in messages:
            await websocket.send(message)
            assert await websocket.recv() == message

    return conversation


def test_echo_of_text_and_binary(server: UvicornProcess) -> None:
    talk(server, "/echo", echoes("grüße", b"\x00\xff binary", "", b"", "x" * 70_000))


def test_one_mebibyte_frame(server: UvicornProcess) -> None:
    talk(server, "/echo", echoes(os.urandom(1 << 20)))


def test_fragmented_message(server: UvicornProcess) -> None:
    parts = [part * 100 for part in ("one ", "two ", "three ")]

    async def conversation(websocket: ClientConnection) -> None:
        await websocket.send(parts)
        assert await websocket.recv() == "".join(parts)

    talk(server, "/echo", conversation)


def test_ping_is_answered(server: UvicornProcess) -> None:
    async def conversation(websocket: ClientConnection) -> None:
        pong = await websocket.ping(b"payload")
        assert await pong >= 0

    talk(server, "/echo", conversation)


@pytest.mark.parametrize("code", [1000, 1001, 4321])
def test_server_closes_with_code(server: UvicornProcess, code: int) -> None:
    async def conversation(websocket: ClientConnection) -> None:
        with pytest.raises(ConnectionClosed) as caught:
            await websocket.recv()
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, "as asked")

    talk(server, f"/close/{code}", conversation)


@pytest.mark.parametrize("code", [1000, 4001])
def test_application_sees_the_close_code(server: UvicornProcess, code: int) -> None:
    token = new_token()

    async def conversation(websocket: ClientConnection) -> None:
        await websocket.close(code)

    talk(server, f"/record/{token}", conversation)
    server.wait_for_event(token, f"closed {code}")


def test_application_sees_a_lost_connection(server: UvicornProcess) -> None:
    """Implementations differ in the code they give for a connection without a close frame."""
    token = new_token()

    async def conversation(websocket: ClientConnection) -> None:
        await echoes("here")(websocket)
        websocket.transport.abort()

    talk(server, f"/record/{token}", conversation)
    events = wait_until(lambda: server.events(token), what="end of the connection")
    assert events in (["closed 1005"], ["closed 1006"])


def test_a_hundred_at_once(server: UvicornProcess) -> None:
    async def main() -> None:
        all_open = asyncio.Barrier(CONNECTIONS)
        slots = asyncio.Semaphore(20)

        async def one(number: int) -> None:
            async with slots:
                websocket = await connect(uri(server, "/echo"), ssl=server.tls, open_timeout=60)
            async with websocket:
                async with all_open:
                    pass
                await echoes(*[f"{number} {index}" for index in range(MESSAGES)])(websocket)

        async with asyncio.TaskGroup() as group:
            for number in range(CONNECTIONS):
                group.create_task(one(number))

    run_stock(main())
