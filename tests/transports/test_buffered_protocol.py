"""BufferedProtocol: reads into the protocol's own buffer; switching kinds in mid-stream."""

import asyncio
import socket

import pytest

from tests.support.streams import BufferedRecorder, Recorder


async def test_callbacks(loop, connect, eventually):
    protocol = BufferedRecorder()
    transport, peer = await connect(protocol)
    peer.send(b"hello")
    await eventually(lambda: protocol.data == b"hello")
    peer.sock.shutdown(socket.SHUT_WR)
    await eventually(lambda: protocol.lost)
    names = protocol.names
    assert names[0] == "connection_made"
    assert names[1:3] == ["get_buffer", "buffer_updated"]
    assert names[-2:] == ["eof_received", "connection_lost"]
    assert protocol.lost_exception is None


async def test_size_hint_is_what_asyncio_gives(loop, connect, eventually):
    protocol = BufferedRecorder()
    _, peer = await connect(protocol)
    peer.send(b"x")
    await eventually(lambda: protocol.data)
    assert {hint for name, hint in protocol.calls if name == "get_buffer"} == {-1}


async def test_every_update_follows_a_get_buffer(loop, connect, eventually):
    protocol = BufferedRecorder()
    _, peer = await connect(protocol)
    await peer.send_all(b"x" * 200_000)
    await eventually(lambda: len(protocol.data) == 200_000)
    previous = None
    for name, argument in protocol.calls:
        if name == "buffer_updated":
            assert previous == "get_buffer"
            assert 0 < argument <= protocol.size
        previous = name


@pytest.mark.parametrize("size", [1, 7, 4096, 1_000_000])
async def test_data_of_any_buffer_size(loop, connect, eventually, size):
    class Sized(BufferedRecorder):
        pass

    Sized.size = size
    protocol = Sized()
    _, peer = await connect(protocol)
    data = bytes(range(256)) * (20 if size < 100 else 4000)
    await peer.send_all(data)
    await eventually(lambda: len(protocol.data) >= len(data))
    assert protocol.data == data


async def test_nothing_past_the_buffer_is_written(loop, connect, eventually):
    class Windowed(BufferedRecorder):
        def __init__(self):
            super().__init__()
            self.arena = bytearray(b"-" * 30)

        def get_buffer(self, sizehint):
            return memoryview(self.arena)[10:20]

        def buffer_updated(self, nbytes):
            self.data += self.arena[10 : 10 + nbytes]

    protocol = Windowed()
    _, peer = await connect(protocol)
    peer.send(b"abcdefghijklmnopqrstuvwxyz")
    await eventually(lambda: len(protocol.data) == 26)
    assert protocol.data == b"abcdefghijklmnopqrstuvwxyz"
    assert protocol.arena[:10] == b"-" * 10
    assert protocol.arena[20:] == b"-" * 10


async def test_buffer_is_released_after_each_read(loop, connect, eventually):
    """The protocol may resize its bytearray in buffer_updated: nobody else exports it."""

    class Resizing(BufferedRecorder):
        size = 10

        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.buffer.extend(b"grow")
            del self.buffer[10:]

    protocol = Resizing()
    _, peer = await connect(protocol)
    peer.send(b"x" * 95)
    await eventually(lambda: len(protocol.data) == 95)


@pytest.mark.parametrize("empty", [b"", bytearray(), memoryview(bytearray())])
async def test_empty_buffer_is_an_error(loop, connect, eventually, unhandled, empty):
    class Empty(BufferedRecorder):
        def get_buffer(self, sizehint):
            return empty

    protocol = Empty()
    transport, peer = await connect(protocol)
    peer.send(b"x")
    await eventually(lambda: protocol.lost)
    (context,) = unhandled
    assert context["message"] == "Fatal error: protocol.get_buffer() call failed."
    assert isinstance(context["exception"], RuntimeError)
    assert str(context["exception"]) == "get_buffer() returned an empty buffer"
    assert context["transport"] is transport
    assert protocol.lost_exception is context["exception"]


@pytest.mark.parametrize("wrong", [None, 42, b"read only bytes", "text"])
async def test_unusable_buffer_is_an_error(loop, connect, eventually, unhandled, wrong):
    class Wrong(BufferedRecorder):
        def get_buffer(self, sizehint):
            return wrong

    protocol = Wrong()
    _, peer = await connect(protocol)
    peer.send(b"x")
    await eventually(lambda: protocol.lost)
    (context,) = unhandled
    assert isinstance(context["exception"], TypeError | BufferError)
    assert protocol.lost_exception is context["exception"]


