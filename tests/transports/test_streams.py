"""asyncio's streams on top of the transports."""

import asyncio
import socket
import sys

import pytest

from tests.support.streams import MIB, Peer, others_done, tcp_pair


@pytest.fixture
def streams(loop, opened, make_pair):
    """``reader, writer, peer = await streams()`` with a raw socket at the other end."""
    writers = []

    async def streams(**options):
        ours, theirs = make_pair()
        peer = Peer(theirs)
        opened.append(peer)
        reader, writer = await asyncio.open_connection(sock=ours, **options)
        writers.append(writer)
        return reader, writer, peer

    yield streams
    for writer in writers:
        if writer.get_extra_info("socket").fileno() != -1:
            writer.transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))


async def closed(writer):
    writer.close()
    await writer.wait_closed()


async def test_readline(loop, streams):
    reader, _, peer = await streams()
    peer.send(b"one\ntwo\nthree")
    assert await reader.readline() == b"one\n"
    assert await reader.readline() == b"two\n"
    peer.sock.shutdown(socket.SHUT_WR)
    assert await reader.readline() == b"three"
    assert await reader.readline() == b""
    assert reader.at_eof()


async def test_readline_in_pieces(loop, streams):
    reader, _, peer = await streams()
    task = asyncio.create_task(reader.readline())
    for piece in (b"on", b"e l", b"ine", b"\n"):
        peer.send(piece)
        await asyncio.sleep(0.001)
    assert await task == b"one line\n"


async def test_async_iteration(loop, streams):
    reader, _, peer = await streams()
    await peer.send_all(b"".join(b"%d\n" % number for number in range(1000)))
    peer.sock.shutdown(socket.SHUT_WR)
    assert [int(line) async for line in reader] == list(range(1000))


async def test_readuntil(loop, streams):
    reader, _, peer = await streams()
    peer.send(b"key=value;rest")
    assert await reader.readuntil(b"=") == b"key="
    assert await reader.readuntil(b";") == b"value;"
    peer.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(asyncio.IncompleteReadError) as caught:
        await reader.readuntil(b"!")
    assert caught.value.partial == b"rest"


async def test_readexactly(loop, streams):
    reader, _, peer = await streams()
    sending = asyncio.create_task(peer.send_all(b"x" * 300_000))
    assert await reader.readexactly(0) == b""
    assert await reader.readexactly(123_456) == b"x" * 123_456
    assert await reader.readexactly(76_544) == b"x" * 76_544
    await sending
    peer.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(asyncio.IncompleteReadError) as caught:
        await reader.readexactly(200_000)
    assert len(caught.value.partial) == 100_000
    assert caught.value.expected == 200_000


async def test_limit(loop, streams):
    reader, _, peer = await streams(limit=100)
    peer.send(b"x" * 300 + b"\n")
    with pytest.raises(ValueError, match="longer than limit|exceed the limit"):
        await reader.readline()


async def test_reader_stops_reading_at_its_limit(loop, streams):
    """The peer's sending blocks as long as nobody reads; then everything comes."""
    reader, _, peer = await streams(limit=1000)
    sender = asyncio.create_task(peer.send_all(b"x" * 20 * MIB))
    for _ in range(30):
        await asyncio.sleep(0.001)
    assert not sender.done()
    assert len(await reader.readexactly(20 * MIB)) == 20 * MIB
    await sender


async def test_read_to_the_end(loop, streams):
    reader, _, peer = await streams()
    reading = asyncio.create_task(reader.read())
    await peer.send_all(b"y" * 500_000)
    peer.close()
    assert await reading == b"y" * 500_000


async def test_write_and_drain(loop, streams):
    _, writer, peer = await streams()
    writer.write(b"hello ")
    writer.writelines([b"wor", b"ld"])
    await writer.drain()
    assert await peer.read(11) == b"hello world"


async def test_drain_waits_for_a_slow_reader(loop, streams):
    _, writer, peer = await streams()
    writer.write(b"z" * 8 * MIB)
    draining = asyncio.create_task(writer.drain())
    for _ in range(10):
        await asyncio.sleep(0.001)
    assert not draining.done()
    assert await peer.read(8 * MIB) == b"z" * 8 * MIB
    await asyncio.wait_for(draining, 60)


async def test_several_tasks_drain_at_once(loop, streams):
    _, writer, peer = await streams()
    writer.write(b"z" * 8 * MIB)
    tasks = [asyncio.create_task(writer.drain()) for _ in range(10)]
    await asyncio.sleep(0.002)
    assert not any(task.done() for task in tasks)
    await peer.read(8 * MIB)
    await asyncio.wait_for(asyncio.gather(*tasks), 60)


