"""What a loop no longer needs is freed, cycles included."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from .support.loops import new_event_loop, run_on_loop, wait_until_async


class Owner:
    """Keeps its own handle, whose callback is its own method: a cycle through the handle."""

    def __init__(self) -> None:
        self.handle: asyncio.Handle | None = None

    def callback(self, *_args: object) -> None:
        pass


@contextmanager
def only_explicit_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def assert_freed(references: list[weakref.ref[Any]], what: str) -> None:
    assert references
    gc.collect()
    alive = [reference() for reference in references if reference() is not None]
    held_by = [type(holder) for holder in gc.get_referrers(*alive)] if alive else []
    assert not alive, f"{len(alive)} of {len(references)} alive: {what}, held by {held_by}"


async def iterations(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


SCHEDULE: dict[str, Callable[[asyncio.AbstractEventLoop, Owner], asyncio.Handle]] = {
    "call_soon": lambda loop, owner: loop.call_soon(owner.callback),
    "call_soon with arguments": lambda loop, owner: loop.call_soon(owner.callback, owner, owner),
    "call_soon_threadsafe": lambda loop, owner: loop.call_soon_threadsafe(owner.callback, owner),
    "call_later": lambda loop, owner: loop.call_later(0.001, owner.callback, owner),
    "call_at": lambda loop, owner: loop.call_at(loop.time(), owner.callback, owner),
}


@pytest.mark.parametrize("name", SCHEDULE)
def test_cycle_through_a_handle_that_ran(name: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        references = []
        with only_explicit_collection():
            for _ in range(100):
                owner = Owner()
                owner.handle = SCHEDULE[name](loop, owner)
                references.append(weakref.ref(owner))
                del owner
            await asyncio.sleep(0.02)
            assert_freed(references, name)

    run_on_loop(main())


@pytest.mark.parametrize("delay", [0, 3600])
def test_cycle_through_a_cancelled_handle(delay: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        references = []
        with only_explicit_collection():
            for _ in range(300):
                owner = Owner()
                owner.handle = loop.call_later(delay, owner.callback, owner)
                owner.handle.cancel()
                references.append(weakref.ref(owner))
                del owner
            await iterations()
            assert_freed(references, "cancelled timer")

    run_on_loop(main())


def test_cycle_with_the_loop_itself() -> None:
    """A loop that is closed with work left, and owned by that work, goes away with it."""

    def make() -> list[weakref.ref[Any]]:
        loop = new_event_loop()
        owner = Owner()
        owner.loop = loop  # type: ignore[attr-defined]
        owner.handle = loop.call_later(3600, owner.callback)
        loop.call_soon(owner.callback)
        loop.run_until_complete(asyncio.sleep(0))
        loop.call_soon(owner.callback)
        loop.set_exception_handler(owner.callback)
        loop.close()
        return [weakref.ref(owner), weakref.ref(loop)]

    with only_explicit_collection():
        assert_freed(make(), "closed loop")


class Keeper(asyncio.Protocol):
    """Keeps its transport, which keeps it: a cycle through both."""

    references: list[weakref.ref[Any]]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.write = transport.write  # type: ignore[attr-defined]
        self.references += [weakref.ref(self), weakref.ref(transport)]

    def data_received(self, data: bytes) -> None:
        self.write(data)


class BufferedKeeper(asyncio.BufferedProtocol):
    references: list[weakref.ref[Any]]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = bytearray(1024)
        self.references += [weakref.ref(self), weakref.ref(transport)]

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.buffer[:nbytes]))  # type: ignore[attr-defined]


@pytest.mark.parametrize("base", [Keeper, BufferedKeeper])
@pytest.mark.parametrize("ends", ["client closes", "server closes", "server aborts", "reset"])
def test_cycle_of_transport_and_protocol(base: type[Keeper], ends: str) -> None:
    lost = 0

    class Protocol(base):  # type: ignore[misc, valid-type]
        references: list[weakref.ref[Any]] = []

        def connection_lost(self, exc: Exception | None) -> None:
            nonlocal lost
            lost += 1

    def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if ends == "client closes":
            writer.close()
        elif ends == "reset":
            writer.transport.abort()
        else:
            for reference in Protocol.references[1::2]:
                transport = reference()
                if transport is not None and not transport.is_closing():
                    transport.close() if ends == "server closes" else transport.abort()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Protocol, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with only_explicit_collection():
                for _ in range(20):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(b"message")
                    assert await reader.readexactly(7) == b"message"
                    end(reader, writer)
                    writer.close()
                await wait_until_async(lambda: lost == 20)
                del reader, writer
                await iterations()
                assert len(Protocol.references) == 40
                assert_freed(Protocol.references, ends)

    run_on_loop(main())


def test_open_transports_of_a_closed_loop() -> None:
    """A loop closed under open connections keeps neither them nor their sockets."""

    def make() -> list[weakref.ref[Any]]:
        loop = new_event_loop()
        ours, theirs = socket.socketpair()
        references: list[weakref.ref[Any]] = []

        class Protocol(Keeper):
            pass

        Protocol.references = references
        transport, protocol = loop.run_until_complete(
            loop.create_connection(Protocol, sock=ours)  # type: ignore[arg-type]
        )
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0))
        theirs.close()
        loop.close()
        return [*references, weakref.ref(loop)]

    with only_explicit_collection():
        assert_freed(make(), "transport of a closed loop")


def test_cycle_through_readers_and_writers() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        references = []
        with only_explicit_collection():
            for _ in range(50):
                ours, theirs = socket.socketpair()
                owner = Owner()
                owner.sock = ours  # type: ignore[attr-defined]
                ours.setblocking(False)
                loop.add_reader(ours, owner.callback, owner)
                loop.add_writer(ours, owner.callback, owner)
                await asyncio.sleep(0)
                loop.remove_reader(ours)
                loop.remove_writer(ours)
                ours.close()
                theirs.close()
                references.append(weakref.ref(owner))
                del owner, ours
            await iterations()
            assert_freed(references, "removed reader and writer")

    run_on_loop(main())


def test_cancelled_timers_do_not_pile_up() -> None:
    """The callbacks of cancelled timers go at once, not when their time has come."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gc.collect()
        before = len(gc.get_objects())
        for _ in range(200):
            for _ in range(100):
                owner = Owner()
                loop.call_later(3600, owner.callback, owner).cancel()
                del owner
            await asyncio.sleep(0)
        gc.collect()
        # A heap may keep as many cancelled handles as it takes to make a clean-up worth it.
        assert len(gc.get_objects()) - before < 1_000

    run_on_loop(main())


def test_protocols_retrieve_before_their_futures_complain() -> None:
    """A handled reset is not reported when the streams go, in a cycle with their exception."""

    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionResetError):
            while data := await reader.read(100):
                writer.write(data)
        writer.close()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reports: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: reports.append(context))
        with only_explicit_collection(), socket.create_server(("127.0.0.1", 0)) as listener:
            for _ in range(20):
                theirs = socket.create_connection(listener.getsockname())
                theirs.setblocking(False)
                ours, _ = listener.accept()
                using = loop.create_task(use(*await asyncio.open_connection(sock=ours)))
                for _ in range(5):
                    await loop.sock_sendall(theirs, b"data")
                    assert await loop.sock_recv(theirs, 100) == b"data"
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                theirs.close()
                await using
                await iterations()
                del using
                gc.collect()
        assert reports == []

    run_on_loop(main())
