"""`loop.sock_connect()`. The other `sock_*` methods are native."""

from __future__ import annotations

import asyncio
import socket
from asyncio import base_events

from .._core import LoopCore

_BLOCKED = (BlockingIOError, InterruptedError)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    class _AsyncioLoop(asyncio.SelectorEventLoop):
        """The private methods of asyncio's loop that this package uses."""

        def _check_closed(self) -> None: ...
        def _check_running(self) -> None: ...
        def _check_signal(self, sig: int) -> None: ...
        def _make_self_pipe(self) -> None: ...
        def _close_self_pipe(self) -> None: ...
        def _make_datagram_transport(
            self, *args: Any, **kwargs: Any
        ) -> asyncio.DatagramTransport: ...
        def _make_socket_transport(self, *args: Any, **kwargs: Any) -> asyncio.Transport: ...
        def _make_ssl_transport(self, *args: Any, **kwargs: Any) -> asyncio.Transport: ...
        def _start_serving(self, *args: Any, **kwargs: Any) -> None: ...
        async def _ensure_resolved(
            self, address: Any, *, family: int, type: int, proto: int, loop: Any
        ) -> list[Any]: ...
else:
    _AsyncioLoop = asyncio.SelectorEventLoop


class SocketMixin(LoopCore, _AsyncioLoop):
    """The part of the loop that works on sockets of the user."""

    # The attributes of asyncio's classes and of our mixins. Python finds a method twice as fast on
    # an instance whose __dict__ was never made: `loop.call_soon(...)` costs half. The __dict__ is
    # made when another attribute is set.
    __slots__ = (
        "_asyncgens",
        "_asyncgens_shutdown_called",
        "_clock_resolution",
        "_coroutine_origin_tracking_enabled",
        "_coroutine_origin_tracking_saved_depth",
        "_default_executor",
        "_exception_handler",
        "_executor_shutdown_called",
        "_internal_fds",
        "_native_engine",
        "_old_agen_hooks",
        "_ready",
        "_scheduled",
        "_selector",
        "_signal_handlers",
        "_signal_writer",
        "_ssock",
        "_stacks",
        "_timer_cancelled_count",
        "_transports",
        "_unix_server_sockets",
        "_watcher",
    )

    def _check_socket(self, sock: socket.socket) -> None:
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect to `address`; a host name is resolved."""
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
        connected: asyncio.Future[None] = self.create_future()
        fd = self._add_socket_waiter(sock, True, connected)
        try:
            await connected
        finally:
            self._remove_socket_waiter(fd, True, connected)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, f"Connect call failed {address}")