async def test_drain_after_the_connection_is_lost(loop, streams):
    reader, writer, peer = await streams()
    writer.write(b"z" * 8 * MIB)
    draining = asyncio.create_task(writer.drain())
    await asyncio.sleep(0.002)
    peer.close()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(draining, 60)
    with pytest.raises(ConnectionError):
        await writer.drain()
    with pytest.raises(ConnectionError):
        await reader.read()


async def test_wait_closed(loop, streams):
    _, writer, peer = await streams()
    writer.write(b"bye")
    assert not writer.is_closing()
    writer.close()
    assert writer.is_closing()
    await writer.wait_closed()
    assert await peer.read_to_end() == b"bye"
    assert writer.get_extra_info("socket").fileno() == -1


async def test_half_close(loop, streams):
    reader, writer, peer = await streams()
    assert writer.can_write_eof()
    writer.write(b"request")
    writer.write_eof()
    assert await peer.read_to_end() == b"request"
    peer.send(b"response")
    peer.sock.shutdown(socket.SHUT_WR)
    assert await reader.read() == b"response"
    await closed(writer)


async def test_peer_half_closes(loop, streams):
    """StreamReaderProtocol keeps the connection: the answer can still be written."""
    reader, writer, peer = await streams()
    peer.send(b"request")
    peer.sock.shutdown(socket.SHUT_WR)
    assert await reader.read() == b"request"
    writer.write(b"response")
    await writer.drain()
    await closed(writer)
    assert await peer.read_to_end() == b"response"


async def test_reset_while_reading(loop, opened):
    ours, theirs = tcp_pair()
    peer = Peer(theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    reading = asyncio.create_task(reader.read())
    await asyncio.sleep(0)
    peer.reset()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reading, 60)
    writer.close()


async def test_cancelling_a_read(loop, streams):
    reader, _, peer = await streams()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readline(), 0.01)
    peer.send(b"line\n")
    assert await reader.readline() == b"line\n"


async def test_two_readers_at_once(loop, streams):
    reader, _, peer = await streams()
    first = asyncio.create_task(reader.readline())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="while another coroutine is already waiting"):
        await reader.readline()
    peer.send(b"x\n")
    assert await first == b"x\n"


async def test_start_server(loop):
    async def echo(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        await closed(writer)

    server = await asyncio.start_server(echo, "127.0.0.1", 0)

    async def client(number):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for step in range(20):
            line = b"%d %d\n" % (number, step)
            writer.write(line)
            assert await reader.readline() == line
        await closed(writer)

    async with server:
        await asyncio.gather(*(client(number) for number in range(20)))
        await others_done()


async def test_unix_streams(loop, tmp_path):
    async def shout(reader, writer):
        writer.write((await reader.readline()).upper())
        await closed(writer)

    path = str(tmp_path / "socket")
    server = await asyncio.start_unix_server(shout, path)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"hello\n")
    assert await reader.read() == b"HELLO\n"
    await closed(writer)
    await others_done()
    server.close()
    await server.wait_closed()


async def test_error_of_a_handler_is_reported(loop, unhandled, eventually):
    async def broken(reader, writer):
        try:
            raise ZeroDivisionError
        finally:
            writer.close()

    server = await asyncio.start_server(broken, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
    await closed(writer)
    await others_done()
    server.close()
    if sys.version_info >= (3, 12):
        await eventually(lambda: unhandled)
        assert isinstance(unhandled[0]["exception"], ZeroDivisionError)


async def test_request_and_response_many_times(loop, streams):
    reader, writer, peer = await streams()

    async def answer():
        for number in range(300):
            request = b"request %d\n" % number
            assert await peer.read(len(request)) == request
            peer.send(b"response %d\n" % number)

    task = asyncio.create_task(answer())
    for number in range(300):
        writer.write(b"request %d\n" % number)
        assert await reader.readline() == b"response %d\n" % number
    await task


async def test_large_transfer_both_ways(loop, make_pair):
    ours, theirs = make_pair()
    left_reader, left = await asyncio.open_connection(sock=ours)
    right_reader, right = await asyncio.open_connection(sock=theirs)
    size = 8 * MIB

    async def send(writer, byte):
        for _ in range(128):
            writer.write(byte * (size // 128))
            await writer.drain()
        writer.write_eof()

    _, _, from_right, from_left = await asyncio.gather(
        send(left, b"l"), send(right, b"r"), left_reader.read(), right_reader.read()
    )
    assert from_right == b"r" * size
    assert from_left == b"l" * size
    await closed(left)
    await closed(right)
