"""Data of every size, written and read in every way. A private method of the loop is replaced."""

import asyncio
import ssl

import pytest

from tests.support.streams import (
    MIB,
    BufferedRecorder,
    Echo,
    Recorder,
    needs_tcp_info,
    segments_sent,
    tcp_pair,
)

from .support import ManualPeer, path_of, write_until_paused

VERSIONS = [
    pytest.param(
        ssl.TLSVersion.TLSv1_2,
        marks=pytest.mark.skipif(not ssl.HAS_TLSv1_2, reason="this OpenSSL has no TLS 1.2"),
    ),
    pytest.param(
        ssl.TLSVersion.TLSv1_3,
        marks=pytest.mark.skipif(not ssl.HAS_TLSv1_3, reason="this OpenSSL has no TLS 1.3"),
    ),
]


def pattern(size):
    return (bytes(range(256)) * (size // 256 + 1))[:size]


class BufferedEcho(BufferedRecorder):
    def buffer_updated(self, nbytes):
        super().buffer_updated(nbytes)
        self.transport.write(self.buffer[:nbytes])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [1, 1024, 16_384, 16_385, 100_000, 16 * MIB])
async def test_echo(loop, serve, make_client_context, version, size):
    """Against a blocking socket of the ssl module in another thread."""
    context = make_client_context()
    context.minimum_version = context.maximum_version = version
    address, _ = await serve()

    def talk():
        with ManualPeer(address, context) as peer:
            peer.handshake()
            sent = pattern(size)
            # A step at a time, so that neither side waits for the other to read.
            received = b"".join(
                peer.sock.sendall(peer.encrypt(sent[at : at + 65536]))
                or peer.read(min(65536, size - at))
                for at in range(0, size, 65536)
            )
            return peer.tls.version(), received == sent

    assert await asyncio.to_thread(talk) == (version.name.replace("_", "."), True)


@pytest.mark.parametrize("kind", [Echo, BufferedEcho])
async def test_16_mib_in_one_write(loop, serve, dial, eventually, kind):
    address, _ = await serve(kind)
    transport, protocol = await dial(address)
    data = pattern(16 * MIB)
    transport.write(data)
    await eventually(lambda: len(protocol.data) >= len(data))
    assert protocol.data == data


async def test_single_bytes(loop, serve, dial, eventually):
    address, protocols = await serve(Recorder)
    transport, _ = await dial(address)
    data = pattern(5000)
    for number in range(5000):
        transport.write(data[number : number + 1])
    await eventually(lambda: protocols[0].data == data)


async def test_kinds_of_data(loop, serve, dial, eventually):
    address, protocols = await serve(Recorder)
    transport, _ = await dial(address)
    changed = bytearray(b"array ")
    transport.write(b"")
    transport.write(bytearray())
    transport.write(memoryview(b""))
    transport.write(b"bytes ")
    transport.write(changed)
    changed[:] = b"wrong!"
    transport.write(memoryview(b"-view -")[1:6])
    transport.writelines([b"several ", b"", bytearray(b"pieces "), memoryview(b"and ")])
    transport.writelines(piece for piece in (b"an ", b"iterator"))
    transport.writelines(())
    transport.writelines([b"!" * 20_000, b"?"])
    expected = b"bytes array view several pieces and an iterator" + b"!" * 20_000 + b"?"
    await eventually(lambda: protocols[0].data == expected)


async def test_what_is_no_data(loop, serve, dial, eventually):
    address, _ = await serve()
    transport, protocol = await dial(address)
    for wrong in "text", 7, None, [b"list"]:
        with pytest.raises(TypeError, match=type(wrong).__name__):
            transport.write(wrong)
    with pytest.raises(TypeError):
        transport.write()
    with pytest.raises(NotImplementedError):
        transport.write_eof()
    assert not transport.can_write_eof()
    transport.write(data=b"fine")
    await eventually(lambda: protocol.data == b"fine")


async def test_no_contiguous_view(loop, serve, dial, eventually):
    address, protocols = await serve(Recorder)
    transport, protocol = await dial(address)
    unhandled = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    transport.write(memoryview(b"abcdef")[::2])
    await eventually(lambda: protocol.lost)
    assert isinstance(unhandled[0]["exception"], BufferError)
    assert unhandled[0]["message"] == "Fatal error on SSL protocol"


async def test_written_before_the_handshake_is_over(loop, serve, client_context, eventually):
    """connection_made() comes after it, but the transport exists before."""
    address, protocols = await serve(Recorder)
    early = []
    make = loop._make_ssl_transport

    def make_and_write(*args, **kwargs):
        transport = make(*args, **kwargs)
        if not kwargs.get("server_side"):
            # When the handshake has begun.
            loop.call_soon(transport.write, b"early ")
            loop.call_soon(transport.writelines, [b"and ", b"often "])
            early.append(transport)
        return transport

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_make_ssl_transport", make_and_write)
        transport, _ = await loop.create_connection(
            Recorder, *address, ssl=client_context, server_hostname="localhost"
        )
    assert early[0] is transport
    transport.write(b"late")
    await eventually(lambda: protocols and protocols[0].data == b"early and often late")
    transport.close()
    await eventually(lambda: protocols[0].lost)


class SmallBuffer(BufferedRecorder):
    size = 100

    def get_buffer(self, sizehint):
        # asyncio loses data if this is no view.
        return memoryview(super().get_buffer(sizehint))


@pytest.mark.improves_on_asyncio
async def test_buffer_that_is_no_view(loop, serve, dial, eventually, path):
    class Bytearray(BufferedRecorder):
        size = 1000

    if path != "native":
        pytest.skip("asyncio's own code slices the buffer, and so reads into a copy of it")
    address, protocols = await serve(Bytearray)
    transport, _ = await dial(address)
    data = pattern(100_000)
    transport.write(data)
    await eventually(lambda: protocols and len(protocols[0].data) >= len(data))
    assert protocols[0].data == data


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder, SmallBuffer])
async def test_reading(loop, serve, dial, eventually, kind):
    address, protocols = await serve(kind)
    transport, _ = await dial(address)
    data = pattern(300_000)
    transport.write(data)
    await eventually(lambda: protocols and len(protocols[0].data) >= len(data))
    assert protocols[0].data == data


