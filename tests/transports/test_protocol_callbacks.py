"""Which protocol callbacks come, in which order, and what happens when one raises."""

import asyncio
import socket

import pytest

from tests.support.descriptors import is_open
from tests.support.streams import BufferedRecorder, Recorder


async def test_order_of_a_whole_life(loop, connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    assert protocol.calls == [("connection_made", transport)]
    peer.send(b"hello")
    await eventually(lambda: protocol.data == b"hello")
    peer.sock.shutdown(socket.SHUT_WR)
    await eventually(lambda: protocol.lost)
    assert protocol.calls == [
        ("connection_made", transport),
        ("data_received", b"hello"),
        ("eof_received", None),
        ("connection_lost", None),
    ]


async def test_data_sent_before_the_transport_exists(loop, opened, make_pair, eventually):
    ours, theirs = make_pair()
    with theirs:
        theirs.send(b"early")
        theirs.shutdown(socket.SHUT_WR)
        transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
        opened.append(transport)
        await eventually(lambda: protocol.lost)
        assert protocol.names == [
            "connection_made",
            "data_received",
            "eof_received",
            "connection_lost",
        ]
        assert protocol.data == b"early"


async def test_data_is_bytes(loop, connect, eventually):
    protocol = Recorder()
    _, peer = await connect(protocol)
    peer.send(b"x" * 100)
    await eventually(lambda: protocol.data)
    assert {type(data) for name, data in protocol.calls if name == "data_received"} == {bytes}


async def test_received_bytes_stay_as_they_were(loop, connect, eventually):
    """Kept chunks are not overwritten by later reads into the same buffer."""
    protocol = Recorder()
    _, peer = await connect(protocol)
    for number in range(50):
        peer.send(b"%03d " % number * 10)
        expected = 40 * (number + 1)
        await eventually(lambda expected=expected: len(protocol.data) == expected)
    chunks = [data for name, data in protocol.calls if name == "data_received"]
    assert b"".join(chunks) == bytes(protocol.data)


@pytest.mark.parametrize(
    "sizes", [[1], [100] * 50, [4095, 4096, 4097], [65535, 65536, 65537], [300_000], [3_000_000]]
)
async def test_every_byte_arrives_in_order(loop, connect, eventually, sizes):
    protocol = Recorder()
    _, peer = await connect(protocol)
    expected = bytearray()
    for index, size in enumerate(sizes):
        block = bytes((index * 7 + position) % 251 for position in range(min(size, 251)))
        data = (block * (size // len(block) + 1))[:size]
        expected += data
        await peer.send_all(data)
    await eventually(lambda: len(protocol.data) >= len(expected))
    assert protocol.data == expected


async def test_connection_lost_only_once(loop, connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.close()
    transport.abort()
    transport.close()
    peer.close()
    await eventually(lambda: protocol.lost)
    for _ in range(5):
        await asyncio.sleep(0)
    assert protocol.names.count("connection_lost") == 1


async def test_connection_lost_does_not_come_from_inside_close(loop, connect):
    protocol = Recorder()
    transport, _ = await connect(protocol)
    transport.close()
    assert not protocol.lost
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert protocol.lost


async def test_no_data_after_close(loop, connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    peer.send(b"late")
    transport.close()
    await eventually(lambda: protocol.lost)
    assert "data_received" not in protocol.names


async def test_no_data_after_abort(loop, connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    peer.send(b"late")
    transport.abort()
    await eventually(lambda: protocol.lost)
    assert "data_received" not in protocol.names


@pytest.mark.parametrize(
    ("kind", "callback"),
    [
        (Recorder, "data_received"),
        (Recorder, "eof_received"),
        (BufferedRecorder, "buffer_updated"),
        (BufferedRecorder, "get_buffer"),
        (BufferedRecorder, "eof_received"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
async def test_exception_closes_the_transport(loop, connect, eventually, unhandled, kind, callback):
    error = ZeroDivisionError("protocol is broken")

    def broken(*args):
        raise error

    protocol = kind()
    setattr(protocol, callback, broken)
    transport, peer = await connect(protocol)
    fd = transport.get_extra_info("socket").fileno()
    if callback == "eof_received":
        peer.sock.shutdown(socket.SHUT_WR)
    else:
        peer.send(b"data")
    await eventually(lambda: protocol.lost)
    assert protocol.lost_exception is error
    assert error.__traceback__.tb_frame is not None
    (context,) = unhandled
    assert context == {
        "message": f"Fatal error: protocol.{callback}() call failed.",
        "exception": error,
        "transport": transport,
        "protocol": protocol,
    }
    assert not is_open(fd)


async def test_os_error_of_data_received_is_no_fault_of_the_protocol(
    loop, connect, eventually, unhandled
):
    """asyncio reports only what is not an OSError; connection_lost gets it all the same."""
    error = ConnectionError("mine")

    class Broken(Recorder):
        def data_received(self, data):
            raise error

    protocol = Broken()
    _, peer = await connect(protocol)
    peer.send(b"data")
    await eventually(lambda: protocol.lost)
    assert protocol.lost_exception is error
    assert unhandled == []


@pytest.mark.parametrize("callback", ["connection_made", "connection_lost"])
async def test_exception_outside_reading_is_reported(
    loop, make_pair, eventually, unhandled, callback
):
    error = ZeroDivisionError("protocol is broken")

    class Broken(Recorder):
        pass

    def broken(self, argument):
        getattr(Recorder, callback)(self, argument)
        raise error

    setattr(Broken, callback, broken)
    ours, theirs = make_pair()
    with theirs:
        fd = ours.fileno()
        transport, protocol = await loop.connect_accepted_socket(Broken, ours)
        transport.close()
        await eventually(lambda: protocol.lost)
        (context,) = unhandled
        assert context["exception"] is error
        assert context["message"].startswith("Exception in callback ")
        await eventually(lambda: not is_open(fd))


async def test_exception_in_connection_lost_after_an_abort_with_pending_data(
    loop, connect, eventually, unhandled
):
    class Broken(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise ZeroDivisionError

    protocol = Broken()
    transport, _ = await connect(protocol)
    fd = transport.get_extra_info("socket").fileno()
    transport.write(b"x" * 10_000_000)
    transport.abort()
    await eventually(lambda: protocol.lost)
    assert len(unhandled) == 1
    assert not is_open(fd)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_interrupt_from_data_received_leaves_run_forever(loop, make_pair, kind):
    class Interrupting(Recorder):
        def data_received(self, data):
            raise kind("stop here")

    ours, theirs = make_pair()
    transport, _ = loop.run_until_complete(loop.connect_accepted_socket(Interrupting, ours))
    theirs.send(b"x")
    with pytest.raises(kind, match="stop here"):
        loop.run_forever()
    transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    theirs.close()


async def test_write_in_connection_made(loop, connect):
    class Greeting(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"welcome")

    _, peer = await connect(Greeting())
    assert await peer.read(7) == b"welcome"


async def test_close_in_connection_made(loop, connect, eventually):
    class Closing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"bye")
            transport.close()

    protocol = Closing()
    _, peer = await connect(protocol)
    assert await peer.read_to_end() == b"bye"
    await eventually(lambda: protocol.lost)
    assert protocol.names == ["connection_made", "connection_lost"]


async def test_abort_in_connection_made(loop, connect, eventually):
    class Aborting(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.abort()

    protocol = Aborting()
    _, peer = await connect(protocol)
    peer_data = await peer.read_to_end()
    assert peer_data == b""
    await eventually(lambda: protocol.lost)


async def test_pause_in_connection_made(loop, connect, eventually):
    class Pausing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    protocol = Pausing()
    transport, peer = await connect(protocol)
    peer.send(b"wait")
    await asyncio.sleep(0.02)
    assert protocol.data == b""
    transport.resume_reading()
    await eventually(lambda: protocol.data == b"wait")


async def test_close_in_data_received_with_the_transport_kept(loop, connect, eventually):
    """The fd is closed by close(), not by the garbage collector."""

    class Closing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.write(b"got it")
            self.transport.close()

    protocol = Closing()
    _, peer = await connect(protocol)
    fd = protocol.transport.get_extra_info("socket").fileno()
    peer.send(b"data")
    assert await peer.read_to_end() == b"got it"
    await eventually(lambda: protocol.lost)
    assert not is_open(fd)
    assert protocol.transport is not None


async def test_abort_in_data_received(loop, connect, eventually):
    class Aborting(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.abort()

    protocol = Aborting()
    _, peer = await connect(protocol)
    peer.send(b"a")
    await eventually(lambda: protocol.lost)
    assert protocol.lost_exception is None
    assert protocol.data == b"a"


async def test_write_in_connection_lost_is_dropped(loop, connect, eventually):
    class Late(Recorder):
        def connection_lost(self, exc):
            self.transport.write(b"too late")
            super().connection_lost(exc)

    protocol = Late()
    transport, peer = await connect(protocol)
    transport.close()
    assert await peer.read_to_end() == b""
    await eventually(lambda: protocol.lost)


async def test_echo_back_and_forth(loop, connect):
    class Echo(Recorder):
        def data_received(self, data):
            self.transport.write(data)

    _, peer = await connect(Echo())
    for number in range(300):
        message = b"message %d" % number
        peer.send(message)
        assert await peer.read(len(message)) == message


async def test_protocol_without_a_base_class(loop, connect, eventually):
    """Duck typing: asyncio asks only for the methods."""

    class Plain:
        data = b""
        lost = False

        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.data += data

        def eof_received(self):
            return False

        def connection_lost(self, exc):
            self.lost = True

    protocol = Plain()
    _, peer = await connect(protocol)
    peer.send(b"plain")
    await eventually(lambda: protocol.data == b"plain")
    peer.close()
    await eventually(lambda: protocol.lost)


async def test_data_received_replaced_on_the_instance(loop, connect, eventually):
    """The method is looked up at each call, as in asyncio."""
    protocol = Recorder()
    _, peer = await connect(protocol)
    peer.send(b"one")
    await eventually(lambda: protocol.data == b"one")
    replaced = []
    protocol.data_received = replaced.append
    peer.send(b"two")
    await eventually(lambda: replaced)
    assert replaced == [b"two"]
    assert protocol.data == b"one"


async def test_callbacks_see_the_running_loop(loop, connect, eventually):
    seen = []

    class Asking(Recorder):
        def data_received(self, data):
            seen.append(asyncio.get_running_loop() is loop)
            seen.append(asyncio.current_task() is None)

    _, peer = await connect(Asking())
    peer.send(b"x")
    await eventually(lambda: seen)
    assert seen == [True, True]


async def test_fairness_between_a_busy_and_a_quiet_connection(loop, connect_tcp, eventually):
    """An endless sender does not keep another connection from being read."""
    busy, quiet = Recorder(), Recorder()
    busy_transport, busy_peer = await connect_tcp(busy)
    _, quiet_peer = await connect_tcp(quiet)

    async def flood():
        while True:
            await busy_peer.send_all(b"x" * 65536)
            await asyncio.sleep(0)

    task = asyncio.create_task(flood())
    await eventually(lambda: busy.data)
    quiet_peer.send(b"hello")
    await eventually(lambda: quiet.data == b"hello")
    task.cancel()
    busy_transport.abort()
