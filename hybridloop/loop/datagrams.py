"""The datagram transport. Everything that runs for each packet is native."""

from __future__ import annotations

import asyncio
import socket
from asyncio import trsock

from .._core import DatagramTransport as DatagramTransportCore
from .._core import LoopCore
from .transports import TransportMixin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Address families that the core supports. Others get asyncio's own transport.
_NATIVE_FAMILIES = {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}


class DatagramTransport(TransportMixin, DatagramTransportCore, asyncio.DatagramTransport):
    """A transport for a datagram socket: UDP or Unix."""

    __slots__ = ()


def is_native(sock: socket.socket) -> bool:
    """Whether the core supports the address family of a socket."""
    return sock.family in _NATIVE_FAMILIES


def make_transport(
    loop: LoopCore,
    sock: socket.socket,
    protocol: asyncio.BaseProtocol,
    address: Any,
    waiter: asyncio.Future[None] | None,
    extra: dict[str, Any] | None,
) -> DatagramTransport:
    """Make a transport for a socket. It sends to `address` only, unless that is `None`."""
    known = dict(extra or ())
    known["socket"] = trsock.TransportSocket(sock)
    try:
        known["sockname"] = sock.getsockname()
    except OSError:
        known["sockname"] = None
    if "peername" not in known:
        try:
            known["peername"] = sock.getpeername()
        except OSError:
            known["peername"] = None
    transport: DatagramTransport = loop._new_datagram_transport(
        DatagramTransport, sock, protocol, address, waiter, known
    )
    return transport
