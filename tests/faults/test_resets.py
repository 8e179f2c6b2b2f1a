"""The peer resets or closes at every stage of a connection's life.

Descriptors are compared with a private attribute of transports.
"""

import asyncio
import socket
import threading

import pytest

from tests.support.streams import MIB, BufferedRecorder, Peer, Recorder, tcp_pair

MANY = b"x" * 4 * MIB


def lost_once(protocol):
    return protocol.names.count("connection_lost") == 1


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
async def test_in_the_middle_of_reading(loop, connect_tcp, eventually, kind):
    """What was received before the reset may be dropped by the system, but nothing comes twice."""
    protocol = kind()
    _, peer = await connect_tcp(protocol)
    peer.send(b"y" * 100_000)
    await eventually(lambda: len(protocol.data) == 100_000)
    peer.send(b"z")
    peer.reset()
    await eventually(lambda: protocol.lost)
    assert isinstance(protocol.lost_exception, ConnectionResetError)
    assert lost_once(protocol)


async def test_with_data_queued(loop, connect_tcp, eventually):
    protocol = Recorder()
    transport, peer = await connect_tcp(protocol)
    transport.write(MANY)
    assert transport.get_write_buffer_size()
    peer.reset()
    await eventually(lambda: protocol.lost)
    assert isinstance(protocol.lost_exception, (ConnectionResetError, BrokenPipeError))
    assert transport.get_write_buffer_size() == 0
    assert lost_once(protocol)


async def test_while_paused_with_data_queued(loop, connect_tcp, eventually):
    protocol = Recorder()
    transport, peer = await connect_tcp(protocol)
    transport.pause_reading()
    transport.write(MANY)
    peer.reset()
    await eventually(lambda: protocol.lost)
    assert lost_once(protocol)


async def test_while_paused(loop, connect_tcp, eventually):
    """The reset is not noticed before the next write or resume_reading()."""
    protocol = Recorder()
    transport, peer = await connect_tcp(protocol)
    transport.pause_reading()
    peer.reset()
    await asyncio.sleep(0.01)
    transport.resume_reading()
    await eventually(lambda: protocol.lost)
    assert isinstance(protocol.lost_exception, ConnectionResetError)


