"""Servers and clients whose protocols run in parallel threads."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
import weakref
from typing import TYPE_CHECKING, Any

from .connection_protocol import ConnectionOwner, ConnectionProtocol, call_threadsafe
from .protocol import Callbacks
from .runtime import Runtime, get_runtime
from .threads import enter_parallel, mode
from .transport import Connection, IoOp, Transport

if TYPE_CHECKING:
    from ..engine.task_handle import TaskHandle


def _resolve(host: Any, port: Any, flags: int) -> Any:
    if not isinstance(port, int):
        raise TypeError(f"port must be an int, not {port!r}")
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be 0-65535, not {port}")
    return socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)[0]


def _check_timeout(timeout: float | None) -> float:
    seconds = 0.0 if timeout is None else float(timeout)
    if not seconds >= 0:
        raise ValueError(f"timeout must be a number of seconds, not {timeout!r}")
    return seconds


# The servers that were registered.
_servers: weakref.WeakSet[Server] = weakref.WeakSet()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_servers.clear)


def registered_servers() -> list[Server]:
    """The registered servers of this process."""
    return list(_servers)


class _Listening:
    """The part of a server on one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.stop: asyncio.Future[None] = loop.create_future()
        self.connections: set[ConnectionProtocol] = set()
        self.idle: asyncio.Future[None] | None = None


def _set_protocol(owner: Server | Client, protocol: Any) -> None:
    if owner.protocol_class is not None:
        raise ValueError(f"{owner!r} has a protocol already")
    if not isinstance(protocol, type):
        raise ValueError(f"protocol must be a class, not {protocol!r}")
    owner.callbacks = Callbacks(protocol)
    if owner.callbacks.http11:
        # Raises ImportError now, and not for each connection, without h11.
        from . import http11  # noqa: F401
    owner.protocol_class = protocol


