"""Protocols that wait."""

import asyncio
import os
import socket
import struct

import pytest

from hybridloop import await_
from tests import memory
from tests.support.streams import BufferedRecorder, Recorder
from tests.tls.support import ManualPeer

pytestmark = pytest.mark.only("hybridloop", "debug")


def wait(delay=0.001):
    await_(asyncio.sleep(delay))


@pytest.fixture
def serve(loop, server_context):
    """``address, protocols = await serve(factory, tls)``; the server is closed after the test."""
    servers, protocols = [], []

    async def serve(kind, tls=False):
        def factory():
            protocols.append(kind())
            return protocols[-1]

        server = await loop.create_server(
            factory, "127.0.0.1", 0, ssl=server_context if tls else None
        )
        servers.append(server)
        return server.sockets[0].getsockname(), protocols

    yield serve
    for server in servers:
        server.close()
    for protocol in protocols:
        if protocol.transport is not None and not protocol.lost:
            protocol.transport.abort()
    for _ in range(5):
        loop.run_until_complete(asyncio.sleep(0))


@pytest.mark.parametrize("pauses", ["inside", "outside"])
async def test_data_that_comes_while_data_received_waits_is_read(loop, connect, eventually, pauses):
    """(T3.9)"""

    class Slow(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if data == b"a":
                if pauses == "inside":
                    self.transport.pause_reading()
                else:
                    loop.call_soon(self.transport.pause_reading)
                loop.call_later(0.005, peer.send, b"b")
                wait(0.02)
                self.transport.resume_reading()

    protocol = Slow()
    _, peer = await connect(protocol)
    peer.send(b"a")
    await eventually(lambda: protocol.data == b"ab")


class Asking(Recorder):
    """Asks its peer within `data_received()` and waits for the answer."""

    def __init__(self):
        super().__init__()
        self.answer = None
        self.got = None

    def data_received(self, data):
        if self.answer is not None:
            self.answer.set_result(data)
            return
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(b"question")
        self.got = await_(self.answer)
        self.transport.write(b"got " + self.got)


class AskingBuffered(Asking, asyncio.BufferedProtocol):
    def __init__(self):
        super().__init__()
        self.buffer = bytearray(100)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.data_received(bytes(self.buffer[:nbytes]))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("kind", [Asking, AskingBuffered])
async def test_a_request_over_the_same_connection(loop, serve, client_context, kind, tls):
    """What was written leaves before the method returns. (T3.10)"""
    address, _ = await serve(kind, tls)
    reader, writer = await asyncio.open_connection(
        *address, ssl=client_context if tls else None, server_hostname="localhost" if tls else None
    )
    writer.write(b"begin")
    async with asyncio.timeout(60):
        assert await reader.readexactly(8) == b"question"
        writer.write(b"answer")
        assert await reader.readexactly(10) == b"got answer"
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_what_others_write_leaves_at_once(loop, serve, client_context, eventually, tls):
    """(T3.10)"""
    ended = asyncio.Event()

    class Slow(Recorder):
        def data_received(self, data):
            super().data_received(data)
            await_(ended.wait())

    address, protocols = await serve(Slow, tls)
    reader, writer = await asyncio.open_connection(
        *address, ssl=client_context if tls else None, server_hostname="localhost" if tls else None
    )
    writer.write(b"begin")
    await eventually(lambda: protocols and protocols[0].data)
    protocols[0].transport.write(b"from a task")
    async with asyncio.timeout(60):
        assert await reader.readexactly(11) == b"from a task"
    ended.set()
    writer.close()
    await writer.wait_closed()


async def test_handlers_of_streams_wait(loop):
    """(T3.10)"""

    async def handle(reader, writer):
        line = await_(reader.readline())
        writer.write(line)
        await_(writer.drain())
        writer.write(await_(reader.readline()))
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"one\n")
    assert await reader.readline() == b"one\n"
    writer.write(b"two\n")
    assert await reader.read() == b"two\n"
    writer.close()
    server.close()