async def test_empty_buffer(loop, serve, dial, eventually, path):
    class Empty(BufferedRecorder):
        size = 0

    unhandled = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    address, protocols = await serve(Empty)
    transport, protocol = await dial(address)
    transport.write(b"data")
    await eventually(lambda: protocols and protocols[0].lost)
    assert not protocols[0].data
    if path == "native":
        assert "empty buffer" in str(unhandled[0]["exception"])


async def test_another_protocol(loop, serve, dial, eventually):
    address, _ = await serve()
    transport, first = await dial(address)
    transport.write(b"one")
    await eventually(lambda: first.data == b"one")
    second, third = BufferedRecorder(), Recorder()
    for protocol, message in (second, b"two"), (third, b"three"):
        transport.set_protocol(protocol)
        assert transport.get_protocol() is protocol
        transport.write(message)
        await eventually(lambda p=protocol, m=message: p.data == m)
    assert first.data == b"one"
    transport.close()
    await eventually(lambda: third.lost)
    assert not first.lost and not second.lost
    first.lost = True


async def test_switch_to_streams_in_data_received(loop, serve, dial, eventually):
    address, _ = await serve()
    transport, protocol = await dial(address)
    reader = asyncio.StreamReader()
    stream_protocol = asyncio.StreamReaderProtocol(reader)
    stream_protocol.connection_made(transport)
    protocol.data_received = lambda data: transport.set_protocol(stream_protocol)
    transport.write(b"switch")
    await eventually(lambda: transport.get_protocol() is stream_protocol)
    transport.write(b"line\n" * 10_000)
    for _ in range(10_000):
        assert await reader.readline() == b"line\n"
    transport.abort()
    await eventually(reader.at_eof)
    protocol.lost = True


async def test_pause_reading(loop, serve, dial, eventually):
    address, protocols = await serve(Recorder)
    transport, _ = await dial(address)
    await eventually(lambda: protocols and protocols[0].transport)
    theirs = protocols[0].transport
    theirs.pause_reading()
    assert not theirs.is_reading()
    data = pattern(4 * MIB)
    transport.write(data)
    # More than it keeps: the stream below stops.
    await eventually(lambda: theirs.get_read_buffer_size() >= 256 * 1024)
    assert not protocols[0].data
    theirs.resume_reading()
    assert theirs.is_reading()
    await eventually(lambda: protocols[0].data == data)
    assert theirs.get_read_buffer_size() == 0