class Server(ConnectionOwner, Transport):
    """A server, made by `server()`. Its counters are public attributes."""

    def __init__(
        self,
        host: str | None,
        port: int,
        *,
        threads: int | None = None,
        timeout: float | None = None,
        backlog: int = 1024,
    ) -> None:
        super().__init__()
        family, kind, proto, _, address = _resolve(host, port, socket.AI_PASSIVE)
        self.host = host or ""
        self.ip, self.port = address[:2]
        self.sock_family, self.sock_type, self.sock_proto = int(family), int(kind), proto
        self.sock_timeout = _check_timeout(timeout)
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self._address = address
        self._threads = threads
        self._backlog = backlog
        # Guards what follows.
        self._lock = threading.Lock()
        self._listening: list[_Listening] = []
        self._running = 0
        self._down = False
        self._connected = 0
        self._retired = 0
        self._disconnecting = 0
        self._sent = 0
        self._received = 0

    def __repr__(self) -> str:
        return f"<Server {self.ip}:{self.port}>"

    @property
    def num_children(self) -> int:
        """The number of connections."""
        return self._connected - self._retired

    @property
    def clients_connected(self) -> int:
        """The number of connections that are not closing."""
        return self.num_children - self._disconnecting

    @property
    def clients_disconnecting(self) -> int:
        """The number of connections that are closing."""
        return self._disconnecting

    @property
    def client_connected_count(self) -> int:
        """The number of connections that were accepted."""
        return self._connected

    fd_accept_count = client_connected_count

    @property
    def retired_clients(self) -> int:
        """The number of connections that have ended."""
        return self._retired

    @property
    def total_bytes_sent(self) -> int:
        """The number of bytes that connections have sent."""
        return self._sent + sum(conn.connection.total_bytes_sent for conn in self._connections())

    @property
    def total_bytes_received(self) -> int:
        """The number of bytes that connections have received."""
        return self._received + sum(
            conn.connection.total_bytes_received for conn in self._connections()
        )

    def _connections(self) -> list[ConnectionProtocol]:
        with self._lock:
            return [conn for listening in self._listening for conn in listening.connections]

    def shutdown(self, timeout: float | None = None) -> None:
        """Accept no more connections, and close the open ones when their responses are sent.

        Connections that are still open after `timeout` seconds are aborted. `run()` waits for the
        end of the shutdown. May be called in any thread, and more than once.
        """
        with self._lock:
            self._down = True
            listening = [*self._listening]
        for one in listening:
            call_threadsafe(one.loop, lambda one=one: _stop(one))  # type: ignore[misc]
            if timeout is not None:
                call_threadsafe(
                    one.loop,
                    lambda one=one: one.loop.call_later(timeout, _abort, one),  # type: ignore[misc]
                )

    close = shutdown

    def _start(self, protocol: Any) -> None:
        runtime = get_runtime()
        engine = runtime.get_engine()
        threads = self._threads
        if threads is None:
            threads = runtime.threads if mode() == "parallel" else 1
        threads = min(threads, runtime.threads)
        _set_protocol(self, protocol)
        socks: list[socket.socket] = []
        try:
            for _ in range(threads):
                socks.append(self._bind(threads > 1))
        except BaseException:
            for sock in socks:
                sock.close()
            self.protocol_class = None
            raise
        self.recvbuf_size = socks[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.sendbuf_size = socks[0].getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self._running = threads
        runtime.begin()
        _servers.add(self)
        # For run_once(), starting to listen is an event.
        runtime.notify()
        for number, sock in enumerate(socks):
            body = self._serve(sock)
            try:
                handle = engine.spawn(body, thread=number if threads > 1 else None)
            except BaseException as error:
                body.close()
                sock.close()
                self._ended(runtime, error)
                self.shutdown()
                continue
            handle.add_done_callback(lambda handle: self._thread_ended(runtime, handle))

    def _bind(self, shared: bool) -> socket.socket:
        sock = socket.socket(self.sock_family, self.sock_type, self.sock_proto)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((self._address[0], self.port, *self._address[2:]))
            sock.listen(self._backlog)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        self.port = sock.getsockname()[1]
        return sock

    async def _serve(self, sock: socket.socket) -> None:
        enter_parallel()
        loop = asyncio.get_running_loop()
        listening = _Listening(loop)
        try:
            server = await loop.create_server(
                lambda: _ServerProtocol(self, listening), sock=sock, backlog=self._backlog
            )
        except BaseException:
            sock.close()
            raise
        with self._lock:
            self._listening.append(listening)
            if self._down:
                _stop(listening)
        try:
            await listening.stop
            server.close()
            for conn in [*listening.connections]:
                conn.skip_linger = True
                conn.connection.close()
            while listening.connections:
                listening.idle = loop.create_future()
                await listening.idle
        finally:
            server.close()
            _abort(listening)
            if listening.connections:
                # connection_lost() is called in the next iteration of the loop.
                await asyncio.sleep(0)
            with self._lock:
                self._listening.remove(listening)

    def _thread_ended(self, runtime: Runtime, handle: TaskHandle[None]) -> None:
        handle._retrieved = True
        self._ended(runtime, None if handle.cancelled() else handle._exception)

    def _ended(self, runtime: Runtime, error: BaseException | None) -> None:
        with self._lock:
            self._running -= 1
            last = not self._running
        if error is not None:
            runtime.notify(error)
        if last:
            runtime.end()

    def make_http_connection(self, conn: ConnectionProtocol) -> Any:
        """Make the HTTP state of a connection."""
        from .http11 import HttpConnection

        return HttpConnection(conn)

    def opened(self, conn: ConnectionProtocol) -> None:
        """A connection was made."""
        with self._lock:
            self._connected += 1

    def closing(self, conn: ConnectionProtocol) -> None:
        """A connection is closed once everything is sent."""
        with self._lock:
            self._disconnecting += 1

    def closed(self, conn: ConnectionProtocol) -> None:
        """A connection has ended."""
        connection = conn.connection
        with self._lock:
            self._retired += 1
            self._sent += connection.total_bytes_sent
            self._received += connection.total_bytes_received
            if conn.closing:
                self._disconnecting -= 1


class _ServerProtocol(ConnectionProtocol):
    """A connection that a server has accepted."""

    def __init__(self, server: Server, listening: _Listening) -> None:
        super().__init__(server, Connection(server))
        self.listening = listening

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.listening.connections.add(self)
        super().connection_made(transport)
        if self.listening.stop.done():
            self.connection.close()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        listening = self.listening
        listening.connections.discard(self)
        if not listening.connections and listening.idle is not None and not listening.idle.done():
            listening.idle.set_result(None)


def _stop(listening: _Listening) -> None:
    if not listening.stop.done():
        listening.stop.set_result(None)


def _abort(listening: _Listening) -> None:
    for conn in [*listening.connections]:
        conn.transport.abort()


class Client(ConnectionOwner, Connection):
    """A client, made by `client()`. It is also the connection that its callbacks get."""

    def __init__(self, host: str, port: int, *, timeout: float | None = None) -> None:
        super().__init__(None)
        family, kind, proto, _, address = _resolve(host, port, 0)
        self.host = host
        self.ip, self.port = address[:2]
        self.sock_family, self.sock_type, self.sock_proto = int(family), int(kind), proto
        self.sock_timeout = _check_timeout(timeout)
        self._address = address

    def _start(self, protocol: Any) -> None:
        if getattr(protocol, "http11", False):
            raise ValueError("http11 is for servers; a client has no requests to answer")
        runtime = get_runtime()
        engine = runtime.get_engine()
        _set_protocol(self, protocol)
        runtime.begin()
        body = self._connect(runtime)
        try:
            handle = engine.spawn(body)
        except BaseException:
            body.close()
            runtime.end()
            raise
        handle.add_done_callback(lambda handle: self._ended(runtime, handle))

    async def _connect(self, runtime: Runtime) -> None:
        enter_parallel()
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        conn = _ClientProtocol(self, self, ended)
        sock = socket.socket(self.sock_family, self.sock_type, self.sock_proto)
        try:
            sock.setblocking(False)
            await asyncio.wait_for(
                loop.sock_connect(sock, self._address), self.sock_timeout or None
            )
            await loop.create_connection(lambda: conn, sock=sock)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            self._report_connect_error(runtime, error)
            return
        try:
            await ended
        finally:
            conn.transport.abort()

    def _report_connect_error(self, runtime: Runtime, error: OSError) -> None:
        protocol = self.protocol_class()
        callbacks = Callbacks(protocol)
        self.protocol = protocol
        timeout = isinstance(error, TimeoutError)
        code = error.errno or (errno.ETIMEDOUT if timeout else None)
        if timeout and (function := callbacks.get("connection_timeout")) is not None:
            function(self, IoOp.CONNECT)
        elif (function := callbacks.get("connection_error")) is not None:
            function(self, IoOp.CONNECT, "connect", code)
        elif (function := callbacks.get("initial_connection_error")) is not None:
            function(self, code)
        else:
            raise error

    def _ended(self, runtime: Runtime, handle: TaskHandle[None]) -> None:
        handle._retrieved = True
        runtime.end(None if handle.cancelled() else handle._exception)


class _ClientProtocol(ConnectionProtocol):
    """The connection of a client."""

    def __init__(
        self, owner: ConnectionOwner, connection: Connection, ended: asyncio.Future[None]
    ) -> None:
        super().__init__(owner, connection)
        self.ended = ended

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if not self.ended.done():
            self.ended.set_result(None)


def server(
    host: str | None,
    port: int,
    *,
    threads: int | None = None,
    timeout: float | None = None,
    backlog: int = 1024,
) -> Server:
    """Make a TCP server, for `register()`, which starts it.

    Port 0 is any free port; the attribute `port` has its number then. `threads` is the number of
    threads for its connections: by default 1, or all threads on a Python without a GIL. A
    connection without activity for `timeout` seconds is closed.
    """
    return Server(host, port, threads=threads, timeout=timeout, backlog=backlog)


def client(host: str, port: int, *, timeout: float | None = None) -> Client:
    """Make a TCP client, for `register()`, which connects it.

    Connecting, and any time without activity, is limited to `timeout` seconds.
    """
    return Client(host, port, timeout=timeout)


def register(transport: Any, protocol: type) -> None:
    """Set the protocol class of a server or client, and start it.

    Each connection gets an instance of the class. `ValueError` if it is not a class, has wrong
    attributes, or if there is a protocol already; `OSError` if a server cannot listen.
    """
    if not isinstance(transport, (Server, Client)):
        raise ValueError(f"a server or client is expected, not {transport!r}")
    transport._start(protocol)
