"""Echo servers of every kind a loop offers, chosen by the first argument."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import sys

from control import Control, run_server

HEADER = b"HEAD" * 4


class Echo(asyncio.Protocol):
    """Writes back what it reads, at once."""

    live: set[Echo] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.live.add(self)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.live.discard(self)


class EchoInTwoParts(Echo):
    """Writes a header and a body apart, as HTTP servers do."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(HEADER)
        self.transport.write(data)


class EchoFromTask(Echo):
    """Writes from a task that the data wakes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.task = asyncio.get_running_loop().create_task(self.work())

    def data_received(self, data: bytes) -> None:
        self.queue.put_nowait(data)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.queue.put_nowait(None)

    async def work(self) -> None:
        while (data := await self.queue.get()) is not None:
            self.write(data)

    def write(self, data: bytes) -> None:
        self.transport.write(data)


class EchoInTwoPartsFromTask(EchoFromTask):
    def write(self, data: bytes) -> None:
        self.transport.write(HEADER)
        self.transport.write(data)


class Flood(Echo):
    """Answers anything with more than a socket takes at once."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"x" * (8 << 20))


class EchoFromBuffer(asyncio.BufferedProtocol):
    """Lets the loop read into its own buffer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.buffer = bytearray(65536)
        Echo.live.add(self)  # type: ignore[arg-type]

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.buffer[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        Echo.live.discard(self)  # type: ignore[arg-type]


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    STREAMS.add(writer)
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        STREAMS.discard(writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


class SocketServer:
    """Just enough of a server around `sock_accept`, `sock_recv` and `sock_sendall`."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.listener.setblocking(False)
        self.sockets = (self.listener,)
        self.loop = asyncio.get_running_loop()
        self.connections: dict[socket.socket, asyncio.Task[None]] = {}
        self.accepting = self.loop.create_task(self.accept())

    async def accept(self) -> None:
        while True:
            connection, _address = await self.loop.sock_accept(self.listener)
            self.connections[connection] = self.loop.create_task(self.echo(connection))

    async def echo(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := await self.loop.sock_recv(connection, 65536):
                    await self.loop.sock_sendall(connection, data)
            except ConnectionError:
                pass
            finally:
                self.connections.pop(connection, None)

    def close(self) -> None:
        self.accepting.cancel()
        self.listener.close()


PROTOCOLS: dict[str, type[asyncio.BaseProtocol]] = {
    "protocol": Echo,
    "protocol-two-parts": EchoInTwoParts,
    "task": EchoFromTask,
    "task-two-parts": EchoInTwoPartsFromTask,
    "buffered": EchoFromBuffer,
    "flood": Flood,
}

SOCKET_SERVERS: list[SocketServer] = []
STREAMS: set[asyncio.StreamWriter] = set()


async def start() -> asyncio.base_events.Server:
    kind = sys.argv[1]
    # However busy the machine is, what a callback writes is gathered.
    with contextlib.suppress(AttributeError):
        asyncio.get_running_loop().cork_interval = 60  # type: ignore[attr-defined]
    if kind == "sockets":
        SOCKET_SERVERS.append(SocketServer())
        return SOCKET_SERVERS[0]  # type: ignore[return-value]
    if kind == "streams":
        return await asyncio.start_server(echo_stream, "127.0.0.1", 0, backlog=512)
    loop = asyncio.get_running_loop()
    return await loop.create_server(PROTOCOLS[kind], "127.0.0.1", 0, backlog=512)


def connection_fds() -> list[int]:
    """Descriptors of the connections that are open now, for the reader of a system call trace."""
    if SOCKET_SERVERS:
        return [connection.fileno() for connection in SOCKET_SERVERS[0].connections]
    transports = [owner.transport for owner in (*Echo.live, *STREAMS)]
    return [transport.get_extra_info("socket").fileno() for transport in transports]


def buffered() -> int:
    """Bytes that wait for their sockets."""
    return sum(protocol.transport.get_write_buffer_size() for protocol in Echo.live)


def limit_fds(spare: str) -> int:
    """Allow `spare` more descriptors than are open now."""
    highest = max(fd for fd in range(4096) if is_open(fd))
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + int(spare), hard))
    return highest


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    commands = {"connection_fds": connection_fds, "limit_fds": limit_fds, "buffered": buffered}
    run_server(start, Control(), **commands)
