"""close, abort, resets, half-closed connections, and transports nobody closed."""

import asyncio
import contextlib
import errno
import gc
import os
import socket
import warnings

import pytest

from tests.support.descriptors import is_open
from tests.support.streams import MIB, BufferedRecorder, Peer, Recorder
from tests.support.waiting import iterations_of_a_rest


async def test_close_flushes_everything(loop, connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    data = os.urandom(1 << 16) * 256
    transport.write(data)
    transport.close()
    assert transport.is_closing()
    assert await peer.read_to_end() == data
    await eventually(lambda: protocol.lost)
    assert protocol.lost_exception is None
    assert "connection_lost" not in protocol.names[:-1]


async def test_connection_is_not_lost_before_everything_is_flushed(loop, connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.write(b"x" * 8 * MIB)
    transport.close()
    for _ in range(10):
        await asyncio.sleep(0.001)
    assert not protocol.lost
    assert transport.get_write_buffer_size() > 0
    await peer.read(8 * MIB)


async def test_close_with_nothing_pending(loop, connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    fd = transport.get_extra_info("socket").fileno()
    transport.close()
    assert await peer.read_to_end() == b""
    await eventually(lambda: protocol.lost)
    assert protocol.lost_exception is None
    assert not is_open(fd)


async def test_fd_is_closed_right_after_connection_lost(loop, connect):
    """In connection_lost itself the socket still is open, as in asyncio."""
    states = []

    class Asking(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            states.append(is_open(fd))

    protocol = Asking()
    transport, _ = await connect(protocol)
    fd = transport.get_extra_info("socket").fileno()
    transport.close()
    while not protocol.lost:
        await asyncio.sleep(0)
    assert states == [True]
    assert not is_open(fd)


async def test_abort_drops_pending_data(loop, connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.write(b"x" * 10 * MIB)
    await asyncio.sleep(0)
    fd = transport.get_extra_info("socket").fileno()
    transport.abort()
    assert transport.is_closing()
    assert transport.get_write_buffer_size() == 0
    await eventually(lambda: protocol.lost)
    assert protocol.lost_exception is None
    assert not is_open(fd)
    assert len(await peer.read_to_end()) < 10 * MIB


async def test_abort_after_close_with_pending_data(loop, connect, eventually):
    protocol = Recorder()
    transport, _ = await connect(protocol)
    transport.write(b"x" * 10 * MIB)
    transport.close()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not protocol.lost
    transport.abort()
    await eventually(lambda: protocol.lost)
    assert protocol.lost_exception is None


async def test_peer_vanishes_while_close_is_flushing(loop, connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    fd = transport.get_extra_info("socket").fileno()
    transport.write(b"x" * 10 * MIB)
    transport.close()
    await asyncio.sleep(0.005)
    peer.close()
    await eventually(lambda: protocol.lost)
    assert isinstance(protocol.lost_exception, ConnectionResetError | BrokenPipeError)
    assert protocol.lost_exception.errno in (errno.ECONNRESET, errno.EPIPE)
    assert not is_open(fd)


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
async def test_reset_by_peer(loop, connect_tcp, eventually, kind):
    protocol = kind()
    transport, peer = await connect_tcp(protocol)
    fd = transport.get_extra_info("socket").fileno()
    peer.reset()
    await eventually(lambda: protocol.lost)
    assert isinstance(protocol.lost_exception, ConnectionResetError)
    assert protocol.lost_exception.errno == errno.ECONNRESET
    assert protocol.lost_exception.strerror == os.strerror(errno.ECONNRESET)
    assert "eof_received" not in protocol.names
    assert not is_open(fd)
    assert transport.is_closing()


async def test_data_before_a_reset(loop, connect_tcp, eventually):
    protocol = Recorder()
    _, peer = await connect_tcp(protocol)
    peer.send(b"last words")
    await eventually(lambda: protocol.data == b"last words")
    peer.reset()
    await eventually(lambda: protocol.lost)
    assert isinstance(protocol.lost_exception, ConnectionResetError)


async def test_reset_with_pending_writes(loop, connect_tcp, eventually):
    protocol = Recorder()
    transport, peer = await connect_tcp(protocol)
    transport.write(b"x" * 10 * MIB)
    await asyncio.sleep(0.005)
    peer.reset()
    await eventually(lambda: protocol.lost)
    assert isinstance(protocol.lost_exception, ConnectionResetError | BrokenPipeError)
    assert transport.get_write_buffer_size() == 0


async def test_reset_while_reading_is_paused(loop, connect_tcp, eventually):
    """Without a reader asyncio does not notice; after resume_reading it has to."""
    protocol = Recorder()
    transport, peer = await connect_tcp(protocol)
    transport.pause_reading()
    peer.reset()
    await asyncio.sleep(0.01)
    transport.resume_reading()
    await eventually(lambda: protocol.lost)
    assert isinstance(protocol.lost_exception, ConnectionResetError)


async def test_many_resets_leak_nothing(loop, connect_tcp, eventually):
    protocols = []
    for _ in range(50):
        protocol = Recorder()
        _, peer = await connect_tcp(protocol)
        peer.reset()
        protocols.append(protocol)
    await eventually(lambda: all(protocol.lost for protocol in protocols))
    fds = [protocol.transport.get_extra_info("socket").fileno() for protocol in protocols]
    assert set(fds) == {-1}


@pytest.mark.parametrize("answer", [None, False, 0, ""])
async def test_eof_received_false_closes(loop, connect, eventually, answer):
    class Ending(Recorder):
        def eof_received(self):
            super().eof_received()
            self.transport.write(b"goodbye")
            return answer

    protocol = Ending()
    _, peer = await connect(protocol)
    peer.sock.shutdown(socket.SHUT_WR)
    assert await peer.read_to_end() == b"goodbye"
    await eventually(lambda: protocol.lost)
    assert protocol.lost_exception is None


@pytest.mark.parametrize("answer", [True, 1, "yes"])
async def test_eof_received_true_keeps_the_sending_side(loop, connect, eventually, answer):
    class Lingering(Recorder):
        def eof_received(self):
            super().eof_received()
            return answer

    protocol = Lingering()
    transport, peer = await connect(protocol)
    peer.send(b"question")
    peer.sock.shutdown(socket.SHUT_WR)
    await eventually(lambda: "eof_received" in protocol.names)
    assert not transport.is_closing()
    transport.write(b"answer" * 500_000)
    assert await peer.read(3_000_000) == b"answer" * 500_000
    assert not protocol.lost
    transport.close()
    assert await peer.read_to_end() == b""
    await eventually(lambda: protocol.lost)
    assert protocol.names.count("eof_received") == 1


@pytest.mark.improves_on_asyncio
async def test_an_end_is_told_once_to_who_pauses_and_resumes(loop, connect, eventually):
    class Lingering(Recorder):
        def eof_received(self):
            super().eof_received()
            return True

    protocol = Lingering()
    transport, peer = await connect(protocol)
    peer.sock.shutdown(socket.SHUT_WR)
    await eventually(lambda: "eof_received" in protocol.names)
    for _ in range(3):
        transport.pause_reading()
        await asyncio.sleep(0.001)
        transport.resume_reading()
        await asyncio.sleep(0.001)
    assert protocol.names.count("eof_received") == 1
    transport.write(b"answer")
    assert await peer.read(6) == b"answer"


async def test_half_closed_connection_does_not_spin(loop, connect, eventually):
    class Lingering(Recorder):
        def eof_received(self):
            super().eof_received()
            return True

    protocol = Lingering()
    _, peer = await connect(protocol)
    peer.sock.shutdown(socket.SHUT_WR)
    await eventually(lambda: "eof_received" in protocol.names)
    assert await iterations_of_a_rest(loop) < 20


async def test_both_sides_write_eof(loop, connect, eventually):
    class Lingering(Recorder):
        def eof_received(self):
            super().eof_received()
            return True

    protocol = Lingering()
    transport, peer = await connect(protocol)
    transport.write(b"bye")
    transport.write_eof()
    assert await peer.read_to_end() == b"bye"
    peer.sock.shutdown(socket.SHUT_WR)
    await eventually(lambda: "eof_received" in protocol.names)
    await asyncio.sleep(0.005)
    assert not protocol.lost
    transport.close()
    await eventually(lambda: protocol.lost)
    assert protocol.lost_exception is None


async def test_close_from_another_callback(loop, connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    loop.call_soon(transport.close)
    assert await peer.read_to_end() == b""
    await eventually(lambda: protocol.lost)


async def test_closing_twice(loop, connect, eventually):
    protocol = Recorder()
    transport, _ = await connect(protocol)
    transport.close()
    transport.close()
    await eventually(lambda: protocol.lost)
    transport.close()
    transport.abort()
    assert protocol.names.count("connection_lost") == 1


@pytest.mark.improves_on_asyncio
async def test_abort_long_after_a_flushing_close(loop, connect, eventually):
    """asyncio raises AttributeError here."""
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.write(b"x" * 8 * MIB)
    transport.close()
    await peer.read_to_end()
    await eventually(lambda: protocol.lost)
    transport.abort()
    await asyncio.sleep(0)
    assert protocol.names.count("connection_lost") == 1


async def test_set_protocol_before_connection_lost(loop, connect, eventually):
    one, two = Recorder(), Recorder()
    transport, _ = await connect(one)
    transport.set_protocol(two)
    transport.close()
    await eventually(lambda: two.lost)
    assert not one.lost


def unclosed_transport_warnings(caught):
    return [
        str(warning.message)
        for warning in caught
        if warning.category is ResourceWarning and "unclosed transport" in str(warning.message)
    ]


def test_unclosed_transport_warns_and_closes(loop_factory, make_pair):
    """A transport that dies with its loop says so, and its fd goes."""
    loop = loop_factory()
    ours, theirs = make_pair()
    fd = ours.fileno()
    loop.run_until_complete(loop.connect_accepted_socket(asyncio.Protocol, ours))
    del ours
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.close()
        del loop
        gc.collect()
    assert unclosed_transport_warnings(caught)
    assert not is_open(fd)
    theirs.close()


def test_closed_transport_does_not_warn(loop_factory, make_pair):
    loop = loop_factory()
    ours, theirs = make_pair()

    async def main():
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        transport.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.run_until_complete(main())
        loop.close()
        loop = None
        gc.collect()
    assert unclosed_transport_warnings(caught) == []
    theirs.close()


async def test_transport_lives_while_the_loop_watches_it(loop, make_pair, eventually):
    """Nobody but the loop holds transport and protocol: data still comes."""
    seen = []

    class Recording(asyncio.Protocol):
        def data_received(self, data):
            seen.append(data)

        def connection_lost(self, exc):
            seen.append("lost")

    ours, theirs = make_pair()
    await loop.connect_accepted_socket(Recording, ours)
    del ours
    gc.collect()
    theirs.send(b"still there?")
    await eventually(lambda: seen == [b"still there?"])
    theirs.close()
    await eventually(lambda: seen[-1] == "lost")


async def test_transport_of_a_pending_write_lives(loop, make_pair):
    """Close with data pending, drop everything: the data still goes out."""
    ours, theirs = make_pair()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    del ours
    transport.write(b"x" * 5 * MIB)
    transport.close()
    del transport
    gc.collect()
    peer = Peer(theirs)
    assert len(await peer.read_to_end()) == 5 * MIB
    peer.close()


def test_closing_the_loop_with_open_transports(loop_factory, make_pair):
    """Methods of such a transport do not crash afterwards."""
    loop = loop_factory()
    ours, theirs = make_pair()
    transport, _ = loop.run_until_complete(loop.connect_accepted_socket(asyncio.Protocol, ours))
    del ours
    loop.close()
    assert transport.is_closing() is False
    assert "Transport" in repr(transport)
    assert transport.get_write_buffer_size() == 0
    assert transport.get_extra_info("nothing") is None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport
        gc.collect()
    assert len(unclosed_transport_warnings(caught)) == 1
    theirs.close()


def test_abort_after_the_loop_is_closed(loop_factory, make_pair):
    """Nothing can be scheduled any more, which asyncio answers with RuntimeError; the fd goes."""
    loop = loop_factory()
    ours, theirs = make_pair()
    fd = ours.fileno()
    transport, _ = loop.run_until_complete(loop.connect_accepted_socket(asyncio.Protocol, ours))
    del ours
    loop.close()
    with contextlib.suppress(RuntimeError):
        transport.abort()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del transport, loop
        gc.collect()
    assert not is_open(fd)
    theirs.close()


async def test_connect_and_close_many_times(loop, make_pair, eventually):
    protocols = []
    for _ in range(200):
        ours, theirs = make_pair()
        transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
        transport.write(b"x")
        transport.close()
        theirs.close()
        protocols.append(protocol)
    await eventually(lambda: all(protocol.lost for protocol in protocols))


async def test_error_while_detaching_leaves_the_next_connection_alone(
    loop, connect, eventually, unhandled
):
    """The fd number comes back to a new transport that works."""

    class Broken(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise ZeroDivisionError

    for _ in range(5):
        broken = Broken()
        transport, _ = await connect(broken)
        transport.close()
        await eventually(lambda broken=broken: broken.lost)
        healthy = Recorder()
        _, peer = await connect(healthy)
        peer.send(b"hello")
        await eventually(lambda healthy=healthy: healthy.data == b"hello")
    assert len(unhandled) == 5