async def test_pause_reading_in_data_received(loop, serve, dial, eventually):
    class Choosy(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    address, protocols = await serve(Choosy)
    transport, _ = await dial(address)
    transport.write(b"one")
    await eventually(lambda: protocols and protocols[0].data == b"one")
    transport.write(b"two")
    await eventually(lambda: protocols[0].transport.get_read_buffer_size() > 0)
    assert protocols[0].data == b"one"
    protocols[0].transport.resume_reading()
    await eventually(lambda: protocols[0].data == b"onetwo")


async def test_write_buffer_limits(loop, serve, dial, eventually):
    address, protocols = await serve(Recorder)
    transport, protocol = await dial(address)
    await eventually(lambda: protocols and protocols[0].transport)
    transport.set_write_buffer_limits(high=1000, low=100)
    assert transport.get_write_buffer_limits() == (100, 1000)
    written = await write_until_paused(transport, protocols[0].transport)
    assert transport.get_write_buffer_size() >= 1000
    protocols[0].transport.resume_reading()
    await eventually(lambda: protocol.names[-1] == "resume_writing")
    await eventually(lambda: len(protocols[0].data) == written)
    assert protocol.names.count("pause_writing") == protocol.names.count("resume_writing")


async def test_sendfile(loop, serve, dial, eventually, tmp_path):
    data = pattern(300_000)
    (tmp_path / "file").write_bytes(data)
    address, protocols = await serve(Recorder)
    transport, _ = await dial(address)
    with open(tmp_path / "file", "rb") as file:
        assert await loop.sendfile(transport, file) == len(data)
    await eventually(lambda: protocols[0].data == data)


@needs_tcp_info
@pytest.mark.improves_on_asyncio
async def test_answers_leave_as_one_segment(loop, opened, server_context, client_context):
    class HeaderAndBody(Recorder):
        def data_received(self, data):
            self.transport.write(b"header ")
            self.transport.write(b"body ")
            self.transport.writelines([b"and ", b"trailer"])

    ours, theirs = tcp_pair()
    expected = b"header body and trailer"

    def talk():
        with ManualPeer(theirs, client_context) as peer:
            peer.handshake()
            counts = []
            for _ in range(10):
                before = segments_sent(ours)
                peer.sock.sendall(peer.encrypt(b"request"))
                assert peer.read(len(expected)) == expected
                counts.append(segments_sent(ours) - before)
            return counts

    talking = asyncio.ensure_future(asyncio.to_thread(talk))
    transport, _ = await loop.connect_accepted_socket(HeaderAndBody, ours, ssl=server_context)
    opened.append(transport)
    # The session tickets may come with the first answer.
    assert (await talking)[1:] == [1] * 9


@needs_tcp_info
@pytest.mark.improves_on_asyncio
async def test_writes_of_an_iteration_are_one_segment(loop, opened, server_context, client_context):
    ours, theirs = tcp_pair()

    def talk():
        with ManualPeer(theirs, client_context) as peer:
            peer.handshake()
            assert peer.read(5) == b"start"
            before = segments_sent(ours)
            peer.sock.sendall(peer.encrypt(b"go"))
            assert peer.read(9) == b"onetwo345"
            return segments_sent(ours) - before

    talking = asyncio.ensure_future(asyncio.to_thread(talk))
    transport, protocol = await loop.connect_accepted_socket(Recorder, ours, ssl=server_context)
    opened.append(transport)
    transport.write(b"start")
    while protocol.data != b"go":
        await asyncio.sleep(0.001)
    transport.write(b"one")
    transport.write(b"two")
    for number in 3, 4, 5:
        loop.call_soon(transport.write, b"%d" % number)
    # Both iterations may send: what is written now, and what the callbacks write.
    assert await talking <= 2


async def test_write_in_another_connections_callback(loop, serve, dial, eventually):
    """What is gathered for one connection does not hold back another's."""
    address, protocols = await serve(Recorder)
    first, _ = await dial(address)
    _, second_protocol = await dial(address)
    await eventually(lambda: len(protocols) == 2 and all(p.transport for p in protocols))
    other = next(
        p
        for p in protocols
        if p.transport.get_extra_info("peername") != first.get_extra_info("sockname")
    )
    mine = next(p for p in protocols if p is not other)
    mine.data_received = lambda data: other.transport.write(b"to the other: " + data)
    first.write(b"x")
    await eventually(lambda: second_protocol.data == b"to the other: x")
    assert path_of(first) == path_of(mine.transport)
