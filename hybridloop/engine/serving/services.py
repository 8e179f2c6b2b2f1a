"""What accepts connections on one thread: a server for protocols."""

from __future__ import annotations

import asyncio
import socket
import sys
import weakref
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

# What transports have to send out what is buffered, and then to tell their protocols that they
# are closed.
_FLUSH_TIME = 1.0


class Service:
    """Serves on one thread; its coroutine `run()` ends when `stop()` was called and all is closed.

    Cancelling it ends the connections at once.
    """

    def __init__(self, sockets: Sequence[socket.socket], graceful_timeout: float | None) -> None:
        self.sockets = sockets
        self.graceful_timeout = graceful_timeout
        # Done when connections are accepted, or when that has failed.
        self.started: Future[None] = Future()

    async def run(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """Accept no more connections and let those there are end; on the loop's thread."""
        raise NotImplementedError

    def open_transports(self) -> list[asyncio.Transport]:
        """Those of the connections that are open; from any thread."""
        raise NotImplementedError

    def connections(self) -> int:
        """How many connections are open."""
        return len(self.open_transports())

    def disconnect(self) -> None:
        """Let clients know that the loop has failed: nothing else would ever tell them."""
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
        """Called in whichever thread ends it."""
        with suppress(InvalidStateError):
            self.started.set_exception(error or RuntimeError("the server did not start"))


class ProtocolService(Service):
    """Gives each connection a protocol, as `loop.create_server()` does."""

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
        # Weak, so that transports that nobody holds are found out as usual.
        self.transports: set[weakref.ref[asyncio.Transport]] = set()
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        servers: list[asyncio.Server] = []
        try:
            for sock in self.sockets:
                servers.append(await loop.create_server(self._make, sock=sock, **self.options))
            self.set_started()
            await self.stopped.wait()
            for server in servers:
                server.close()
            await _gather_within(self.graceful_timeout, map(_wait_connections_closed, servers))
            for transport in self.open_transports():
                transport.close()
            await _gather_within(_FLUSH_TIME, map(_wait_connections_closed, servers))
        except GeneratorExit:
            # The loop has failed, and all that is on it with it.
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
        # The list is made at one go: the loop's thread may be adding and removing.
        transports = [reference() for reference in list(self.transports)]
        return [it for it in transports if it is not None and not it.is_closing()]

    def _make(self) -> _TransportTracker:
        return _TransportTracker(self.factory(), self._keep)

    def _keep(self, transport: asyncio.Transport) -> None:
        self.transports.add(weakref.ref(transport, self.transports.discard))


class _TransportTracker(asyncio.Protocol):
    """Keeps the transport of a new connection, and steps aside for the protocol it is for."""

    __slots__ = ("keep", "protocol")

    def __init__(
        self, protocol: asyncio.BaseProtocol, keep: Callable[[asyncio.Transport], None]
    ) -> None:
        self.protocol = protocol
        self.keep = keep

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.keep(transport)
        transport.set_protocol(self.protocol)
        self.protocol.connection_made(transport)


async def _wait_connections_closed(server: asyncio.Server) -> None:
    """Wait until the last connection of a closed server has ended."""
    if sys.version_info >= (3, 12):
        await server.wait_closed()
    # There it waits for nothing: the server tells of its last connection by itself.
    elif (waiters := vars(server)["_waiters"]) is not None and vars(server)["_active_count"]:
        waiter = asyncio.get_running_loop().create_future()
        waiters.append(waiter)
        await waiter


async def _gather_within(timeout: float | None, waits: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all, but no longer than `timeout`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await asyncio.gather(*waits)
