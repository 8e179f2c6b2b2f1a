"""Servers of `hybridloop.parallel`, and blocking clients for them."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

from hybridloop import parallel


class Running:
    """A server, with `run()` called for it in this process's main thread's stead."""

    def __init__(self, protocol: type, **options: Any) -> None:
        self.server = parallel.server("127.0.0.1", 0, **options)
        parallel.register(transport=self.server, protocol=protocol)
        self.errors: list[BaseException] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while True:
            try:
                parallel.run()
            except BaseException as error:
                self.errors.append(error)
            else:
                break

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=60)


@contextlib.contextmanager
def serving(protocol: type, *, errors: int = 0, **options: Any) -> Iterator[Running]:
    """A server; in the end it has ended, and `run()` has raised as many errors as expected."""
    running = Running(protocol, **options)
    try:
        yield running
    finally:
        running.server.shutdown()
        running.thread.join(60)
        alive = running.thread.is_alive()
        if alive:
            running.server.shutdown(0)
            running.thread.join(60)
    assert not alive, "the server has not ended"
    assert len(running.errors) == errors, running.errors


def read_all(sock: socket.socket) -> bytes:
    """Everything to the end."""
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


def read_exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        assert part, f"the end came after {data!r}"
        data += part
    return data


def reset(sock: socket.socket) -> None:
    """End a connection by a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