@pytest.mark.parametrize("where", ["get_buffer", "buffer_updated"])
async def test_tls_records_keep_their_order(loop, serve, client_context, eventually, where):
    """(T3.11)"""
    records = [b"%05d" % number * 20 for number in range(600)]
    sent = b"".join(records)

    class Slow(BufferedRecorder):
        size = 50
        calls_until_wait = 5

        def get_buffer(self, sizehint):
            # A buffer of its own for each call: they overlap.
            self.wait_sometimes("get_buffer")
            self.buffer = bytearray(self.size)
            return self.buffer

        def buffer_updated(self, nbytes):
            self.data += self.buffer[:nbytes]
            self.wait_sometimes("buffer_updated")

        def wait_sometimes(self, name):
            if name == where:
                self.calls_until_wait -= 1
                if self.calls_until_wait == 0:
                    wait(0.002)
                    self.calls_until_wait = 5

    address, protocols = await serve(Slow, tls=True)
    with ManualPeer(address, client_context) as peer:
        await asyncio.to_thread(peer.handshake)
        data = b"".join(map(peer.encrypt, records))
        for at in range(0, len(data), 1000):
            peer.sock.sendall(data[at : at + 1000])
            await asyncio.sleep(0)
        await eventually(lambda: len(protocols[0].data) >= len(sent))
        assert protocols[0].data == sent
        assert not protocols[0].lost


@pytest.mark.skipif(not memory.available, reason="glibc counts what is in use")
async def test_tls_connections_that_wait_keep_no_buffers(loop, serve, client_context, eventually):
    """(T3.12)"""
    count, waiting = 100, []
    ended = asyncio.Event()

    class Slow(Recorder):
        def data_received(self, data):
            waiting.append(self)
            await_(ended.wait())

    address, _ = await serve(Slow, tls=True)
    peers = [ManualPeer(address, client_context) for _ in range(count)]
    try:
        for peer in peers:
            await asyncio.to_thread(peer.handshake)
        messages = [peer.encrypt(b"x" * 1000) for peer in peers]
        used = None
        for number, (peer, message) in enumerate(zip(peers, messages, strict=True)):
            peer.sock.sendall(message)
            await eventually(lambda: len(waiting) > number)  # noqa: B023
            if number == 10:
                used = memory.in_use()
        assert (memory.in_use() - used) / (count - 11) < 30_000
        ended.set()
        await asyncio.sleep(0.01)
    finally:
        for peer in peers:
            peer.sock.close()


async def test_the_end_is_notified_once_also_if_a_reset_follows(loop, connect, eventually):
    """(T3.13)"""

    class Slow(Recorder):
        def eof_received(self):
            super().eof_received()
            wait(0.03)
            return True

    protocol = Slow()
    transport, peer = await connect(protocol)
    peer.sock.shutdown(socket.SHUT_WR)
    await eventually(lambda: protocol.ended)
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.sock.close()
    await asyncio.sleep(0.05)
    transport.abort()
    await eventually(lambda: protocol.lost)
    assert protocol.names.count("eof_received") == 1
    assert protocol.names.count("connection_lost") == 1


async def test_every_method_of_a_protocol_waits(loop, serve, eventually):
    """(T3.15)"""

    class Slow(Recorder):
        def connection_made(self, transport):
            transport.set_write_buffer_limits(1000)
            wait()
            super().connection_made(transport)

        def data_received(self, data):
            super().data_received(data)
            wait()
            self.transport.write(b"x" * 30_000_000)

        def pause_writing(self):
            wait()
            super().pause_writing()

        def resume_writing(self):
            wait()
            super().resume_writing()

        def connection_lost(self, exc):
            wait()
            super().connection_lost(exc)

    address, protocols = await serve(Slow)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"a")
    assert len(await reader.readexactly(30_000_000)) == 30_000_000
    await eventually(lambda: "resume_writing" in protocols[0].names)
    writer.close()
    await eventually(lambda: protocols[0].lost)
    assert protocols[0].names.count("pause_writing") == 1


async def test_a_hundred_connections_are_made_at_a_time(loop, serve, eventually):
    """(T3.15)"""

    class Slow(Recorder):
        def connection_made(self, transport):
            wait(0.02)
            super().connection_made(transport)
            transport.write(b"hello")

    address, protocols = await serve(Slow)
    ends = [await asyncio.open_connection(*address) for _ in range(100)]
    greetings = await asyncio.gather(*(reader.readexactly(5) for reader, _ in ends))
    assert greetings == [b"hello"] * 100
    for _, writer in ends:
        writer.close()
    await eventually(lambda: all(protocol.lost for protocol in protocols))


async def test_datagrams(loop, eventually):
    """(T3.15)"""
    received = []

    class Slow(asyncio.DatagramProtocol):
        def datagram_received(self, data, address):
            wait(0.005)
            received.append(data)

    server, _ = await loop.create_datagram_endpoint(Slow, ("127.0.0.1", 0))
    client, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=server.get_extra_info("sockname")
    )
    sent = [os.urandom(10) for _ in range(50)]
    for data in sent:
        client.sendto(data)
    await eventually(lambda: len(received) == 50)
    assert sorted(received) == sorted(sent)
    client.close()
    server.close()
    await asyncio.sleep(0)
