"""`write()`, `writelines()`, `write_eof()`: arguments, errors and guarantees.

Error messages are compared with those of asyncio's private class.
"""

import array
import asyncio
import ctypes
import mmap
import socket
import struct
import sys
from asyncio import selector_events

import pytest

from tests.support.descriptors import is_open
from tests.support.streams import Recorder

BYTES_LIKE = {
    "bytes": lambda data: data,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "view of a bytearray": lambda data: memoryview(bytearray(data)),
    "slice": lambda data: memoryview(b"--" + data + b"--")[2:-2],
}


class Subclass(bytes):
    pass


class ArraySubclass(bytearray):
    pass


@pytest.mark.parametrize("make", BYTES_LIKE.values(), ids=BYTES_LIKE.keys())
async def test_bytes_like_objects(loop, connect, make):
    transport, peer = await connect()
    transport.write(make(b"payload"))
    assert await peer.read(7) == b"payload"


@pytest.mark.parametrize("kind", [Subclass, ArraySubclass])
async def test_subclasses(loop, connect, kind):
    transport, peer = await connect()
    transport.write(kind(b"payload"))
    assert await peer.read(7) == b"payload"


@pytest.mark.parametrize("code", ["H", "i", "d"])
async def test_memoryview_of_wide_items(loop, connect, code):
    items = array.array(code, range(1, 21))
    transport, peer = await connect()
    transport.write(memoryview(items))
    expected = items.tobytes()
    assert await peer.read(len(expected)) == expected


@pytest.mark.improves_on_asyncio
async def test_large_memoryview_of_wide_items(loop, connect):
    """asyncio counts items where it means bytes and loses the rest of a partial send."""
    items = array.array("Q", range(500_000))
    transport, peer = await connect()
    transport.write(memoryview(items))
    expected = items.tobytes()
    assert await peer.read(len(expected)) == expected


async def test_memoryview_of_two_dimensions(loop, connect):
    view = memoryview(bytes(range(12))).cast("B", (3, 4))
    transport, peer = await connect()
    transport.write(view)
    assert await peer.read(12) == bytes(range(12))


async def test_view_of_an_mmap(loop, connect):
    with mmap.mmap(-1, 4096) as memory:
        memory[:5] = b"mmap!"
        transport, peer = await connect()
        with memoryview(memory) as view:
            transport.write(view[:5])
        assert await peer.read(5) == b"mmap!"


@pytest.mark.parametrize(
    "wrong",
    ["text", 42, None, [b"x"], array.array("B", b"x"), ctypes.create_string_buffer(3)],
    ids=lambda value: type(value).__name__,
)
async def test_wrong_types(loop, connect, wrong):
    transport, peer = await connect()
    with pytest.raises(TypeError) as caught:
        transport.write(wrong)
    with pytest.raises(TypeError) as of_asyncio:
        selector_events._SelectorSocketTransport.write(None, wrong)
    assert str(caught.value) == str(of_asyncio.value)
    assert type(wrong).__name__ in str(caught.value)
    transport.write(b"still works")
    assert await peer.read(11) == b"still works"


@pytest.mark.parametrize("empty", [b"", bytearray(), memoryview(b"")])
async def test_empty_write_does_nothing(loop, connect, empty):
    transport, peer = await connect()
    transport.write(empty)
    transport.writelines([])
    transport.writelines([empty, empty])
    assert transport.get_write_buffer_size() == 0
    await asyncio.sleep(0.005)
    assert peer.nothing_to_read()


async def test_returns_none(loop, connect):
    transport, peer = await connect()
    assert transport.write(b"a") is None
    assert transport.writelines([b"b"]) is None
    assert await peer.read(2) == b"ab"


@pytest.mark.parametrize("arguments", [(), (b"a", b"b")])
async def test_wrong_number_of_arguments(loop, connect, arguments):
    transport, _ = await connect()
    with pytest.raises(TypeError):
        transport.write(*arguments)


async def test_order_of_many_writes(loop, connect):
    transport, peer = await connect()
    expected = bytearray()
    for number in range(2000):
        data = b"%d," % number
        transport.write(data)
        expected += data
    assert await peer.read(len(expected)) == expected


@pytest.mark.parametrize("kind", [list, tuple, iter])
async def test_writelines_takes(loop, connect, kind):
    transport, peer = await connect()
    transport.writelines(kind([b"one ", bytearray(b"two "), memoryview(b"three")]))
    expected = b"one two three"
    assert await peer.read(len(expected)) == expected


async def test_writelines_of_many(loop, connect):
    """More pieces than one sendmsg call takes."""
    transport, peer = await connect()
    pieces = [b"%05d" % number for number in range(5000)]
    transport.writelines(pieces)
    assert await peer.read(25_000) == b"".join(pieces)


