"""Recording stream protocols, and plain sockets as their peers.

Sockets of transports are found by a private attribute of asyncio's `TransportSocket`.
"""

import asyncio
import socket
import struct
import sys
import time

import pytest

MIB = 1024 * 1024

needs_tcp_info = pytest.mark.skipif(
    sys.platform != "linux", reason="segments are counted by Linux's TCP_INFO"
)


class Recorder(asyncio.Protocol):
    """Keeps every callback as (name, argument) in ``calls`` and all data in ``data``."""

    def __init__(self):
        self.calls = []
        self.data = bytearray()
        self.transport = None
        self.ended = False
        self.lost = False
        self.lost_exception = None

    @property
    def names(self):
        return [name for name, _ in self.calls]

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append(("connection_made", transport))

    def data_received(self, data):
        self.data += data
        self.calls.append(("data_received", data))

    def eof_received(self):
        self.ended = True
        self.calls.append(("eof_received", None))

    def connection_lost(self, exc):
        self.lost = True
        self.lost_exception = exc
        self.calls.append(("connection_lost", exc))

    def pause_writing(self):
        self.calls.append(("pause_writing", None))

    def resume_writing(self):
        self.calls.append(("resume_writing", None))


class Echo(Recorder):
    """Sends back what it receives."""

    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    """The same with a buffer of its own, ``size`` bytes."""

    size = 4096

    def __init__(self):
        super().__init__()
        self.buffer = bytearray(self.size)

    def get_buffer(self, sizehint):
        self.calls.append(("get_buffer", sizehint))
        return self.buffer

    def buffer_updated(self, nbytes):
        self.data += self.buffer[:nbytes]
        self.calls.append(("buffer_updated", nbytes))


class Collecting:
    """A protocol factory that keeps what it made."""

    def __init__(self, kind=Recorder):
        self.kind = kind
        self.made = []

    def __call__(self):
        self.made.append(self.kind())
        return self.made[-1]


class Peer:
    """A plain socket, never touched by the loop under test."""

    def __init__(self, sock):
        sock.setblocking(False)
        self.sock = sock

    def send(self, data):
        """Send a little; it has to fit the kernel's buffer."""
        assert self.sock.send(data) == len(data)

    async def send_all(self, data):
        view = memoryview(data)
        deadline = time.monotonic() + 60
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                assert time.monotonic() < deadline, "nobody reads"
                await asyncio.sleep(0)

    async def _wait_readable(self, deadline):
        while True:
            try:
                return self.sock.recv(MIB)
            except BlockingIOError:
                assert time.monotonic() < deadline, "nothing arrived in time"
                await asyncio.sleep(0.0005)

    async def read(self, count, timeout=60):
        """Exactly ``count`` bytes, or what came before the end of the stream."""
        deadline = time.monotonic() + timeout
        data = bytearray()
        while len(data) < count:
            chunk = await self._wait_readable(deadline)
            if not chunk:
                break
            data += chunk
        assert len(data) <= count, f"more than {count} bytes arrived"
        return bytes(data)

    async def read_to_end(self, timeout=60):
        deadline = time.monotonic() + timeout
        data = bytearray()
        while chunk := await self._wait_readable(deadline):
            data += chunk
        return bytes(data)

    async def read_slowly(self, count, step=64 * 1024):
        """Like ``read``, a step at a time with iterations of the loop in between."""
        data = bytearray()
        deadline = time.monotonic() + 60
        while len(data) < count:
            try:
                chunk = self.sock.recv(min(step, count - len(data)))
            except BlockingIOError:
                assert time.monotonic() < deadline, "nothing arrived in time"
            else:
                if not chunk:
                    break
                data += chunk
            await asyncio.sleep(0)
        return bytes(data)

    def nothing_to_read(self):
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        return False

    def reset(self):
        """Close with RST: the other side sees ECONNRESET."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        self.sock.close()


def segments_sent(sock):
    """TCP segments with data that have left this socket, or that of this transport, so far.

    Those are not counted that the system has sent again: a busy one does so when an answer is late.
    """
    if not hasattr(sock, "getsockopt"):
        sock = sock.get_extra_info("socket")
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    (sent,), (sent_again,) = (
        struct.unpack_from("=I", info, 156),
        struct.unpack_from("=I", info, 100),
    )
    return sent - sent_again


# Small and fixed, so that a few MiB always are more than the kernel takes.
BUFFERS = {socket.SO_SNDBUF: 256 * 1024, socket.SO_RCVBUF: 256 * 1024}


def tcp_pair():
    """Two connected TCP sockets on the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    return limited(client, server)


def unix_pair():
    return limited(*socket.socketpair())


def limited(*pair):
    for sock in pair:
        for option, size in BUFFERS.items():
            sock.setsockopt(socket.SOL_SOCKET, option, size)
    return pair


def socket_of(transport):
    """The socket object of a transport, for what `TransportSocket` does not allow."""
    return transport.get_extra_info("socket")._sock


async def others_done():
    """Wait until every other task has ended, such as the handlers of a stream server."""
    deadline = time.monotonic() + 60
    while len(asyncio.all_tasks()) > 1:
        assert time.monotonic() < deadline, asyncio.all_tasks()
        await asyncio.sleep(0.001)
