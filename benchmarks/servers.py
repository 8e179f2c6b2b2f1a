"""The servers under test: ``python -m benchmarks.servers KIND --loop NAME``.

Each listens on a free port of 127.0.0.1 or on a Unix socket, prints its address, such as
``{"address": "tcp:127.0.0.1:8000"}``, and serves until it is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import floor
from benchmarks.loops import FLOOR, LIMIT, LOOPS, OWN_STREAMS, loop_factory, loop_of

# Below glibc's mmap threshold: a larger bytes object per read would cost two system calls.
READ_SIZE = 64 * 1024
BUFFER_SIZE = 256 * 1024
HEADER_SIZE = 64
LARGE_BLOCK = 4 * 1024 * 1024
BACKLOG = 1024
# Room for a datagram of each of a hundred clients; the kernel's default holds about ninety.
DATAGRAM_BUFFER = 1024 * 1024

# Names of the files that hold the certificate of the TLS servers and its key.
CERTIFICATE = "certificate.pem"
KEY = "key.pem"


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


class EchoDatagramProtocol(asyncio.DatagramProtocol):
    """Sends back each datagram to where it came from."""

    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


@dataclass(frozen=True)
class Endpoint:
    """What a server is given: a bound socket, and a TLS context if it is to speak TLS."""

    socket: socket.socket
    tls: ssl.SSLContext | None


Serve = Callable[[Endpoint], Awaitable[object]]


def protocol_server(factory: Callable[[], asyncio.BaseProtocol]) -> Serve:
    async def serve(at: Endpoint) -> object:
        loop = asyncio.get_running_loop()
        return await loop.create_server(factory, sock=at.socket, ssl=at.tls, backlog=BACKLOG)

    return serve


async def serve_unix(at: Endpoint) -> object:
    loop = asyncio.get_running_loop()
    return await loop.create_unix_server(EchoProtocol, sock=at.socket, backlog=BACKLOG)


async def serve_datagrams(at: Endpoint) -> object:
    loop = asyncio.get_running_loop()
    return await loop.create_datagram_endpoint(EchoDatagramProtocol, sock=at.socket)


async def echo_stream(reader: Any, writer: Any) -> None:
    """Echo between streams, asyncio's or others that work the same."""
    try:
        while data := await reader.read(READ_SIZE):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def serve_streams(at: Endpoint) -> object:
    return await asyncio.start_server(echo_stream, sock=at.socket, ssl=at.tls, backlog=BACKLOG)


async def serve_own_streams(at: Endpoint) -> object:
    import hybridloop

    start_server = getattr(hybridloop, "start_server", None)
    if start_server is None:
        raise NotImplementedError("hybridloop.start_server() is not available")
    return await start_server(echo_stream, sock=at.socket, ssl=at.tls, backlog=BACKLOG)


async def serve_sock(at: Endpoint) -> object:
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
            client, _ = await loop.sock_accept(at.socket)
            task = loop.create_task(echo(client))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    return loop.create_task(accept())


async def serve_uvicorn(at: Endpoint) -> object:
    import uvicorn

    async def hello(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"Hello, world!"})

    config = uvicorn.Config(
        hello, http="httptools", lifespan="off", log_level="error", access_log=False
    )
    server = uvicorn.Server(config)
    return asyncio.get_running_loop().create_task(server.serve(sockets=[at.socket]))


async def serve_aiohttp(at: Endpoint) -> object:
    from aiohttp import web

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="Hello, world!")

    application = web.Application()
    application.router.add_get("/", hello)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.SockSite(runner, at.socket, backlog=BACKLOG).start()
    return runner


@dataclass(frozen=True)
class Server:
    """A kind of server: how it serves, and what it speaks: tcp, tls, udp or unix."""

    serve: Serve
    scheme: str = "tcp"