async def test_writelines_behind_pending_data(loop, connect):
    transport, peer = await connect()
    transport.write(b"a" * 5_000_000)
    transport.writelines([b"b" * 10, b"c" * 10])
    transport.write(b"d")
    received = await peer.read(5_000_021)
    assert received == b"a" * 5_000_000 + b"b" * 10 + b"c" * 10 + b"d"


async def test_writelines_with_a_wrong_piece(loop, connect):
    transport, peer = await connect()
    with pytest.raises(TypeError) as of_python:
        b"".join([b"good", 42]) if sys.version_info < (3, 12) else memoryview(42)
    with pytest.raises(TypeError) as caught:
        transport.writelines([b"good", 42])
    assert str(caught.value) == str(of_python.value)


async def test_writelines_after_eof(loop, connect):
    transport, _ = await connect()
    transport.write_eof()
    name = "writelines" if sys.version_info >= (3, 12) else "write"
    with pytest.raises(RuntimeError, match=rf"^Cannot call {name}\(\) after write_eof\(\)$"):
        transport.writelines([b"x"])


@pytest.mark.parametrize("size", [100, 65536, 1_000_000, 16 * 1024 * 1024])
async def test_bytes_of_any_size(loop, connect, size):
    transport, peer = await connect()
    block = bytes(range(251))
    data = (block * (size // 251 + 1))[:size]
    transport.write(data)
    assert await peer.read(size) == data


@pytest.mark.improves_on_asyncio
async def test_mutating_a_bytearray_after_write(loop, connect):
    """write() copies. asyncio 3.12 and later keep a view: pending data would change."""
    transport, peer = await connect()
    data = bytearray(b"a" * 5_000_000)
    transport.write(data)
    data[:] = b"b" * len(data)
    data.clear()
    assert await peer.read(5_000_000) == b"a" * 5_000_000


@pytest.mark.improves_on_asyncio
async def test_mutating_after_writelines(loop, connect):
    transport, peer = await connect()
    data = bytearray(b"a" * 3_000_000)
    transport.writelines([data, memoryview(data)])
    data[:] = b"b" * len(data)
    data.clear()
    assert await peer.read(6_000_000) == b"a" * 6_000_000


async def test_mutating_a_small_bytearray_after_write(loop, connect):
    """The same with what fits one send; asyncio has sent it by then."""
    transport, peer = await connect()
    data = bytearray(b"before")
    transport.write(data)
    data[:] = b"after!"
    assert await peer.read(6) == b"before"


async def test_mutating_in_data_received(loop, connect):
    class Echo(Recorder):
        def data_received(self, data):
            scratch = bytearray(data)
            self.transport.write(scratch)
            scratch[:] = b"overwritten"

    _, peer = await connect(Echo())
    peer.send(b"original")
    assert await peer.read(8) == b"original"


async def test_write_from_a_callback_of_another_connection(loop, connect):
    class Forwarding(Recorder):
        def data_received(self, data):
            self.other.transport.write(data)

    one, two = Forwarding(), Forwarding()
    one.other, two.other = two, one
    _, one_peer = await connect(one)
    _, two_peer = await connect(two)
    one_peer.send(b"to two")
    assert await two_peer.read(6) == b"to two"
    two_peer.send(b"to one")
    assert await one_peer.read(6) == b"to one"


async def test_write_from_call_soon_timer_and_task(loop, connect):
    transport, peer = await connect()
    loop.call_soon(transport.write, b"soon")
    assert await peer.read(4) == b"soon"
    loop.call_later(0.001, transport.write, b"timer")
    assert await peer.read(5) == b"timer"

    async def writer():
        transport.write(b"task")

    await asyncio.create_task(writer())
    assert await peer.read(4) == b"task"
    loop.call_soon_threadsafe(transport.write, b"thread")
    assert await peer.read(6) == b"thread"


def test_written_right_before_the_loop_stops(loop, make_pair):
    ours, theirs = make_pair()
    transport, _ = loop.run_until_complete(loop.connect_accepted_socket(Recorder, ours))

    async def last_words():
        transport.write(b"last words")

    loop.run_until_complete(last_words())
    theirs.settimeout(60)
    assert theirs.recv(100) == b"last words"
    loop.call_soon(lambda: (transport.write(b"callback's"), loop.stop()))
    loop.run_forever()
    assert theirs.recv(100) == b"callback's"
    transport.close()
    loop.run_until_complete(asyncio.sleep(0))
    theirs.close()


def test_written_while_the_loop_rests(loop, make_pair):
    """Writes outside of the loop's run arrive at the latest with the next run."""
    ours, theirs = make_pair()
    transport, _ = loop.run_until_complete(loop.connect_accepted_socket(Recorder, ours))
    transport.write(b"at rest")
    loop.run_until_complete(asyncio.sleep(0))
    theirs.settimeout(60)
    assert theirs.recv(100) == b"at rest"
    transport.close()
    loop.run_until_complete(asyncio.sleep(0))
    theirs.close()


def test_written_right_before_an_interrupt(loop, make_pair):
    ours, theirs = make_pair()
    transport, _ = loop.run_until_complete(loop.connect_accepted_socket(Recorder, ours))

    def write_and_exit():
        transport.write(b"last words")
        raise SystemExit

    loop.call_soon(write_and_exit)
    with pytest.raises(SystemExit):
        loop.run_forever()
    theirs.settimeout(60)
    assert theirs.recv(100) == b"last words"
    transport.close()
    loop.run_until_complete(asyncio.sleep(0))
    theirs.close()


async def test_can_write_eof(loop, connect):
    transport, _ = await connect()
    assert transport.can_write_eof() is True


async def test_write_eof_shuts_down_the_sending_side(loop, connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.write(b"the end")
    transport.write_eof()
    assert await peer.read_to_end() == b"the end"
    assert not transport.is_closing()
    peer.send(b"answer")
    await eventually(lambda: protocol.data == b"answer")


async def test_write_eof_waits_for_pending_data(loop, connect):
    transport, peer = await connect()
    transport.write(b"x" * 5_000_000)
    transport.write_eof()
    assert await peer.read_to_end() == b"x" * 5_000_000


async def test_write_after_write_eof(loop, connect):
    transport, peer = await connect()
    transport.write_eof()
    transport.write_eof()
    with pytest.raises(RuntimeError, match=r"^Cannot call write\(\) after write_eof\(\)$"):
        transport.write(b"x")
    with pytest.raises(RuntimeError, match=r"after write_eof\(\)$"):
        transport.writelines([b"x"])
    assert await peer.read_to_end() == b""


async def test_write_eof_after_close(loop, connect):
    transport, peer = await connect()
    transport.close()
    transport.write_eof()
    assert await peer.read_to_end() == b""


async def test_write_after_close_is_dropped(loop, connect, asyncio_log):
    transport, peer = await connect()
    transport.write(b"kept")
    transport.close()
    transport.write(b"dropped")
    transport.write(b"dropped")
    assert await peer.read_to_end() == b"kept"
    assert asyncio_log.messages == []


async def test_write_after_close_warns_from_the_fifth_on(loop, connect, asyncio_log):
    """connection_lost counts as the first."""
    transport, _ = await connect()
    transport.close()
    for expected in (0, 0, 0, 0, 1, 2, 3):
        transport.write(b"dropped")
        assert asyncio_log.messages == ["socket.send() raised exception."] * expected


async def test_write_long_after_the_connection_is_gone(loop, connect, eventually, asyncio_log):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    peer.close()
    await eventually(lambda: protocol.lost)
    for _ in range(10):
        transport.write(b"dropped")
    assert len(asyncio_log.messages) == 6
    assert transport.get_write_buffer_size() == 0


async def test_wrong_type_after_close_is_still_an_error(loop, connect):
    transport, _ = await connect()
    transport.close()
    with pytest.raises(TypeError, match="data argument must be a bytes"):
        transport.write("text")


async def test_write_to_a_peer_that_is_gone(loop, connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.pause_reading()
    fd = transport.get_extra_info("socket").fileno()
    peer.close()

    def write_until_lost():
        transport.write(b"x" * 1000)
        return protocol.lost

    await eventually(write_until_lost)
    assert isinstance(protocol.lost_exception, BrokenPipeError | ConnectionResetError)
    assert not is_open(fd)
    assert transport.is_closing()


async def test_pending_data_of_a_peer_that_is_gone(loop, connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.pause_reading()
    transport.write(b"x" * 10_000_000)
    await asyncio.sleep(0.005)
    peer.close()
    await eventually(lambda: protocol.lost)
    assert isinstance(protocol.lost_exception, BrokenPipeError | ConnectionResetError)
    assert transport.get_write_buffer_size() == 0


async def test_nagle_is_off(loop, connect_tcp):
    transport, _ = await connect_tcp()
    sock = transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_struct_packed_pieces(loop, connect):
    """What binary protocols do: header and body in writelines, thousands of times."""
    transport, peer = await connect()
    total = bytearray()
    for number in range(500):
        body = b"b" * (number % 50)
        header = struct.pack("!IH", number, len(body))
        transport.writelines([header, body])
        total += header + body
    assert await peer.read(len(total)) == total
