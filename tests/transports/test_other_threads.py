"""Other threads that write to a connection while its loop sleeps, as asyncio lets them."""

import asyncio
import socket
import sys
import threading

import pytest

import hybridloop
from tests.support.streams import Recorder

GIL = getattr(sys, "_is_gil_enabled", lambda: True)()

pytestmark = pytest.mark.skipif(not GIL, reason="refused without a global interpreter lock")

ASLEEP = 0.05


def in_thread(*bodies):
    """Run them in another thread, one after another; give back what the last one returns."""
    results = []

    def run():
        try:
            for body in bodies:
                results.append(body())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if isinstance(results[-1], BaseException):
        raise results[-1]
    return results[-1]


def while_asleep(loop, *bodies):
    """The same, while the loop has nothing to do but to wait."""
    outcome = loop.create_future()

    def run():
        threading.Event().wait(ASLEEP)
        try:
            result, error = in_thread(*bodies), None
        except BaseException as raised:
            result, error = None, raised
        loop.call_soon_threadsafe(finish, result, error)

    def finish(result, error):
        thread.join()
        if error is None:
            outcome.set_result(result)
        else:
            outcome.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    return outcome


def read_from(peer, count):
    peer.sock.setblocking(True)
    peer.sock.settimeout(60)
    data = b""
    while len(data) < count:
        chunk = peer.sock.recv(count - len(data))
        if not chunk:
            break
        data += chunk
    return data


WRITES = {
    "write": lambda transport: transport.write(b"data"),
    "writelines": lambda transport: transport.writelines([b"da", b"ta"]),
    "bytearray": lambda transport: transport.write(bytearray(b"data")),
}


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("how", WRITES)
async def test_write(loop, connect, how, debug):
    loop.set_debug(debug)
    transport, peer = await connect()
    sent = while_asleep(loop, lambda: WRITES[how](transport), lambda: read_from(peer, len(b"data")))
    assert await sent == b"data"


async def test_write_while_the_protocol_is_called(loop, connect):
    """What another thread writes does not wait until the protocol returns."""
    received = []

    class Waiting(Recorder):
        def data_received(self, data):
            received.append(
                in_thread(lambda: self.transport.write(b"data"), lambda: read_from(peer, 4))
            )

    _, peer = await connect(Waiting())
    peer.send(b"request")
    while not received:
        await asyncio.sleep(0.001)
    assert received == [b"data"]


async def test_order(loop, connect):
    """The bytes of both threads arrive in the order of the writes."""
    transport, peer = await connect()
    transport.write(b"first ")
    in_thread(lambda: transport.write(b"second "))
    transport.write(b"third")
    assert await peer.read(18) == b"first second third"


async def test_much(loop, connect):
    """More than the socket takes: the loop sends the rest, and flow control works."""
    protocol = Recorder()
    transport, peer = await connect(protocol)
    data = bytes(range(256)) * 16 * 1024
    sent = while_asleep(loop, lambda: transport.write(data), lambda: read_from(peer, len(data)))
    assert await sent == data
    while "resume_writing" not in protocol.names:
        await asyncio.sleep(0.001)
    assert protocol.names[1:] == ["pause_writing", "resume_writing"]


async def test_write_eof(loop, connect):
    transport, peer = await connect()
    sent = while_asleep(
        loop,
        lambda: transport.write(b"data"),
        transport.write_eof,
        lambda: read_from(peer, 100),
    )
    assert await sent == b"data"


async def test_resume_reading(loop, connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.pause_reading()
    peer.send(b"data")
    arrived = threading.Event()
    protocol.data_received = lambda data: arrived.set()
    sent = while_asleep(loop, transport.resume_reading, lambda: arrived.wait(60))
    assert await sent


@pytest.mark.improves_on_asyncio  # its loop sleeps on, and connection_lost() waits
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_end(loop, connect, how):
    protocol = Recorder()
    lost = threading.Event()
    protocol.connection_lost = lambda exc: lost.set()
    transport, peer = await connect(protocol)
    sent = while_asleep(
        loop,
        lambda: transport.write(b"data"),
        getattr(transport, how),
        lambda: (read_from(peer, 100), lost.wait(60)),
    )
    assert await sent == (b"data", True)


@pytest.mark.improves_on_asyncio  # which raises the same, and leaves the transport half closed
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_end_in_debug_mode(loop, connect, how):
    """It is refused, as everything that schedules a callback, and changes nothing."""
    loop.set_debug(True)
    transport, peer = await connect()
    with pytest.raises(RuntimeError, match="Non-thread-safe operation"):
        in_thread(getattr(transport, how))
    assert not transport.is_closing()
    transport.write(b"data")
    assert await peer.read(4) == b"data"


STREAMS = {"asyncio": asyncio, "hybridloop": hybridloop}


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("how", WRITES)
async def test_stream_writers(loop, streams, how):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _, writer = await STREAMS[streams].open_connection(*listener.getsockname())
        sock, _ = listener.accept()
    with sock:
        sock.settimeout(60)
        sent = while_asleep(loop, lambda: WRITES[how](writer), lambda: sock.recv(4))
        assert await sent in (b"data", b"da")
        writer.close()
        await writer.wait_closed()


async def test_datagrams(loop):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(60)
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=sock.getsockname()
        )
        sent = while_asleep(loop, lambda: transport.sendto(b"data"), lambda: sock.recv(10))
        assert await sent == b"data"
        transport.close()
        await asyncio.sleep(0)