SERVERS = {
    "protocol": Server(protocol_server(EchoProtocol)),
    "two-writes": Server(protocol_server(TwoWritesProtocol)),
    "task": Server(protocol_server(TaskProtocol)),
    "task-two-writes": Server(protocol_server(TwoWritesTaskProtocol)),
    "buffered": Server(protocol_server(EchoBufferedProtocol)),
    "streams": Server(serve_streams),
    "hl-streams": Server(serve_own_streams),
    "sock": Server(serve_sock),
    "unix": Server(serve_unix, "unix"),
    "udp": Server(serve_datagrams, "udp"),
    "tls": Server(protocol_server(EchoProtocol), "tls"),
    "tls-streams": Server(serve_streams, "tls"),
    "tls-hl-streams": Server(serve_own_streams, "tls"),
    "uvicorn": Server(serve_uvicorn),
    "aiohttp": Server(serve_aiohttp),
}
HTTP_KINDS = ("uvicorn", "aiohttp")
ECHO_KINDS = [kind for kind in SERVERS if kind not in HTTP_KINDS]

# Server kinds on asyncio's streams → the same on hybridloop's own.
ON_OWN_STREAMS = {"streams": "hl-streams", "tls-streams": "tls-hl-streams"}


def runs(kind: str, column: str) -> bool:
    """Whether a kind of server makes sense on a loop, a variant or a reference."""
    if column == OWN_STREAMS:
        return kind in ON_OWN_STREAMS
    if column == FLOOR:
        return kind in ("protocol", "unix")
    if column == LIMIT:
        return kind in ("protocol", "unix", "udp", "tls")
    return loop_of(column) in LOOPS


def listen(scheme: str, path: Path) -> socket.socket:
    """Return a bound socket; the path is for Unix sockets."""
    if scheme == "unix":
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
    elif scheme == "udp":
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DATAGRAM_BUFFER)
        listener.bind(("127.0.0.1", 0))
    else:
        # asyncio sets TCP_NODELAY only on sockets that name their protocol.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
    if listener.type == socket.SOCK_STREAM:
        listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def tls_context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    return context


def address_of(scheme: str, listener: socket.socket) -> str:
    name = listener.getsockname()
    return f"{scheme}:{name}" if scheme == "unix" else f"{scheme}:{name[0]}:{name[1]}"


def settle_allocator() -> None:
    """Free one large block, as most programs have done before they serve.

    Until then glibc maps and unmaps every block of 128 KiB or more by itself, and loops that read
    into a new 256 KiB buffer pay three more system calls per read.
    """
    block = bytearray(LARGE_BLOCK)
    del block


def announce(address: str) -> None:
    print(json.dumps({"address": address}), flush=True)


async def serve_forever(server: Server, at: Endpoint) -> None:
    address = address_of(server.scheme, at.socket)  # now: some loops detach the socket
    running = await server.serve(at)
    announce(address)
    # A server that is a task ends only by failing; others run in the loop's background.
    await (running if isinstance(running, asyncio.Future) else asyncio.Event().wait())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=SERVERS)
    parser.add_argument("--loop", choices=[*LOOPS, FLOOR], default="asyncio")
    parser.add_argument("--path", type=Path, help="of the Unix socket")
    parser.add_argument("--certificate", type=Path, help="folder of the TLS certificate and key")
    arguments = parser.parse_args()
    server = SERVERS[arguments.kind]
    if server.scheme == "unix" and arguments.path is None:
        parser.error("--path is needed")
    if server.scheme == "tls" and arguments.certificate is None:
        parser.error("--certificate is needed")
    settle_allocator()
    # First: a loop may look at how TLS contexts are made.
    factory = None if arguments.loop == FLOOR else loop_factory(arguments.loop)
    tls = tls_context(arguments.certificate) if server.scheme == "tls" else None
    with listen(server.scheme, arguments.path) as listener:
        if factory is None:
            announce(address_of(server.scheme, listener))
            floor.load().serve(listener.fileno(), EchoProtocol)
        else:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(serve_forever(server, Endpoint(listener, tls)))


if __name__ == "__main__":
    main()
