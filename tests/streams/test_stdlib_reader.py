"""asyncio's reader, fed by the transport without a Python call unless it was changed.

Private attributes are checked and changed.
"""

import asyncio
import gc
import socket
import sysconfig
import weakref

import pytest

from tests.conftest import turned_off
from tests.support.streams import socket_of, tcp_pair

from .conftest import python_calls

FEEDING = {"data_received", "feed_data", "_wakeup_waiter", "_stream_reader"}
LIMIT = 1024

FED_NATIVELY = not sysconfig.get_config_var("Py_GIL_DISABLED") and not turned_off("stream_reader")


@pytest.mark.skipif(
    not FED_NATIVELY,
    reason="asyncio's reader is fed by its own methods with HYBRIDLOOP_SAFE, and without a "
    "global interpreter lock",
)
async def test_no_python_call_feeds_it(loop, connect, eventually):
    reader, _, peer = await connect()
    with python_calls() as calls:
        peer.send(b"one")
        await eventually(lambda: len(reader._buffer) == 3)
        peer.send(b"two")
        assert await reader.readexactly(6) == b"onetwo"
        waiting = asyncio.create_task(reader.read(100))
        await eventually(lambda: reader._waiter is not None)
        peer.send(b"three")
        assert await waiting == b"three"
    assert not calls & FEEDING
    assert reader._waiter is None
    assert type(reader._buffer) is bytearray
    assert not reader._buffer


def on_instance(reader, protocol, function):
    reader.feed_data = function


def on_protocol(reader, protocol, function):
    protocol.data_received = function


def on_instance_instead(reader, protocol, function):
    """With as many attributes as before."""
    del reader._exception
    reader.feed_data = function


def on_protocol_instead(reader, protocol, function):
    del protocol._reject_connection
    protocol.data_received = function


@pytest.mark.parametrize(
    "place", [on_instance, on_protocol, on_instance_instead, on_protocol_instead]
)
async def test_a_method_of_the_instance_counts(loop, connect, eventually, place):
    reader, writer, peer = await connect()
    peer.send(b"before")
    assert await reader.readexactly(6) == b"before"
    seen = []
    place(reader, writer.transport.get_protocol(), seen.append)
    peer.send(b"after")
    await eventually(lambda: b"".join(seen) == b"after")
    assert not reader._buffer


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("feed_data", asyncio.StreamReader),
        ("_wakeup_waiter", asyncio.StreamReader),
        ("data_received", asyncio.StreamReaderProtocol),
    ],
)
async def test_a_method_patched_into_the_class_counts(loop, connect, monkeypatch, name, owner):
    reader, _, peer = await connect()
    peer.send(b"1")
    assert await reader.readexactly(1) == b"1"
    calls = []
    original = getattr(owner, name)

    def spy(*args):
        calls.append(name)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, spy)
        peer.send(b"2")
        assert await reader.readexactly(1) == b"2"
    assert calls
    calls.clear()
    with python_calls() as functions:
        peer.send(b"3")
        assert await reader.readexactly(1) == b"3"
    assert not calls
    if FED_NATIVELY:
        assert not functions & FEEDING


async def test_subclasses_are_called(loop, opened, eventually):
    class Reader(asyncio.StreamReader):
        fed = b""

        def feed_data(self, data):
            self.fed += data
            super().feed_data(data)

    class Protocol(asyncio.StreamReaderProtocol):
        received = b""

        def data_received(self, data):
            self.received += data
            super().data_received(data)

    for reader_class, protocol_class in [
        (Reader, asyncio.StreamReaderProtocol),
        (asyncio.StreamReader, Protocol),
    ]:
        ours, theirs = tcp_pair()
        with theirs:
            reader = reader_class(loop=loop)
            protocol = protocol_class(reader, loop=loop)
            transport, _ = await loop.create_connection(lambda p=protocol: p, sock=ours)
            theirs.sendall(b"data")
            assert await reader.readexactly(4) == b"data"
            assert getattr(reader, "fed", b"data") == b"data"
            assert getattr(protocol, "received", b"data") == b"data"
            transport.close()
            await eventually(lambda sock=ours: sock.fileno() == -1)


