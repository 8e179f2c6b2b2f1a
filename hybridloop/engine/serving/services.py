"""Serving a protocol on one thread."""

from __future__ import annotations

import asyncio
import socket
import sys
import weakref
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

# Seconds for closing transports to send their buffers and call connection_lost().
_FLUSH_TIME = 1.0


class Service:
    """Serves on one thread. `run()` ends after `stop()`, when all connections are closed.

    Cancelling `run()` aborts the connections.
    """

    def __init__(self, sockets: Sequence[socket.socket], graceful_timeout: float | None) -> None:
        self.sockets = sockets
        self.graceful_timeout = graceful_timeout
        # Done when connections are accepted, or the service has failed to start.
        self.started: Future[None] = Future()

    async def run(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """Accept no more connections, and close the open ones; in the thread of the loop."""
        raise NotImplementedError

    def open_transports(self) -> list[asyncio.Transport]:
        """The transports of open connections; in any thread."""
        raise NotImplementedError

    def connections(self) -> int:
        """The number of open connections."""
        return len(self.open_transports())

    def disconnect(self) -> None:
        """Shut down the sockets of a failed loop, which would otherwise stay open."""
        for transport in self.open_transports():
            sock = transport.get_extra_info("socket")
            if sock is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def is_serving(self) -> bool:
        return self.started.done() and self.started.exception() is None

    def set_started(self) -> None:
        with suppress(InvalidStateError):
            self.started.set_result(None)

    def close_sockets(self) -> None:
        for sock in self.sockets:
            sock.close()

    def set_ended(self, error: BaseException | None) -> None:
        """The service has ended; in any thread."""
        with suppress(InvalidStateError):
            self.started.set_exception(error or RuntimeError("the server did not start"))


class ProtocolService(Service):
    """Serves a protocol with `loop.create_server()`."""

    def __init__(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        sockets: Sequence[socket.socket],
        graceful_timeout: float | None,
        options: dict[str, Any],
    ) -> None:
        super().__init__(sockets, graceful_timeout)
        self.factory = factory
        self.options = options
        # Weak references: an unclosed transport is collected and reported as usual.
        self.transports: set[weakref.ref[asyncio.Transport]] = set()
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        servers: list[asyncio.Server] = []
        try:
            for sock in self.sockets:
                servers.append(
                    await loop.create_server(self._make_protocol, sock=sock, **self.options)
                )
            self.set_started()
            await self.stopped.wait()
            for server in servers:
                server.close()
            await _gather_within(self.graceful_timeout, map(_wait_connections_closed, servers))
            for transport in self.open_transports():
                transport.close()
            await _gather_within(_FLUSH_TIME, map(_wait_connections_closed, servers))
        except GeneratorExit:
            # The loop has failed: nothing can be awaited.
            raise
        except BaseException:
            await self._abort_now(servers)
            raise
        await self._abort_now(servers)

    async def _abort_now(self, servers: Sequence[asyncio.Server]) -> None:
        for server in servers:
            server.close()
        for transport in self.open_transports():
            transport.abort()
        await _gather_within(_FLUSH_TIME, map(_wait_connections_closed, servers))

    def stop(self) -> None:
        self.stopped.set()

    def open_transports(self) -> list[asyncio.Transport]:
        # list() is atomic: the thread of the loop may add and remove transports.
        transports = [reference() for reference in list(self.transports)]
        return [it for it in transports if it is not None and not it.is_closing()]

    def _make_protocol(self) -> _TransportTracker:
        return _TransportTracker(self.factory(), self._track)

    def _track(self, transport: asyncio.Transport) -> None:
        self.transports.add(weakref.ref(transport, self.transports.discard))


class _TransportTracker(asyncio.Protocol):
    """Registers the transport of a new connection, then switches to the connection's protocol."""

    __slots__ = ("protocol", "track")

    def __init__(
        self, protocol: asyncio.BaseProtocol, track: Callable[[asyncio.Transport], None]
    ) -> None:
        self.protocol = protocol
        self.track = track

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.track(transport)
        transport.set_protocol(self.protocol)
        self.protocol.connection_made(transport)


async def _wait_connections_closed(server: asyncio.Server) -> None:
    """Wait until all connections of a closed server have ended."""
    if sys.version_info >= (3, 12):
        await server.wait_closed()
    # wait_closed() of Python 3.11 does not wait; the server wakes its waiters after the last one.
    elif (waiters := vars(server)["_waiters"]) is not None and vars(server)["_active_count"]:
        waiter = asyncio.get_running_loop().create_future()
        waiters.append(waiter)
        await waiter


async def _gather_within(timeout: float | None, waits: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all, for at most `timeout` seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await asyncio.gather(*waits)
