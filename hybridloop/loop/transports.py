"""The stream transport, and the part of all transports that is written in Python.

Code that runs for each packet is native.
"""

from __future__ import annotations

import asyncio
import socket
import warnings
import weakref
from asyncio import constants, trsock
from asyncio.log import logger

from .._core import StreamTransport, _provide

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_DEFAULT_HIGH_WATER = 64 * 1024
_EXTRA: Any = asyncio.BaseTransport.__dict__["_extra"]


class _LazyExtraInfo(dict[str, "Any"]):
    """A stream's `_extra`: the socket and the addresses are added on first access."""

    __slots__ = ("_transport",)

    def __init__(self, transport: SocketTransport, known: dict[str, Any]) -> None:
        super().__init__(known)
        # A weak reference: no cycle may keep an unreferenced transport alive.
        self._transport = weakref.ref(transport)

    def __missing__(self, name: str) -> Any:
        transport = self._transport()
        if transport is None:
            raise KeyError(name)
        value = self[name] = transport._load_extra_info(name)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """Like `dict.get()`, for the lazily added names as well."""
        try:
            return self[name]
        except KeyError:
            return default


class TransportMixin:
    """The part of all transports that runs once per connection or less."""

    __slots__ = ()

    # Attributes and methods of the native classes.
    _loop: Any
    _protocol: Any
    _lost: Any
    _closing: Any
    _sock_fd: Any
    _write_blocked: Any
    is_reading: Any
    get_write_buffer_size: Any
    _abandon: Any
    _force_close: Any
    _set_limits: Any

    def __repr__(self) -> str:
        info = [type(self).__name__]
        if self._lost:
            info.append("closed")
        elif self._closing:
            info.append("closing")
        info.append(f"fd={self._sock_fd}")
        loop = self._loop
        if loop is not None and not loop.is_closed():
            info.append("read=polling" if self.is_reading() else "read=idle")
            state = "polling" if self._write_blocked else "idle"
            info.append(f"write=<{state}, bufsize={self.get_write_buffer_size()}>")
        return f"<{' '.join(info)}>"

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not self._lost:
            try:
                _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            finally:
                # Also if the warning is raised as an error.
                self._abandon()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the high-water and low-water marks for flow control, in bytes."""
        if high is None:
            high = _DEFAULT_HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._set_limits(low, high)

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        loop: asyncio.AbstractEventLoop | None = self._loop
        if loop is not None:
            if isinstance(exc, OSError):
                if loop.get_debug():
                    logger.debug("%r: %s", self, message, exc_info=exc)
            else:
                loop.call_exception_handler(
                    {
                        "message": message,
                        "exception": exc,
                        "transport": self,
                        "protocol": self._protocol,
                    }
                )
        self._force_close(exc)


class SocketTransport(TransportMixin, StreamTransport):
    """A connected stream socket: TCP or Unix."""

    __slots__ = ()

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    @property
    def _sock(self) -> socket.socket | None:
        """The Python socket, made on first access; from then on it owns the descriptor."""
        if self._socket is None and not self._lost:
            family, kind, proto = self._socket_kind() or (-1, -1, -1)
            sock = socket.socket(family, kind, proto, fileno=self._sock_fd)
            if self._adopt_socket(sock):
                sock.setblocking(False)
            else:
                # Another thread has made it meanwhile, or the connection has just ended.
                sock.detach()
        return None if self._lost else self._socket

    @property
    def _read_ready_cb(self) -> Any:
        """The method that gets received data, under asyncio's name; `None` after the end."""
        is_buffered = isinstance(self._protocol, asyncio.BufferedProtocol)
        name = "buffer_updated" if is_buffered else "data_received"
        return getattr(self._protocol, name, None)

    @property
    def _extra(self) -> _LazyExtraInfo:
        """The dictionary of `get_extra_info()`, made on first access."""
        try:
            extra = _EXTRA.__get__(self)
        except AttributeError:
            extra = {}
        if type(extra) is not _LazyExtraInfo:
            extra = _LazyExtraInfo(self, extra)
            _EXTRA.__set__(self, extra)
        return extra

    @_extra.setter
    def _extra(self, extra: dict[str, Any]) -> None:
        _EXTRA.__set__(self, extra)

    def _load_extra_info(self, name: str) -> Any:
        """A value of `get_extra_info()` that is added on first access; in any thread."""
        if name == "socket":
            return trsock.TransportSocket(self._sock or _closed_socket())
        if name == "sockname":
            return self._query_address(peer=False)
        if name == "peername":
            return self._query_address(peer=True)
        raise KeyError(name)

    def _query_address(self, *, peer: bool) -> Any:
        address = self._address(peer)
        if address is None and (sock := self._sock) is not None:
            # An address family that the core does not support.
            try:
                return sock.getpeername() if peer else sock.getsockname()
            except OSError:
                return None
        return address

    def _make_empty_waiter(self) -> asyncio.Future[None]:
        """A future for an empty write buffer; `write()` raises until it is reset."""
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._empty_waiter = waiter
        if not self.get_write_buffer_size():
            waiter.set_result(None)
        return waiter

    def _reset_empty_waiter(self) -> None:
        self._empty_waiter = None


_SOCKET_METHODS = ("recv", "recv_into", "send", "sendmsg")


def is_native(sock: socket.socket) -> bool:
    """Whether a native stream may use `sock`: its class overrides none of the I/O methods.

    Other sockets, such as mocks, get asyncio's transport, which calls their methods.
    """
    kind = type(sock)
    return kind is socket.socket or (
        issubclass(kind, socket.socket)
        and all(getattr(kind, name) is getattr(socket.socket, name) for name in _SOCKET_METHODS)
    )


def _closed_socket() -> socket.socket:
    """For a first `get_extra_info("socket")` after the end of the connection."""
    sock = socket.socket.__new__(socket.socket)
    sock._io_refs = 0  # type: ignore[attr-defined]
    sock._closed = True  # type: ignore[attr-defined]
    return sock


_provide(stream_transport=SocketTransport)
