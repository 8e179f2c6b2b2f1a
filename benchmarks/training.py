"""What an optimised build of the extension is trained with; ``make wheel-pgo`` runs it.

Everything that is hot in a program, on one loop: echoes of all kinds, callbacks, timers, tasks,
other threads, kernels. It needs nothing but hybridloop, which must be installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import ssl
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import hybridloop

SIZES = (64, 1024, 10 * 1024, 100 * 1024)
ROUNDS = 300
CONNECTIONS = 8
CALLBACKS = 20_000


class Echo(asyncio.Protocol):
    """Sends back what it receives."""

    transport: Any

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class BufferedEcho(asyncio.BufferedProtocol):
    """Sends back what it receives into its own buffer."""

    transport: Any

    def __init__(self) -> None:
        self.buffer = bytearray(256 * 1024)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(memoryview(self.buffer)[:nbytes]))


async def echo_stream(reader: Any, writer: Any) -> None:
    """Echo between streams, asyncio's or hybridloop's."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(256 * 1024):
            writer.write(data)
            await writer.drain()
    writer.close()


async def echo_lines(reader: Any, writer: Any) -> None:
    """Echo lines, in two writes."""
    with contextlib.suppress(ConnectionError):
        while line := await reader.readline():
            writer.write(line[:-1])
            writer.write(b"\n")
            await writer.drain()
    writer.close()


async def exchange(connect: Callable[[], Any], size: int, rounds: int) -> None:
    """One client of asyncio's streams, or of hybridloop's."""
    reader, writer = await connect()
    message = bytes(size - 1) + b"\n"
    for _ in range(rounds):
        writer.write(message)
        await writer.drain()
        if await reader.readexactly(size) != message:
            raise AssertionError("the echo is another message")
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def exchange_all(connect: Callable[[], Any], sizes: tuple[int, ...] = SIZES) -> None:
    for size in sizes:
        rounds = ROUNDS if size <= 1024 else ROUNDS // 5
        await asyncio.gather(*(exchange(connect, size, rounds) for _ in range(CONNECTIONS)))


def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context and a client's, without certificates."""
    contexts = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    for context in contexts:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AECDH:@SECLEVEL=0")
    return contexts


@contextlib.asynccontextmanager
async def closing(server: asyncio.Server) -> AsyncIterator[Any]:
    """Close a server at the end. The value is its address."""
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()


async def train_streams() -> None:
    loop = asyncio.get_running_loop()
    kinds = ((asyncio, asyncio.start_server), (hybridloop, hybridloop.start_server))
    for factory in (Echo, BufferedEcho):
        async with closing(await loop.create_server(factory, "127.0.0.1", 0)) as address:
            for module, _ in kinds:
                await exchange_all(lambda: module.open_connection(*address))  # noqa: B023
    for echo in (echo_stream, echo_lines):
        for module, start in kinds:
            async with closing(await start(echo, "127.0.0.1", 0, limit=2**18)) as address:
                await exchange_all(lambda: module.open_connection(*address, limit=2**18))  # noqa: B023
    server_side, client_side = tls_contexts()
    for module, start in kinds:
        async with closing(await start(echo_stream, "127.0.0.1", 0, ssl=server_side)) as address:
            await exchange_all(lambda: module.open_connection(*address, ssl=client_side))  # noqa: B023
    async with closing(await loop.create_server(Echo, "127.0.0.1", 0, ssl=server_side)) as address:
        await exchange_all(lambda: asyncio.open_connection(*address, ssl=client_side))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "socket")
        async with closing(await loop.create_unix_server(Echo, path)):
            await exchange_all(lambda: asyncio.open_unix_connection(path))


async def train_connections() -> None:
    """Short connections."""
    loop = asyncio.get_running_loop()
    async with closing(await loop.create_server(Echo, "127.0.0.1", 0)) as address:
        for _ in range(ROUNDS):
            await exchange(lambda: asyncio.open_connection(*address), 64, 1)


async def train_sockets() -> None:
    """`sock_*` and datagrams."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        for size in SIZES:
            message, buffer = bytes(size), bytearray(size)
            for _ in range(ROUNDS):
                sending = asyncio.ensure_future(loop.sock_sendall(near, message))
                received = await loop.sock_recv(far, size)
                while len(received) < size:
                    received += await loop.sock_recv(far, size)
                await sending
                await loop.sock_sendall(far, b"x")
                await loop.sock_recv_into(near, buffer)

    class Datagrams(asyncio.DatagramProtocol):
        transport: Any

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data, addr)

    class Client(Datagrams):
        def __init__(self) -> None:
            self.got = asyncio.Event()

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.got.set()

    server, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
    transport, client = await loop.create_datagram_endpoint(
        Client, remote_addr=server.get_extra_info("sockname")
    )
    for _ in range(ROUNDS):
        transport.sendto(bytes(1024))
        await client.got.wait()
        client.got.clear()
    transport.close()
    server.close()


async def train_callbacks() -> None:
    """`call_soon()`, timers, tasks, futures, other threads."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = CALLBACKS

    def chain(*args: object) -> None:
        nonlocal left
        left -= 1
        if left > 0:
            loop.call_soon(chain, *args)
        elif not done.done():
            done.set_result(None)

    chain()
    await done
    context = contextvars.copy_context()
    for _ in range(CALLBACKS):
        loop.call_soon(len, b"")
        loop.call_soon(max, 1, 2, 3, context=context)
        loop.call_later(10, len, b"").cancel()
    await asyncio.sleep(0)
    for timer in [loop.call_later(10 + number % 7, len, b"") for number in range(CALLBACKS)]:
        timer.cancel()
    for number in range(CALLBACKS):
        loop.call_later(number / CALLBACKS / 100, len, b"")
    await asyncio.sleep(0.02)

    async def nothing() -> None:
        pass

    async def passing() -> None:
        await asyncio.sleep(0)

    await asyncio.gather(*(nothing() for _ in range(CALLBACKS)))
    await asyncio.gather(*(passing() for _ in range(CALLBACKS)))
    for _ in range(CALLBACKS // 10):
        await asyncio.create_task(passing())
        await asyncio.wait_for(passing(), 10)
        waiting = loop.create_future()
        loop.call_soon(waiting.set_result, None)
        await waiting

    def call() -> None:
        for _ in range(CALLBACKS):
            loop.call_soon_threadsafe(len, b"")

    thread = threading.Thread(target=call)
    thread.start()
    await asyncio.to_thread(thread.join)
    for _ in range(ROUNDS):
        await loop.run_in_executor(None, len, b"")


async def train_kernels() -> None:
    """`run_native()`, batches, the bus and a channel."""
    loop: Any = asyncio.get_running_loop()
    data = bytes(4096)
    for _ in range(CALLBACKS // 10):
        await loop.run_native("hl.crc32", data)
    for _ in range(10):
        await loop.run_native_many("hl.crc32", [(data,)] * 500)
        jobs = [loop.run_native("hl.crc32", data) for _ in range(500)]
        await asyncio.gather(*jobs)
    for number in range(ROUNDS):
        loop.bus.push(f"key {number}", data)
        loop.bus.pop(f"key {number}")


def main() -> None:
    """Run everything, on a loop in the main thread."""

    async def train() -> None:
        await train_callbacks()
        await train_streams()
        await train_connections()
        await train_sockets()
        await train_kernels()

    hybridloop.run(train())
    for _ in range(ROUNDS):
        hybridloop.run(asyncio.sleep(0))


if __name__ == "__main__":
    main()
