"""`loop.sock_*`: coroutines over non-blocking sockets.

Each tries the system call first and waits only when it would block. The first wait registers the
socket with the selector, and the registration stays for the socket's later calls.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio import base_events
from typing import TYPE_CHECKING, Any

from . import _core

if TYPE_CHECKING:
    from typing_extensions import Buffer

_BLOCKED = (BlockingIOError, InterruptedError)


if TYPE_CHECKING:

    class _AsyncioLoop(asyncio.SelectorEventLoop):
        """What this package uses of asyncio's own loop beyond its published methods."""

        def _check_closed(self) -> None: ...
        def _check_running(self) -> None: ...
        def _check_signal(self, sig: int) -> None: ...
        def _make_self_pipe(self) -> None: ...
        def _close_self_pipe(self) -> None: ...
        def _start_serving(self, *args: Any, **kwargs: Any) -> None: ...
        async def _ensure_resolved(
            self, address: Any, *, family: int, type: int, proto: int, loop: Any
        ) -> list[Any]: ...
else:
    _AsyncioLoop = asyncio.SelectorEventLoop


class SocketMethods(_core.LoopCore, _AsyncioLoop):
    """The part of the loop that works on the user's own sockets."""

    def _check_socket(self, sock: socket.socket) -> None:
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    def _socket_ready(self, sock: socket.socket, *, write: bool) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self.create_future()
        self._wait_socket(sock, write, future)
        return future

    async def _retry(self, sock: socket.socket, write: bool, method: str, *args: Any) -> Any:
        self._check_socket(sock)
        while True:
            try:
                return getattr(sock, method)(*args)
            except _BLOCKED:
                pass
            await self._socket_ready(sock, write=write)

    async def sock_recv(self, sock: socket.socket, n: int) -> bytes:
        """Receive up to `n` bytes; empty at the end of the stream."""
        data: bytes = await self._retry(sock, False, "recv", n)
        return data

    async def sock_recv_into(self, sock: socket.socket, buf: Buffer) -> int:
        """Receive into a writable buffer; returns the number of bytes."""
        count: int = await self._retry(sock, False, "recv_into", buf)
        return count

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram of up to `bufsize` bytes; returns data and sender's address."""
        result: tuple[bytes, Any] = await self._retry(sock, False, "recvfrom", bufsize)
        return result

    async def sock_recvfrom_into(
        self, sock: socket.socket, buf: Buffer, nbytes: int = 0
    ) -> tuple[int, Any]:
        """Receive a datagram into a writable buffer; returns its size and the sender's address."""
        if not nbytes:
            nbytes = len(buf)  # type: ignore[arg-type]
        result: tuple[int, Any] = await self._retry(sock, False, "recvfrom_into", buf, nbytes)
        return result

    async def sock_sendall(self, sock: socket.socket, data: Buffer) -> None:
        """Send all of `data`. After an error it is not known how much has been sent."""
        self._check_socket(sock)
        view = memoryview(data).cast("B")
        while view:
            try:
                view = view[sock.send(view) :]
            except _BLOCKED:
                await self._socket_ready(sock, write=True)

    async def sock_sendto(self, sock: socket.socket, data: Buffer, address: Any) -> int:
        """Send a datagram to `address`; returns the number of bytes."""
        count: int = await self._retry(sock, True, "sendto", data, address)
        return count

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect to `address`, which is resolved if it is a host name."""
        self._check_socket(sock)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            resolved = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            address = resolved[0][4]
        try:
            sock.connect(address)
        except _BLOCKED:
            pass
        else:
            return
        await self._socket_ready(sock, write=True)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, f"Connect call failed {address}")

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection; returns the new, non-blocking socket and the peer's address."""
        conn, address = await self._retry(sock, False, "accept")
        conn.setblocking(False)
        return conn, address
