"""The servers under test: ``python -m benchmarks.servers KIND --loop NAME``.

Each listens on a free port of 127.0.0.1, prints ``{"port": N}`` and serves until it is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import floor
from benchmarks.loops import FLOOR, LOOPS, loop_factory

# Below glibc's mmap threshold: a larger bytes object per read would cost two system calls.
READ_SIZE = 64 * 1024
BUFFER_SIZE = 256 * 1024
HEADER_SIZE = 64
LARGE_BLOCK = 4 * 1024 * 1024
BACKLOG = 1024


class EchoProtocol(asyncio.Protocol):
    """Sends back what arrives, in one write."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class TwoWritesProtocol(EchoProtocol):
    """Sends back what arrives in two writes, like a header and a body."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(data[:HEADER_SIZE])
        self.transport.write(data[HEADER_SIZE:])


class TaskProtocol(EchoProtocol):
    """Wakes a task of the connection, and the task writes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.received: asyncio.Queue[bytes] = asyncio.Queue()
        self.task = asyncio.get_running_loop().create_task(self.respond())

    def data_received(self, data: bytes) -> None:
        self.received.put_nowait(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.task.cancel()

    async def respond(self) -> None:
        while True:
            self.write(await self.received.get())

    def write(self, data: bytes) -> None:
        self.transport.write(data)


class TwoWritesTaskProtocol(TaskProtocol):
    """Wakes a task of the connection, and the task writes twice."""

    def write(self, data: bytes) -> None:
        self.transport.write(data[:HEADER_SIZE])
        self.transport.write(data[HEADER_SIZE:])


class EchoBufferedProtocol(asyncio.BufferedProtocol):
    """Sends back what arrives in a standing buffer."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.buffer = memoryview(bytearray(BUFFER_SIZE))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        # A copy: write() may keep what it is given, and the next read reuses the buffer.
        self.transport.write(bytes(self.buffer[:nbytes]))


Server = Callable[[socket.socket], Awaitable[object]]


def protocol_server(factory: Callable[[], asyncio.BaseProtocol]) -> Server:
    async def serve(listener: socket.socket) -> object:
        loop = asyncio.get_running_loop()
        return await loop.create_server(factory, sock=listener, backlog=BACKLOG)

    return serve


async def serve_streams(listener: socket.socket) -> object:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(READ_SIZE):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    return await asyncio.start_server(echo, sock=listener, backlog=BACKLOG)


async def serve_sock(listener: socket.socket) -> object:
    loop = asyncio.get_running_loop()
    tasks = set()

    async def echo(client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with client:
            try:
                while data := await loop.sock_recv(client, READ_SIZE):
                    await loop.sock_sendall(client, data)
            except ConnectionError:
                pass

    async def accept() -> None:
        while True:
            client, _ = await loop.sock_accept(listener)
            task = loop.create_task(echo(client))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    return loop.create_task(accept())


async def serve_uvicorn(listener: socket.socket) -> object:
    import uvicorn

    async def hello(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"Hello, world!"})

    config = uvicorn.Config(
        hello, http="httptools", lifespan="off", log_level="error", access_log=False
    )
    server = uvicorn.Server(config)
    return asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))


async def serve_aiohttp(listener: socket.socket) -> object:
    from aiohttp import web

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="Hello, world!")

    application = web.Application()
    application.router.add_get("/", hello)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener, backlog=BACKLOG).start()
    return runner


SERVERS: dict[str, Server] = {
    "protocol": protocol_server(EchoProtocol),
    "two-writes": protocol_server(TwoWritesProtocol),
    "task": protocol_server(TaskProtocol),
    "task-two-writes": protocol_server(TwoWritesTaskProtocol),
    "buffered": protocol_server(EchoBufferedProtocol),
    "streams": serve_streams,
    "sock": serve_sock,
    "uvicorn": serve_uvicorn,
    "aiohttp": serve_aiohttp,
}


def listen() -> socket.socket:
    # asyncio sets TCP_NODELAY only on sockets that name their protocol.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def settle_allocator() -> None:
    """Free one large block, as most programs have done before they serve.

    Until then glibc maps and unmaps every block of 128 KiB or more by itself, and loops that read
    into a new 256 KiB buffer pay three more system calls per read.
    """
    block = bytearray(LARGE_BLOCK)
    del block


def announce(port: int) -> None:
    print(json.dumps({"port": port}), flush=True)


async def serve_forever(server: Server, listener: socket.socket) -> None:
    port = listener.getsockname()[1]  # before the loop gets it: some detach the socket
    running = await server(listener)
    announce(port)
    # A server that is a task ends only by failing; others run in the loop's background.
    await (running if isinstance(running, asyncio.Future) else asyncio.Event().wait())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=SERVERS)
    parser.add_argument("--loop", choices=[*LOOPS, FLOOR], default="asyncio")
    arguments = parser.parse_args()
    settle_allocator()
    with listen() as listener:
        if arguments.loop == FLOOR:
            announce(listener.getsockname()[1])
            floor.load().serve(listener.fileno(), EchoProtocol)
        else:
            with asyncio.Runner(loop_factory=loop_factory(arguments.loop)) as runner:
                runner.run(serve_forever(SERVERS[arguments.kind], listener))


if __name__ == "__main__":
    main()
