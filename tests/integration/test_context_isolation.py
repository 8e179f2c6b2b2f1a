"""A context variable set on one connection is not seen on another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest

from .support.http import get
from .support.loops import run_on_loop, wait_until_async
from .support.uvicorn import UvicornProcess

TRACE: ContextVar[str | None] = ContextVar("trace", default=None)
CONNECTIONS = 20


@pytest.mark.parametrize("protocol", ["TracingHttpTools", "TracingH11"])
def test_uvicorn_with_instrumented_protocols(protocol: str) -> None:
    """Each connection names itself on its first data; requests see the name of their own."""
    with UvicornProcess(options=["--http", f"tracing_app:{protocol}"]) as server:
        connections = [server.connect() for _ in range(CONNECTIONS)]
        for _ in range(3):
            for connection in connections:
                connection.send(get("/context"))
            for connection in connections:
                answer = json.loads(connection.response().body)
                assert answer["client_port"] == connection.sock.getsockname()[1]
                assert answer["seen"] == f"port {answer['client_port']}"
        for connection in connections:
            connection.sock.close()
        server.stop()
        server.assert_clean_log()


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_uvicorn_application_leaves_values(http: str) -> None:
    """What the application sets while it answers one request is not there in the next."""
    with UvicornProcess(options=["--http", http]) as server:
        with server.connect() as first, server.connect() as second:
            for number in range(5):
                for connection in (first, second):
                    answer = json.loads(connection.request(get(f"/context/{number}")).body)
                    assert answer["seen"] is None
        server.stop()
        server.assert_clean_log()


class Tracing(asyncio.Protocol):
    """Reports what it saw before, then leaves what it got, in each kind of callback."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.at_start = TRACE.get()
        TRACE.set(f"made {transport.get_extra_info('peername')[1]}")

    def data_received(self, data: bytes) -> None:
        self.transport.write(json.dumps([self.at_start, TRACE.get()]).encode() + b"\n")
        TRACE.set(data.decode().strip())


@asynccontextmanager
async def serving(factory: Callable[[], asyncio.BaseProtocol]) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def ask(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], name: str) -> list[str]:
    reader, writer = streams
    writer.write(name.encode() + b"\n")
    seen: list[str] = json.loads(await reader.readline())
    return seen


def test_protocol_callbacks() -> None:
    async def main() -> None:
        TRACE.set("server")
        async with serving(Tracing) as port:
            connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
            ports = [writer.get_extra_info("sockname")[1] for _reader, writer in connections]
            for index in range(3):
                for number, streams in enumerate(connections):
                    at_start, seen = await ask(streams, f"{number} {index}")
                    assert at_start == "server"
                    first = ("server", f"made {ports[number]}")
                    assert seen == f"{number} {index - 1}" if index else seen in first
            for _reader, writer in connections:
                writer.close()
                await writer.wait_closed()
            assert TRACE.get() == "server"

    run_on_loop(main())


@pytest.mark.improves_on_asyncio
def test_one_context_for_all_callbacks_of_a_connection() -> None:
    """asyncio calls connection_made and data_received in two copies."""

    async def main() -> None:
        async with serving(Tracing) as port:
            streams = await asyncio.open_connection("127.0.0.1", port)
            own_port = streams[1].get_extra_info("sockname")[1]
            assert await ask(streams, "first") == [None, f"made {own_port}"]
            assert await ask(streams, "second") == [None, "first"]
            streams[1].close()
            await streams[1].wait_closed()

    run_on_loop(main())


def test_client_handlers_of_streams() -> None:
    finished: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(f"{TRACE.get()}\n".encode())
            TRACE.set(line.decode().strip())
        writer.close()
        await writer.wait_closed()
        finished.append(writer)

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
            for index in range(3):
                for number, (reader, writer) in enumerate(pairs):
                    writer.write(b"%d %d\n" % (number, index))
                    expected = f"{number} {index - 1}" if index else "None"
                    assert (await reader.readline()).decode().strip() == expected
            for _reader, writer in pairs:
                writer.close()
                await writer.wait_closed()
            await wait_until_async(lambda: len(finished) == len(pairs))

    run_on_loop(main())


def test_scheduled_callbacks() -> None:
    """A callback's change stays in the context it was given when it was added."""
    seen: list[str | None] = []

    def set_and_tell(name: str) -> None:
        seen.append(TRACE.get())
        TRACE.set(name)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        TRACE.set("task")
        for name in ("first", "second"):
            loop.call_soon(set_and_tell, name)
            loop.call_later(0, set_and_tell, name)
            loop.call_soon_threadsafe(set_and_tell, name)
        await asyncio.sleep(0.02)
        assert seen == ["task"] * 6
        assert TRACE.get() == "task"

    run_on_loop(main())
