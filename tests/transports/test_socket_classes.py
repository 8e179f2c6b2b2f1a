"""Sockets of a class that has its own `send()` or `recv()`: these are called, as asyncio does."""

import asyncio
import socket

import pytest


class Counting(socket.socket):
    """Counts what goes through its methods."""

    sent = received = 0

    def send(self, data, *flags):
        n = super().send(data, *flags)
        self.sent += n
        return n

    def sendmsg(self, buffers, *rest):
        n = super().sendmsg(buffers, *rest)
        self.sent += n
        return n

    def recv(self, size, *flags):
        data = super().recv(size, *flags)
        self.received += len(data)
        return data


class Plain(socket.socket):
    """A subclass that changes nothing about the transfer of data."""


class Collector(asyncio.Protocol):
    def __init__(self):
        self.data = b""
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.data += data

    def connection_lost(self, exc):
        self.lost.set_result(exc)


@pytest.mark.parametrize("kind", [Counting, Plain])
async def test_socket_class(loop, kind, eventually):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = kind()
        sock.connect(listener.getsockname())
        peer, _ = listener.accept()
    with peer:
        peer.settimeout(60)
        transport, protocol = await loop.create_connection(Collector, sock=sock)
        transport.write(b"1234")
        await asyncio.sleep(0)
        assert peer.recv(100) == b"1234"
        peer.sendall(b"123456")
        await eventually(lambda: protocol.data == b"123456")
        if kind is Counting:
            assert (sock.sent, sock.received) == (4, 6)
        transport.close()
        assert await protocol.lost is None
        assert peer.recv(100) == b""
