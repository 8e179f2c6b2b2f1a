"""Recording datagram protocols, and plain sockets as their peers."""

import asyncio
import contextlib
import socket
import time


class Recorder(asyncio.DatagramProtocol):
    """Keeps every callback as (name, arguments...) in ``calls``."""

    def __init__(self):
        self.calls = []
        self.received = []
        self.errors = []
        self.transport = None
        self.lost = False

    @property
    def names(self):
        return [call[0] for call in self.calls]

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append(("connection_made", transport))

    def datagram_received(self, data, addr):
        self.received.append((data, addr))
        self.calls.append(("datagram_received", data, addr))

    def error_received(self, exc):
        self.errors.append(exc)
        self.calls.append(("error_received", exc))

    def connection_lost(self, exc):
        self.lost = True
        self.calls.append(("connection_lost", exc))

    def pause_writing(self):
        self.calls.append(("pause_writing",))

    def resume_writing(self):
        self.calls.append(("resume_writing",))


class Echo(Recorder):
    def datagram_received(self, data, addr):
        super().datagram_received(data, addr)
        self.transport.sendto(data, addr)


def plain_socket(host="127.0.0.1", timeout=60):
    """A bound UDP socket that the loop does not know."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(timeout)
    sock.bind((host, 0))
    return sock


async def receive(sock, size=65536, timeout=60):
    """A datagram on a plain socket, without keeping the loop from its work."""
    sock.setblocking(False)
    deadline = time.monotonic() + timeout
    while True:
        try:
            return sock.recvfrom(size)
        except BlockingIOError:
            assert time.monotonic() < deadline, "no datagram arrived"
            await asyncio.sleep(0.0005)


@contextlib.contextmanager
def refusing_port(host="127.0.0.1"):
    """A port that refuses datagrams: that of a socket that takes only its own.

    Nobody else gets it meanwhile. Who wants it has to share it by SO_REUSEADDR.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, 0))
        sock.connect(sock.getsockname())
        yield sock.getsockname()[1]


def unix_datagram(path=None, timeout=60):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.settimeout(timeout)
    if path is not None:
        sock.bind(path)
    return sock


def fill(transport, data=b"x" * 1000, limit=100_000):
    """Send on a transport until the socket takes no more; returns how many datagrams it took."""
    for count in range(limit):
        transport.sendto(data)
        if transport.get_write_buffer_size():
            return count
    raise AssertionError("the socket never fills up")
