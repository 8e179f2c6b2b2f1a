"""Scenarios for a process of their own: a decorator, a runner, and tools that they share."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

CASES: dict[str, Callable[[], object]] = {}
TIMEOUT = 200.0


def new_event_loop() -> asyncio.AbstractEventLoop:
    module = importlib.import_module(os.environ["HYBRIDLOOP_TEST_LOOP"])
    loop: asyncio.AbstractEventLoop = module.new_event_loop()
    return loop


def case(function: Callable[[], object]) -> Callable[[], object]:
    """A scenario that makes its own loop."""
    CASES[function.__name__] = function
    return function


def async_case(
    function: Callable[[Errors], Coroutine[Any, Any, None]],
) -> Callable[[Errors], Coroutine[Any, Any, None]]:
    """A scenario on the loop under test; it checks the contexts of the exception handler."""

    def run() -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            errors = Errors()
            runner.get_loop().set_exception_handler(errors.handle)
            runner.run(asyncio.wait_for(function(errors), TIMEOUT))

    CASES[function.__name__] = run
    return function


class Errors:
    """The contexts of the exception handler."""

    def __init__(self) -> None:
        self.contexts: list[dict[str, Any]] = []

    def handle(self, _loop: object, context: dict[str, Any]) -> None:
        self.contexts.append(context)

    def forget_all(self) -> None:
        """Keep no exceptions, whose tracebacks hold sockets that asyncio leaves to be freed."""
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)

    def of(self, kind: type[BaseException]) -> list[dict[str, Any]]:
        return [each for each in self.contexts if type(each.get("exception")) is kind]

    async def wait_for(self, kind: type[BaseException], count: int = 1) -> None:
        await until(lambda: len(self.of(kind)) >= count)
        assert len(self.of(kind)) == count, self.contexts


class Expected(Exception):
    """The error that a scenario raises on purpose."""


class Recorder(asyncio.Protocol):
    """Echoes, and keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.lost: list[BaseException | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.calls.append("data")
        self.transport.write(data)

    def eof_received(self) -> bool | None:
        self.calls.append("eof")
        return None

    def connection_lost(self, exc: BaseException | None) -> None:
        self.calls.append("lost")
        self.lost.append(exc)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(TIMEOUT / 2):
        while not condition():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(factory: Callable[[], Any]) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class Client:
    """A blocking socket, used from threads so that the loop under test goes on."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT / 2)

    async def send(self, data: bytes) -> None:
        await asyncio.to_thread(self.sock.sendall, data)

    async def receive(self, length: int) -> bytes:
        def receive() -> bytes:
            data = b""
            while len(data) < length and (chunk := self.sock.recv(length - len(data))):
                data += chunk
            return data

        return await asyncio.to_thread(receive)

    async def ask(self, data: bytes) -> bytes:
        await self.send(data)
        return await self.receive(len(data))

    async def ended(self) -> bool:
        """Wait for the server to end the connection, be it by a reset."""

        def drain() -> bool:
            try:
                while self.sock.recv(65536):
                    pass
            except ConnectionError:
                pass
            return True

        return await asyncio.to_thread(drain)

    async def ended_after_collection(self) -> None:
        """Wait for the end, where asyncio leaves the socket to the garbage collector."""
        self.sock.setblocking(False)

        def at_end() -> bool:
            gc.collect()
            try:
                return self.sock.recv(1) == b""
            except BlockingIOError:
                return False
            except ConnectionError:
                return True

        await until(at_end)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


async def check_service(port: int, data: bytes = b"still served") -> None:
    """A new connection of the server echoes."""
    client = Client(port)
    assert await client.ask(data) == data
    client.close()


def main() -> None:
    CASES[sys.argv[1]]()
    print("end of scenario")
