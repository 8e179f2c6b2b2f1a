"""Small writes of one iteration leave as one segment."""

import asyncio
import os
import socket

import pytest

from tests.support.streams import (
    BufferedRecorder,
    Peer,
    Recorder,
    needs_tcp_info,
    others_done,
    segments_sent,
)

pytestmark = [needs_tcp_info, pytest.mark.improves_on_asyncio]


class HeaderAndBody(Recorder):
    def data_received(self, data):
        self.transport.write(b"header ")
        self.transport.write(b"body ")
        self.transport.writelines([b"and ", b"trailer"])


EXPECTED = b"header body and trailer"


async def test_writes_in_data_received(loop, connect_tcp):
    transport, peer = await connect_tcp(HeaderAndBody())
    for _ in range(10):
        before = segments_sent(transport)
        peer.send(b"request")
        assert await peer.read(len(EXPECTED)) == EXPECTED
        assert segments_sent(transport) - before == 1


async def test_writes_in_buffer_updated(loop, connect_tcp):
    class Buffered(BufferedRecorder):
        def buffer_updated(self, nbytes):
            HeaderAndBody.data_received(self, b"")

    transport, peer = await connect_tcp(Buffered())
    before = segments_sent(transport)
    peer.send(b"request")
    assert await peer.read(len(EXPECTED)) == EXPECTED
    assert segments_sent(transport) - before == 1


async def test_writes_of_a_task(loop, connect_tcp):
    transport, peer = await connect_tcp()
    for _ in range(10):
        before = segments_sent(transport)
        transport.write(b"one")
        transport.write(b"two")
        assert await peer.read(6) == b"onetwo"
        assert segments_sent(transport) - before == 1


async def test_writes_of_several_callbacks_of_one_iteration(loop, connect_tcp):
    transport, peer = await connect_tcp()
    before = segments_sent(transport)
    for number in range(5):
        loop.call_soon(transport.write, b"%d" % number)
    assert await peer.read(5) == b"01234"
    assert segments_sent(transport) - before == 1


async def test_write_and_close(loop, connect_tcp):
    class Closing(Recorder):
        def data_received(self, data):
            self.transport.write(b"one")
            self.transport.write(b"two")
            self.transport.close()

    transport, peer = await connect_tcp(Closing())
    # Outlives the transport.
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as sock:
        before = segments_sent(sock)
        peer.send(b"request")
        assert await peer.read(6) == b"onetwo"
        assert segments_sent(sock) - before == 1


async def test_stream_writer(loop):
    writers = []

    async def serve(reader, writer):
        writers.append(writer)
        while await reader.readline():
            writer.write(b"header\n")
            writer.write(b"body\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    peer = Peer(socket.create_connection(address))
    counts = []
    for _ in range(5):
        peer.send(b"request\n")
        assert await peer.read(12) == b"header\nbody\n"
        counts.append(segments_sent(writers[0]))
    assert counts == [1, 2, 3, 4, 5]
    peer.close()
    await others_done()
    server.close()
    await server.wait_closed()


async def test_gathered_data_counts_in_the_buffer_size(loop, connect_tcp, eventually):
    """Honest even while the cork is in."""
    sizes = []

    class Asking(Recorder):
        def data_received(self, data):
            for _ in range(3):
                self.transport.write(b"x" * 10)
                sizes.append(self.transport.get_write_buffer_size())

    protocol = Asking()
    transport, peer = await connect_tcp(protocol)
    peer.send(b"x")
    assert await peer.read(30) == b"x" * 30
    assert sizes == [10, 20, 30]
    assert transport.get_write_buffer_size() == 0


async def test_gathering_much_pauses_the_protocol(loop, connect_tcp):
    """The marks hold while writes are corked: pause_writing() stops a flooding data_received()."""

    class Flooding(Recorder):
        def data_received(self, data):
            for _ in range(400):
                self.transport.write(b"x" * 10_000)
            self.calls.append(("end of data_received", None))

    protocol = Flooding()
    transport, peer = await connect_tcp(protocol)
    peer.send(b"x")
    assert await peer.read(4_000_000) == b"x" * 4_000_000
    assert protocol.names.index("pause_writing") < protocol.names.index("end of data_received")
    assert protocol.names[-1] == "resume_writing"
