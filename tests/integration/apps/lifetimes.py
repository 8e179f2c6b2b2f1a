"""Transports that end while others end, and run Python code meanwhile.

Descriptors and base classes are found by private names.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from scenario import CASES, case, main, new_event_loop

__all__ = ["CASES"]

ROUNDS = 10


class Filler:
    """Uses memory that was freed just now for something else."""

    used: list[bytes] = []

    def __del__(self) -> None:
        for size in range(64, 1024, 16):
            self.used += [bytes(size) for _ in range(8)]


class Keeper(asyncio.Protocol):
    """Keeps whatever it is given, as a proxy keeps the transport of the other side."""

    def __init__(self) -> None:
        self.kept: Any = None
        # Goes away after what is kept.
        self.filler = Filler()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        pass


async def connect(peers: list[socket.socket], kept: Any = None) -> tuple[Any, Keeper]:
    """A stream whose protocol keeps something; its peer stays open in `peers`."""
    ours, theirs = socket.socketpair()
    peers.append(theirs)
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_accepted_socket(Keeper, ours)
    protocol.kept = kept
    return transport, protocol


async def connect_datagram(kept: Any = None) -> Any:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Keeper, ("127.0.0.1", 0))
    protocol.kept = kept
    return transport


async def paused(peers: list[socket.socket], kept: Any = None) -> Any:
    """A stream that the loop does not hold: nothing is read and nothing is to be sent."""
    transport, _ = await connect(peers, kept)
    transport.pause_reading()
    return transport


async def proxies(peers: list[socket.socket]) -> None:
    for _ in range(3):
        # What is opened first, and what is opened last, is held by the other.
        held = await paused(peers)
        await connect(peers, held)
        _, protocol = await connect(peers)
        protocol.kept = await paused(peers, await paused(peers))


async def datagram_transports(peers: list[socket.socket]) -> None:
    for _ in range(3):
        await connect_datagram(await paused(peers))
        await connect(peers, await connect_datagram())


async def servers(peers: list[socket.socket]) -> None:
    loop = asyncio.get_running_loop()

    class Factory:
        kept: Any = None

        def __call__(self) -> asyncio.Protocol:
            return asyncio.Protocol()

    factory = Factory()
    factory.kept = await paused(peers)
    await loop.create_server(factory, "127.0.0.1", 0)
    # A reader, and a call that waits for a socket.
    ours, theirs = socket.socketpair()
    peers += [ours, theirs]
    loop.add_reader(ours, factory.__call__, await paused(peers))


PROXIES = [proxies, datagram_transports, servers]


@case
def closing_a_loop_ends_what_transports_hold() -> None:
    for _ in range(ROUNDS):
        for proxy in PROXIES:
            peers: list[socket.socket] = []
            loop = new_event_loop()
            loop.run_until_complete(proxy(peers))
            loop.close()
            gc.collect()
            Filler.used.clear()
            for peer in peers:
                peer.close()


@case
def collecting_a_loop_ends_what_transports_hold() -> None:
    for _ in range(ROUNDS):
        for proxy in PROXIES:
            peers: list[socket.socket] = []
            loop = new_event_loop()
            loop.run_until_complete(proxy(peers))
            del loop
            gc.collect()
            Filler.used.clear()
            for peer in peers:
                peer.close()


class Look:
    """Looks for a descriptor's transport when it goes away."""

    __slots__ = ("fd", "loop")

    def __init__(self, loop: Any, fd: int) -> None:
        self.loop, self.fd = loop, fd

    def __del__(self) -> None:
        look(self.loop, self.fd)


def look(loop: Any, fd: int) -> None:
    # The descriptor is closed, or its transport is gone or still there: all that is fine.
    with suppress(OSError, RuntimeError, ValueError):
        loop.add_reader(fd, print)
    with suppress(OSError, RuntimeError, ValueError):
        loop.remove_reader(fd)
    with suppress(AttributeError):
        loop.stats()