async def test_in_connection_made(loop, eventually, opened):
    class Written(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            peer.reset()
            transport.write(b"x")
            transport.write(MANY)

    ours, theirs = tcp_pair()
    peer = Peer(theirs)
    transport, protocol = await loop.connect_accepted_socket(Written, ours)
    await eventually(lambda: protocol.lost)
    assert lost_once(protocol)
    assert transport.is_closing()


async def test_while_corked(loop, connect_tcp, eventually):
    """The peer is gone when data_received() returns and what it wrote is sent."""

    class Answering(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.write(b"answer")
            peer.reset()
            self.transport.write(MANY)
            self.transport.write(b"more")

    protocol = Answering()
    _, peer = await connect_tcp(protocol)
    peer.send(b"question")
    await eventually(lambda: protocol.lost)
    assert lost_once(protocol)
    assert protocol.data == b"question"


@pytest.mark.parametrize("half", ["ours", "theirs"])
async def test_after_half_close(loop, connect_tcp, eventually, half):
    class KeptOpen(Recorder):
        def eof_received(self):
            super().eof_received()
            return True

    protocol = KeptOpen()
    transport, peer = await connect_tcp(protocol)
    if half == "ours":
        transport.write(b"last")
        transport.write_eof()
        assert await peer.read_to_end() == b"last"
    else:
        peer.sock.shutdown(socket.SHUT_WR)
        await eventually(lambda: "eof_received" in protocol.names)
    peer.reset()
    if half == "theirs":
        # Nothing is read any more: sending finds out.
        for _ in range(1000):
            if transport.is_closing():
                break
            transport.write(b"x" * 1000)
            await asyncio.sleep(0.001)
    await eventually(lambda: protocol.lost)
    assert lost_once(protocol)


async def test_while_closing_with_data_queued(loop, connect_tcp, eventually):
    protocol = Recorder()
    transport, peer = await connect_tcp(protocol)
    transport.write(MANY)
    transport.close()
    assert not protocol.lost
    peer.reset()
    await eventually(lambda: protocol.lost)
    assert lost_once(protocol)


async def test_half_open_peer_that_never_reads(loop, connect_tcp, eventually):
    """Flow control holds, other connections go on, and abort() ends it."""
    stuck, quick = Recorder(), Recorder()
    transport, _ = await connect_tcp(stuck)
    other, other_peer = await connect_tcp(quick)
    transport.write(MANY)
    assert stuck.names[-1] == "pause_writing"
    for number in range(50):
        other_peer.send(b"%03d" % number)
        await eventually(lambda number=number: quick.data.endswith(b"%03d" % number))
        other.write(b"%03d" % number)
        assert await other_peer.read(3) == b"%03d" % number
    transport.close()
    await asyncio.sleep(0.01)
    assert not stuck.lost
    transport.abort()
    await eventually(lambda: stuck.lost)


async def test_stream_methods_after_a_reset(loop, connect_tcp, eventually):
    ours, theirs = tcp_pair()
    peer = Peer(theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(MANY)
    draining = loop.create_task(writer.drain())
    reading = loop.create_task(reader.read(1))
    await asyncio.sleep(0)
    peer.reset()
    for task in (draining, reading):
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(task, 60)
    with pytest.raises(ConnectionError):
        await writer.drain()
    with pytest.raises(ConnectionError):
        await writer.wait_closed()


# What may be called on a transport that is closed.
CALLS = {
    "write": (b"data",),
    "write nothing": (b"",),
    "write wrong": ("text",),
    "writelines": ([b"a", b"b"],),
    "write_eof": (),
    "can_write_eof": (),
    "close": (),
    "abort": (),
    "is_closing": (),
    "is_reading": (),
    "pause_reading": (),
    "resume_reading": (),
    "set_protocol": (Recorder(),),
    "get_write_buffer_size": (),
    "get_write_buffer_limits": (),
    "set_write_buffer_limits": (10, 1),
    "get_extra_info": ("sockname",),
    "get_extra_info peer": ("peername",),
    "get_extra_info nothing": ("no such thing", "default"),
    "__repr__": (),
}
# asyncio's transports have forgotten their loop and their buffer, and fail for want of them.
BETTER_THAN_ASYNCIO = {"set_write_buffer_limits", "writelines"}


def outcomes(loop_factory, how):
    """Each method of a transport that is closing, and of one that is closed."""

    async def main():
        found = {}
        for stage in ("closing", "closed"):
            for name, arguments in CALLS.items():
                ours, theirs = tcp_pair()
                protocol = Recorder()
                transport, _ = await loop.connect_accepted_socket(lambda p=protocol: p, ours)
                getattr(transport, how)()
                if stage == "closed":
                    while not protocol.lost:
                        await asyncio.sleep(0)
                    await asyncio.sleep(0)
                try:
                    value = getattr(transport, name.split()[0])(*arguments)
                    if name.startswith(("__repr__", "get_extra_info")):
                        value = type(value)
                except Exception as error:
                    value = type(error)
                found[stage, name] = value
                while not protocol.lost and "set_protocol" not in name:
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
                theirs.close()
        return found

    loop = loop_factory()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


@pytest.mark.parametrize("how", ["close", "abort"])
def test_every_method_of_a_closed_transport(loop_factory, how, asyncio_log):
    expected = outcomes(asyncio.SelectorEventLoop, how)
    found = outcomes(loop_factory, how)
    different = {
        key: (found[key], expected[key])
        for key in expected
        if found[key] != expected[key] and key[1] not in BETTER_THAN_ASYNCIO
    }
    assert different == {}


@pytest.mark.improves_on_asyncio
async def test_get_extra_info_from_threads_while_connections_end(loop, eventually):
    """Answers or None, never an error and never somebody else's socket."""
    errors, stop = [], threading.Event()
    current = []

    def ask():
        while not stop.is_set():
            for transport, address in list(current):
                try:
                    sock = transport.get_extra_info("socket")
                    assert sock.fileno() in (-1, transport._sock_fd)
                    assert transport.get_extra_info("sockname") in (None, address)
                    repr(transport)
                except BaseException as error:
                    errors.append(error)
                    return

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(40):
            ours, theirs = tcp_pair()
            address = ours.getsockname()
            protocol = Recorder()
            transport, _ = await loop.connect_accepted_socket(lambda p=protocol: p, ours)
            current.append((transport, address))
            await asyncio.sleep(0.0005)
            theirs.close()
            await eventually(lambda protocol=protocol: protocol.lost)
            del current[:-3]
    finally:
        stop.set()
        for thread in threads:
            await asyncio.to_thread(thread.join)
    assert errors == []
