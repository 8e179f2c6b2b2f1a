"""Blocking client sockets in numbers."""

from __future__ import annotations

import socket
import struct
import time

TIMEOUT = 60.0


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def reset(sock: socket.socket) -> None:
    """Close with a TCP reset; nothing stays in TIME_WAIT."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def receive_exactly(sock: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        chunk = sock.recv(length - len(data))
        assert chunk, f"connection ended after {len(data)} of {length} bytes"
        data += chunk
    return bytes(data)


def echo(sock: socket.socket, message: bytes) -> None:
    sock.sendall(message)
    assert receive_exactly(sock, len(message)) == message


def answers_within(sock: socket.socket, message: bytes, timeout: float) -> bool:
    """Whether an echo comes back in time; True also means that the server holds this socket."""
    sock.sendall(message)
    deadline = time.monotonic() + timeout
    data = b""
    while len(data) < len(message) and (remaining := deadline - time.monotonic()) > 0:
        sock.settimeout(remaining)
        try:
            chunk = sock.recv(len(message) - len(data))
        except TimeoutError:
            break
        assert chunk, "server closed the connection"
        data += chunk
    sock.settimeout(TIMEOUT)
    return data == message