@contextmanager
def without_finalizer(cls: Any) -> Iterator[None]:
    """Somebody's `__del__()` that does nothing stands in the place of the class's."""
    own = cls.__dict__.get("__del__")
    cls.__del__ = lambda _self: None
    try:
        yield
    finally:
        if own is None:
            del cls.__del__
        else:
            cls.__del__ = own


async def dying(make: Callable[[list[socket.socket]], Any]) -> None:
    loop = asyncio.get_running_loop()
    for asked in True, False:
        for finalizer in True, False:
            peers: list[socket.socket] = []
            transport = await make(peers)
            fd = transport._sock_fd
            if asked:
                transport.get_extra_info("socket")
            reference = weakref.ref(transport, lambda _, fd=fd: look(loop, fd))
            transport.note = Look(loop, fd)
            transport.get_protocol().kept = Look(loop, fd)
            await asyncio.sleep(0)
            if finalizer:
                del transport
            else:
                with without_finalizer(type(transport)):
                    del transport
            gc.collect()
            assert reference() is None
            await asyncio.sleep(0)
            for peer in peers:
                peer.close()


async def paused_datagrams(peers: list[socket.socket]) -> Any:
    """A datagram socket that the loop does not hold."""
    transport = await connect_datagram()
    if hasattr(transport, "pause_reading"):
        transport.pause_reading()
    return transport


def run_dying() -> None:
    for make in paused, paused_datagrams:
        loop = new_event_loop()
        loop.run_until_complete(dying(make))
        loop.close()


@case
def dying_transports_are_not_found() -> None:
    run_dying()


@case
def dying_transports_are_not_found_when_warnings_are_errors() -> None:
    sys.unraisablehook = lambda _: None
    warnings.simplefilter("error", ResourceWarning)
    run_dying()


@case
def transports_whose_end_python_puts_off_are_not_found() -> None:
    # Python ends deeply nested objects one after another, and runs others' code meanwhile: it
    # begins with that at a depth of 50, or of 10,000 in Python 3.13.
    depths = {*range(30, 70), *range(9900, 10010)}

    async def nest(peers: list[socket.socket]) -> Any:
        loop = asyncio.get_running_loop()
        chain: Any = None
        for depth in reversed(range(10_100)):
            chain = [chain]
            if depth in depths:
                # A list ends its items from the last to the first.
                transport = await paused(peers)
                chain += [Look(loop, transport._sock_fd), transport]
        return chain

    peers: list[socket.socket] = []
    loop = new_event_loop()
    chain = loop.run_until_complete(nest(peers))
    del chain
    gc.collect()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    for peer in peers:
        peer.close()


@case
def slots_of_the_base_classes_hold_any_object() -> None:
    # The words that asyncio's own transports use are nothing to ours.
    slots = [
        asyncio.BaseTransport.__dict__["_extra"],
        *(
            slot
            for name, slot in vars(asyncio.transports._FlowControlMixin).items()  # type: ignore[attr-defined]
            if type(slot).__name__ == "member_descriptor"
        ),
    ]
    assert len(slots) == 5

    class Big:
        def __init__(self) -> None:
            self.kept: Any = None

    async def check(transport: Any) -> None:
        protocol = transport.get_protocol()
        objects = []
        for slot in slots:
            value = Big()
            value.kept = transport
            objects.append(weakref.ref(value))
            slot.__set__(transport, value)
        del value
        gc.collect()
        assert transport.get_protocol() is protocol
        assert not transport.is_closing()
        transport.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del transport, protocol
        gc.collect()
        assert [each() for each in objects] == [None] * len(slots)

    async def run() -> None:
        peers: list[socket.socket] = []
        if not hasattr(asyncio.get_running_loop(), "stats"):
            # In asyncio these are the attributes.
            return
        await check(await paused(peers))
        await check(await connect_datagram())
        for peer in peers:
            peer.close()

    loop = new_event_loop()
    loop.run_until_complete(run())
    loop.close()


if __name__ == "__main__":
    main()