async def test_the_transport_is_paused_beyond_twice_the_limit(loop, connect, eventually):
    reader, writer, peer = await connect(limit=LIMIT)
    peer.send(b"x" * 2 * LIMIT)
    await eventually(lambda: len(reader._buffer) == 2 * LIMIT)
    assert writer.transport.is_reading()
    assert reader._paused is False
    peer.send(b"y")
    await eventually(lambda: len(reader._buffer) == 2 * LIMIT + 1)
    assert not writer.transport.is_reading()
    assert reader._paused is True
    peer.send(b"z" * 10)
    assert len(await reader.read(LIMIT)) == LIMIT
    assert reader._paused is True
    assert len(await reader.read(1)) == 1
    assert reader._paused is False
    assert (await reader.readexactly(LIMIT + 10))[-11:] == b"y" + b"z" * 10


async def test_a_cancelled_reader_loses_nothing(loop, connect, eventually):
    reader, _, peer = await connect()
    waiting = asyncio.create_task(reader.read(10))
    await eventually(lambda: reader._waiter is not None)
    waiting.cancel()
    peer.send(b"data")
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await reader.readexactly(4) == b"data"


async def test_a_waiter_cancelled_before_the_task_runs(loop, connect, eventually):
    reader, _, peer = await connect()
    waiting = asyncio.create_task(reader.read(10))
    await eventually(lambda: reader._waiter is not None)
    reader._waiter.cancel()
    peer.send(b"data")
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await reader.readexactly(4) == b"data"


async def test_data_behind_a_forced_end_of_file_is_an_error(loop, connect, unhandled, eventually):
    reader, writer, peer = await connect()
    reader.feed_eof()
    peer.send(b"data")
    await eventually(lambda: unhandled)
    assert isinstance(unhandled[0]["exception"], AssertionError)
    assert str(unhandled[0]["exception"]) == "feed_data after feed_eof"
    assert unhandled[0]["message"] == "Fatal error: protocol.data_received() call failed."
    unhandled.clear()
    assert writer.is_closing()


async def test_an_exported_buffer_is_an_error(loop, connect, unhandled, eventually):
    reader, writer, peer = await connect()
    with memoryview(reader._buffer):
        peer.send(b"data")
        await eventually(lambda: unhandled)
    assert isinstance(unhandled[0]["exception"], BufferError)
    unhandled.clear()
    assert writer.is_closing()


async def test_data_for_a_reader_that_is_gone_is_dropped(loop, connect, iterate_until_read):
    reader, writer, peer = await connect()
    writer._reader = None
    gone = weakref.ref(reader)
    del reader
    gc.collect()
    assert gone() is None
    await iterate_until_read(peer, writer.transport, b"data")
    assert not writer.is_closing()


@pytest.fixture
def iterate_until_read():
    """Sends data and waits until the transport has taken it off the socket."""

    async def iterate_until_read(peer, transport, data):
        peer.send(data)
        sock = socket_of(transport)
        for _ in range(1000):
            await asyncio.sleep(0.001)
            try:
                if not sock.recv(1, socket.MSG_PEEK):
                    break
            except BlockingIOError:
                return
        raise AssertionError("the data was not read")

    return iterate_until_read


async def test_end_and_reset(loop, connect):
    reader, _, peer = await connect()
    peer.send(b"rest")
    peer.sock.shutdown(socket.SHUT_WR)
    assert await reader.read() == b"rest"
    assert reader.at_eof()
    assert reader._eof is True

    reader, _, peer = await connect()
    waiting = asyncio.create_task(reader.readline())
    peer.send(b"half a li")
    await asyncio.sleep(0)
    peer.reset()
    with pytest.raises(ConnectionResetError):
        await waiting
    assert isinstance(reader.exception(), ConnectionResetError)


@pytest.mark.parametrize("size", [1, 1000, 100_000, 16 << 20])
async def test_sizes(loop, connect, size):
    reader, writer, peer = await connect()
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    sending = asyncio.create_task(peer.send_all(data))
    assert await reader.readexactly(size) == data
    await sending
