"""connect_read_pipe() with everything that has a reading end."""

import asyncio
import os
import tempfile

import pytest

from tests.support.streams import MIB, Recorder


async def test_data_and_end(loop, ends, connect_read, eventually):
    reading, writing = ends
    _, protocol = await connect_read(reading)
    os.write(writing, b"hello")
    await eventually(lambda: protocol.data == b"hello")
    os.close(writing)
    await eventually(lambda: protocol.lost)
    assert protocol.names == [
        "connection_made",
        "data_received",
        "eof_received",
        "connection_lost",
    ]
    assert protocol.lost_exception is None
    with pytest.raises(OSError):
        os.fstat(reading)


async def test_end_at_once(loop, ends, connect_read, eventually):
    reading, writing = ends
    os.close(writing)
    _, protocol = await connect_read(reading)
    await eventually(lambda: protocol.lost)
    assert protocol.data == b""


async def test_what_was_written_before_the_end(loop, ends, connect_read, eventually):
    reading, writing = ends
    os.write(writing, b"x" * 10_000)
    os.close(writing)
    _, protocol = await connect_read(reading)
    await eventually(lambda: protocol.lost)
    assert protocol.data == b"x" * 10_000


async def test_pausing(loop, ends, connect_read, eventually):
    reading, writing = ends
    transport, protocol = await connect_read(reading)
    assert transport.is_reading()
    transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    os.write(writing, b"later")
    await asyncio.sleep(0.01)
    assert protocol.data == b""
    transport.resume_reading()
    transport.resume_reading()
    await eventually(lambda: protocol.data == b"later")


async def test_end_while_paused(loop, ends, connect_read, eventually):
    reading, writing = ends
    transport, protocol = await connect_read(reading)
    transport.pause_reading()
    os.write(writing, b"last words")
    os.close(writing)
    await asyncio.sleep(0.01)
    assert not protocol.lost
    transport.resume_reading()
    await eventually(lambda: protocol.lost)
    assert protocol.data == b"last words"


async def test_closing(loop, ends, connect_read, eventually):
    reading, _ = ends
    transport, protocol = await connect_read(reading)
    assert not transport.is_closing()
    transport.close()
    transport.close()
    assert transport.is_closing()
    await eventually(lambda: protocol.lost)
    assert protocol.names == ["connection_made", "connection_lost"]


async def test_much(loop, ends, connect_read, eventually):
    reading, writing = ends
    _, protocol = await connect_read(reading)
    data = os.urandom(MIB)

    def write():
        view = memoryview(data)
        os.set_blocking(writing, True)
        while view:
            view = view[os.write(writing, view) :]
        os.close(writing)

    await asyncio.to_thread(write)
    await eventually(lambda: protocol.lost)
    assert bytes(protocol.data) == data


async def test_exception_in_data_received(loop, ends, connect_read, unhandled, eventually):
    class Failing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            raise ValueError("no")

    reading, writing = ends
    _, protocol = await connect_read(reading, Failing())
    os.write(writing, b"x")
    await eventually(lambda: unhandled)
    assert isinstance(unhandled[0]["exception"], ValueError)
    assert not protocol.lost


async def test_terminal(loop, pseudo_terminal, connect_read, eventually):
    """A terminal's other end that is gone gives EIO: the connection is lost without a word."""
    master, slave = pseudo_terminal
    _, protocol = await connect_read(master)
    os.write(slave, b"typed\n")
    await eventually(lambda: protocol.data == b"typed\n")
    os.close(slave)
    await eventually(lambda: protocol.lost)
    assert isinstance(protocol.lost_exception, OSError)


async def test_stream_reader(loop, ends, transports, eventually):
    reading, writing = ends
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", 0)
    )
    transports.append(transport)
    os.write(writing, b"line\nrest")
    assert await reader.readline() == b"line\n"
    os.close(writing)
    assert await reader.read() == b"rest"


async def test_regular_files_are_refused(loop):
    with tempfile.TemporaryFile() as file:
        with pytest.raises(ValueError, match="Pipe transport is for pipes/sockets only"):
            await loop.connect_read_pipe(Recorder, file)
        assert not file.closed


async def test_repr(loop, ends, connect_read, eventually):
    reading, _ = ends
    transport, protocol = await connect_read(reading)
    assert repr(transport).endswith(f"fd={reading} polling>")
    transport.pause_reading()
    assert repr(transport).endswith(f"fd={reading} idle>")
    transport.close()
    await eventually(lambda: protocol.lost)
    assert "closed" in repr(transport)


async def test_one_end_read_twice(loop, connect_read, eventually):
    """As in asyncio, the last reader gets the data; none closes the other's descriptor."""
    reading, writing = os.pipe()
    _, first = await connect_read(os.dup(reading))
    _, second = await connect_read(reading)
    os.write(writing, b"for one")
    await eventually(lambda: first.data + second.data == b"for one")
    os.close(writing)
    await eventually(lambda: first.lost and second.lost)


async def test_what_is_there_at_the_beginning(loop, connect_read):
    """It is read before anything that is done an iteration later."""
    for _ in range(20):
        reading, writing = os.pipe()
        os.write(writing, b"there")
        transport, protocol = await connect_read(reading)
        await asyncio.sleep(0)
        assert protocol.data == b"there"
        transport.pause_reading()
        os.write(writing, b" and then")
        transport.resume_reading()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert protocol.data == b"there and then"
        os.close(writing)