async def test_switch_to_a_plain_protocol(loop, connect, eventually):
    plain = Recorder()

    class First(BufferedRecorder):
        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.transport.set_protocol(plain)

    first = First()
    transport, peer = await connect(first)
    peer.send(b"first")
    await eventually(lambda: first.data == b"first")
    assert transport.get_protocol() is plain
    peer.send(b"second")
    await eventually(lambda: plain.data == b"second")
    assert first.data == b"first"
    assert plain.names == ["data_received"]


async def test_switch_to_a_buffered_protocol(loop, connect, eventually):
    buffered = BufferedRecorder()

    class First(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.set_protocol(buffered)

    first = First()
    transport, peer = await connect(first)
    peer.send(b"first")
    await eventually(lambda: first.data == b"first")
    assert transport.get_protocol() is buffered
    peer.send(b"second")
    await eventually(lambda: buffered.data == b"second")
    assert first.data == b"first"


async def test_switching_back_and_forth_loses_nothing(loop, connect, eventually):
    class Both:
        pieces = bytearray()

    both = Both()

    class Plain(Recorder):
        def data_received(self, data):
            both.pieces += data
            both.transport.set_protocol(buffered)

    class Buffered(BufferedRecorder):
        size = 5

        def buffer_updated(self, nbytes):
            both.pieces += self.buffer[:nbytes]
            both.transport.set_protocol(plain)

    plain, buffered = Plain(), Buffered()
    both.transport, peer = await connect(plain)
    expected = bytearray()
    for number in range(100):
        data = b"%d," % number
        expected += data
        peer.send(data)
        await eventually(lambda expected=bytes(expected): both.pieces == expected)
    assert both.pieces == expected


async def test_switch_from_outside_between_messages(loop, connect, eventually):
    plain, buffered = Recorder(), BufferedRecorder()
    transport, peer = await connect(plain)
    peer.send(b"one")
    await eventually(lambda: plain.data == b"one")
    transport.set_protocol(buffered)
    peer.send(b"two")
    await eventually(lambda: buffered.data == b"two")
    transport.set_protocol(plain)
    peer.send(b"three")
    await eventually(lambda: plain.data == b"onethree")
    peer.close()
    await eventually(lambda: plain.lost)
    assert not buffered.lost


async def test_pause_in_buffer_updated(loop, connect, eventually):
    class Pausing(BufferedRecorder):
        size = 10

        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.transport.pause_reading()

    protocol = Pausing()
    transport, peer = await connect(protocol)
    peer.send(b"0123456789abcdefghij")
    await eventually(lambda: len(protocol.data) == 10)
    for _ in range(5):
        await asyncio.sleep(0.001)
    assert protocol.data == b"0123456789"
    transport.resume_reading()
    await eventually(lambda: len(protocol.data) == 20)


async def test_close_in_get_buffer(loop, connect, eventually):
    class Closing(BufferedRecorder):
        def get_buffer(self, sizehint):
            self.transport.close()
            return super().get_buffer(sizehint)

    protocol = Closing()
    _, peer = await connect(protocol)
    peer.send(b"x")
    await eventually(lambda: protocol.lost)
    assert protocol.lost_exception is None


async def test_write_in_buffer_updated(loop, connect):
    class Echo(BufferedRecorder):
        def buffer_updated(self, nbytes):
            self.transport.write(self.buffer[:nbytes])

    _, peer = await connect(Echo())
    for number in range(100):
        message = b"message %d" % number
        peer.send(message)
        assert await peer.read(len(message)) == message


async def test_write_of_a_view_of_the_own_buffer(loop, connect):
    """write() copies: the buffer is overwritten by the next read."""

    class Echo(BufferedRecorder):
        size = 16

        def buffer_updated(self, nbytes):
            self.transport.write(memoryview(self.buffer)[:nbytes])

    _, peer = await connect(Echo())
    data = bytes(range(256)) * 8
    peer.send(data)
    assert await peer.read(len(data)) == data


async def test_both_bases_at_once(loop, connect, eventually):
    """BufferedProtocol decides, as in asyncio."""
    protocol = BufferedRecorder()
    assert isinstance(protocol, asyncio.Protocol)
    _, peer = await connect(protocol)
    peer.send(b"x")
    await eventually(lambda: protocol.data)
    assert "data_received" not in protocol.names
