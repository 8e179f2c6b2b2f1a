"""Connections that end with data to be read or sent. A private method ends one with an error."""

import asyncio
import select
import socket

import pytest

from tests.support.streams import MIB, Recorder, others_done


async def test_closed_by_pause_writing_of_connection_made(loop, connect):
    """What was written before the transport had begun leaves all the same."""

    class Closing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"x" * 4 * MIB)

        def pause_writing(self):
            super().pause_writing()
            self.transport.close()

    _, peer = await connect(Closing())
    assert await peer.read_to_end() == b"x" * 4 * MIB


async def test_last_words_of_a_peer_that_goes_while_we_write(loop, connect, eventually):
    """They are read although writing fails, as a refusal that comes in the middle of an upload."""
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.write(b"x" * 8 * MIB)
    assert transport.get_write_buffer_size() > 0
    peer.send(b"too large")
    peer.close()
    await eventually(lambda: protocol.lost)
    assert protocol.data == b"too large"
    assert isinstance(protocol.lost_exception, ConnectionError)


async def test_last_words_that_come_after_the_poll(loop, connect, eventually):
    """The loop knows only that it can write, and that fails."""

    class Ender(Recorder):
        def data_received(self, data):
            peer.send(b"too large")
            peer.close()

    _, trigger = await connect(Ender())
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.write(b"x" * 8 * MIB)
    assert transport.get_write_buffer_size() > 0
    await asyncio.sleep(0)
    # One poll reports both; the first one then makes the second fail.
    trigger.send(b"now")
    read = 0
    while read < MIB // 8:
        select.select([peer.sock], [], [], 60)
        read += len(peer.sock.recv(MIB // 8))
    await eventually(lambda: protocol.lost)
    assert protocol.data == b"too large"
    assert isinstance(protocol.lost_exception, ConnectionError)


async def test_written_before_eof_received_raises(loop, connect, eventually, unhandled):
    class Raising(Recorder):
        def eof_received(self):
            self.transport.write(b"farewell")
            raise ArithmeticError

    protocol = Raising()
    _, peer = await connect(protocol)
    peer.sock.shutdown(1)
    assert await peer.read_to_end() == b"farewell"
    await eventually(lambda: protocol.lost)
    assert isinstance(protocol.lost_exception, ArithmeticError)
    assert [context["message"] for context in unhandled] == [
        "Fatal error: protocol.eof_received() call failed."
    ]


async def test_written_before_a_fatal_error_elsewhere(loop, connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.write(b"farewell")
    transport._force_close(OSError("from above"))
    assert await peer.read_to_end() == b"farewell"
    await eventually(lambda: protocol.lost)
    assert str(protocol.lost_exception) == "from above"


async def test_lower_limits_after_a_small_write(loop, connect):
    """What the socket takes does not pause the protocol, however low the limit is."""
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.write(b"small")
    transport.set_write_buffer_limits(0)
    assert await peer.read(5) == b"small"
    await others_done()
    assert protocol.names == ["connection_made"]


async def test_higher_limits_in_pause_writing(loop, connect):
    """They resume the protocol when something has left, not at once."""

    class Generous(Recorder):
        def pause_writing(self):
            super().pause_writing()
            self.transport.set_write_buffer_limits(64 * MIB)

    protocol = Generous()
    transport, peer = await connect(protocol)
    transport.write(b"x" * 4 * MIB)
    await asyncio.sleep(0)
    assert protocol.names[1:] == ["pause_writing"]
    assert await peer.read(4 * MIB) == b"x" * 4 * MIB
    assert protocol.names[1:] == ["pause_writing", "resume_writing"]


@pytest.mark.parametrize("end", ["write_eof", "close", "abort"])
def test_a_peer_of_the_same_loop_sees_the_end_in_the_next_iteration(loop_factory, end):
    """However many callbacks are ready, it is told as early as by asyncio."""

    async def iterations():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        peer = Recorder()
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        await loop.connect_accepted_socket(lambda: peer, theirs)
        await asyncio.sleep(0.01)
        count = 0

        def iterate():
            nonlocal count
            count += 1
            if not peer.lost:
                loop.call_soon(iterate)

        iterate()
        getattr(transport, end)()
        while not peer.lost:
            await asyncio.sleep(0)
        transport.close()
        await asyncio.sleep(0)
        return count

    counts = []
    for factory in (asyncio.SelectorEventLoop, loop_factory):
        with asyncio.Runner(loop_factory=factory) as runner:
            counts.append(runner.run(iterations()))
    assert counts[0] == counts[1]
