"""When what is written leaves: from other threads, and by `cork_interval`."""

import asyncio
import contextlib
import ssl
import sys
import threading

import pytest

from tests.support.streams import Recorder

from .support import ManualPeer

GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
needs_gil = pytest.mark.skipif(not GIL, reason="refused without a global interpreter lock")

WRITES = {
    "write": lambda transport: transport.write(b"data"),
    "writelines": lambda transport: transport.writelines([b"da", b"ta"]),
    "bytearray": lambda transport: transport.write(bytearray(b"data")),
}


@pytest.fixture
def connect(loop, serve, client_context):
    """``transport, peer = await connect(kind)``: a TLS transport of the loop and a plain peer."""
    peers = []

    async def connect(kind=Recorder):
        address, protocols = await serve(kind)
        peer = ManualPeer(address, client_context)
        peers.append(peer)
        await asyncio.to_thread(peer.handshake)
        while not (protocols and protocols[0].transport):
            await asyncio.sleep(0.001)
        # Session tickets and the like are sent.
        await asyncio.sleep(0.01)
        return protocols[0].transport, peer

    yield connect
    for peer in peers:
        peer.sock.close()


def read_now(peer):
    """What has arrived, decrypted; nothing is waited for."""
    data = b""
    peer.sock.setblocking(False)
    # Nothing more has arrived, or no whole record.
    with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
        peer.receive()
        while True:
            data += peer.tls.read(100)
    peer.sock.settimeout(60)
    return data


@needs_gil
@pytest.mark.parametrize("how", WRITES)
async def test_other_threads_while_the_loop_sleeps(loop, connect, how):
    transport, peer = await connect()

    def write_and_read():
        threading.Event().wait(0.05)
        WRITES[how](transport)
        return peer.read(4)

    assert await asyncio.to_thread(write_and_read) == b"data"


@needs_gil
async def test_other_threads_while_the_protocol_is_called(loop, connect):
    received = []

    class Waiting(Recorder):
        def data_received(self, data):
            def write_and_read():
                self.transport.write(b"data")
                received.append(peer.read(4))

            thread = threading.Thread(target=write_and_read)
            thread.start()
            thread.join(60)

    _, peer = await connect(Waiting)
    peer.sock.sendall(peer.encrypt(b"request"))
    while not received:
        await asyncio.sleep(0.001)
    assert received == [b"data"]


@pytest.mark.improves_on_asyncio
class TestCorkInterval:
    async def test_values(self, loop, connect):
        transport, _ = await connect()
        assert transport.cork_interval == pytest.approx(loop.cork_interval)
        transport.cork_interval = 2
        assert transport.cork_interval == pytest.approx(2)
        with pytest.raises(TypeError):
            transport.cork_interval = "2"

    @pytest.mark.parametrize("how", WRITES)
    async def test_zero_sends_at_once(self, loop, connect, how):
        transport, peer = await connect()
        transport.cork_interval = 0
        WRITES[how](transport)
        assert peer.read(4) == b"data"

    async def test_of_the_loop(self, loop, connect):
        loop.cork_interval = 0
        transport, peer = await connect()
        assert transport.cork_interval == 0
        transport.write(b"data")
        assert peer.read(4) == b"data"

    async def test_zero_sends_at_once_in_data_received(self, loop, connect):
        seen = []

        class Writing(Recorder):
            def data_received(self, data):
                for piece in (b"one", b"two"):
                    self.transport.write(piece)
                    seen.append(peer.read(3))

        transport, peer = await connect(Writing)
        transport.cork_interval = 0
        peer.sock.sendall(peer.encrypt(b"request"))
        while len(seen) < 2:
            await asyncio.sleep(0.001)
        assert seen == [b"one", b"two"]

    async def test_setting_it_sends_what_waits(self, loop, connect):
        transport, peer = await connect()
        transport.write(b"data")
        assert read_now(peer) == b""
        transport.cork_interval = 0
        assert peer.read(4) == b"data"

    async def test_setting_it_in_data_received(self, loop, connect):
        seen = []

        class Writing(Recorder):
            def data_received(self, data):
                self.transport.write(b"data")
                seen.append(read_now(peer))
                self.transport.cork_interval = 0
                seen.append(peer.read(4))

        _, peer = await connect(Writing)
        peer.sock.sendall(peer.encrypt(b"request"))
        while len(seen) < 2:
            await asyncio.sleep(0.001)
        assert seen == [b"", b"data"]

    async def test_after_the_end(self, loop, connect):
        transport, _ = await connect()
        transport.abort()
        await asyncio.sleep(0.01)
        transport.cork_interval = 0
        assert transport.cork_interval == 0

    async def test_start_tls(self, loop, server_context, client_context):
        """It stays that of the connection."""
        accepted = loop.create_future()
        server = await asyncio.start_server(
            lambda reader, writer: accepted.set_result(writer),
            "127.0.0.1",
            0,
        )
        peer = ManualPeer(server.sockets[0].getsockname(), client_context)
        writer = await accepted
        writer.transport.cork_interval = 0
        handshake = asyncio.ensure_future(asyncio.to_thread(peer.handshake))
        await writer.start_tls(server_context)
        await handshake
        await asyncio.sleep(0.01)
        assert writer.transport.cork_interval == 0
        writer.write(b"data")
        assert peer.read(4) == b"data"
        writer.transport.abort()
        peer.sock.close()
        server.close()
        await server.wait_closed()
