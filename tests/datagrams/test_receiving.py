"""What comes in: callbacks, contexts, exceptions, fairness."""

import asyncio
import contextvars
import itertools
import socket

import pytest

from tests.support.datagrams import Recorder, plain_socket
from tests.support.waiting import iterations_of_a_rest

variable = contextvars.ContextVar("variable", default="unset")


async def test_burst(open_endpoint, opened, eventually):
    """What was there before the first look arrives in order, though the socket is reported once."""
    transport, protocol = await open_endpoint()
    peer = plain_socket()
    opened.append(peer)
    for count in (1, 2, 15, 16, 17, 64, 100):
        protocol.received.clear()
        for number in range(count):
            peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
        await eventually(lambda: len(protocol.received) >= count)  # noqa: B023
        assert [data for data, _ in protocol.received] == [b"%d" % n for n in range(count)]


async def test_a_flood_leaves_room_for_others(loop, open_endpoint, opened, eventually):
    """An endpoint that always has something to read does not keep callbacks waiting."""
    peer = plain_socket()
    opened.append(peer)

    class Feeder(Recorder):
        stop = False

        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if not self.stop:
                # Two for one: the socket is never empty.
                for _ in range(2 if len(self.received) < 100 else 1):
                    peer.sendto(data, self.transport.get_extra_info("sockname"))

    transport, protocol = await open_endpoint(Feeder())
    peer.sendto(b"x", transport.get_extra_info("sockname"))
    await eventually(lambda: len(protocol.received) > 200)
    counts = []
    for _ in range(50):
        await asyncio.sleep(0)
        counts.append(len(protocol.received))
    assert max(after - before for before, after in itertools.pairwise(counts)) <= 64
    protocol.stop = True
    other, second = await open_endpoint()
    peer.sendto(b"y", other.get_extra_info("sockname"))
    await eventually(lambda: second.received)


async def test_large_datagrams(pair, eventually):
    """Up to 256 KiB arrive whole, the rest of a larger one is cut off, as in asyncio."""
    _, protocol, theirs = await pair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 1024 * 1024)
    limit = 256 * 1024
    for size in (65_507, limit - 1, limit, limit + 1, limit + 1000):
        data = bytes([size % 251]) * size
        try:
            theirs.send(data)
        except OSError as error:
            if size > 150_000:
                pytest.skip(f"Unix datagrams of {size} bytes cannot be sent here: {error}")
            raise
        protocol.received.clear()
        await eventually(lambda: protocol.received)
        assert protocol.received == [(data[:limit], None)]


async def test_data_is_bytes_that_stay(open_endpoint, opened, eventually):
    transport, protocol = await open_endpoint()
    peer = plain_socket()
    opened.append(peer)
    for number in range(20):
        peer.sendto(bytes([number]) * 1000, transport.get_extra_info("sockname"))
        await eventually(lambda: len(protocol.received) == number + 1)  # noqa: B023
    assert all(type(data) is bytes for data, _ in protocol.received)
    assert [data for data, _ in protocol.received] == [bytes([n]) * 1000 for n in range(20)]
    # Each has its own hash, though memory may have been used again.
    assert len({data for data, _ in protocol.received}) == 20


async def test_exception_of_the_protocol(open_endpoint, opened, unhandled, eventually):
    class Broken(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            raise ZeroDivisionError(data)

    transport, protocol = await open_endpoint(Broken())
    peer = plain_socket()
    opened.append(peer)
    for data in (b"one", b"two"):
        peer.sendto(data, transport.get_extra_info("sockname"))
    await eventually(lambda: len(unhandled) == 2)
    assert [context["exception"].args for context in unhandled] == [(b"one",), (b"two",)]
    assert all(context["message"].startswith("Exception in callback ") for context in unhandled)
    assert not transport.is_closing()
    assert "connection_lost" not in protocol.names


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exits_leave_the_loop(loop, opened, run_until, error):
    class Exits(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if data == b"exit":
                raise error

    transport, protocol = loop.run_until_complete(
        loop.create_datagram_endpoint(Exits, local_addr=("127.0.0.1", 0))
    )
    opened.append(transport)
    with plain_socket() as peer:
        for data in (b"1", b"exit", b"2", b"3"):
            peer.sendto(data, transport.get_extra_info("sockname"))
        with pytest.raises(error):
            loop.run_forever()
        run_until(lambda: len(protocol.received) == 4)
    assert [data for data, _ in protocol.received] == [b"1", b"exit", b"2", b"3"]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exits_of_error_received_leave_the_sender(loop, opened, error):
    class Exits(Recorder):
        def error_received(self, exc):
            raise error

    transport, _ = loop.run_until_complete(
        loop.create_datagram_endpoint(Exits, local_addr=("127.0.0.1", 0))
    )
    opened.append(transport)
    with pytest.raises(error):
        transport.sendto(b"x" * 70_000, ("127.0.0.1", 9))


async def test_pausing(open_endpoint, opened, eventually):
    transport, protocol = await open_endpoint()
    peer = plain_socket()
    opened.append(peer)
    transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    for number in range(20):
        peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert protocol.received == []
    transport.resume_reading()
    transport.resume_reading()
    assert transport.is_reading()
    await eventually(lambda: len(protocol.received) == 20)


async def test_pausing_within_a_burst(open_endpoint, opened, eventually):
    class Pauses(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            self.transport.pause_reading()

    transport, protocol = await open_endpoint(Pauses())
    peer = plain_socket()
    opened.append(peer)
    for number in range(100):
        peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
    for count in range(1, 101):
        await eventually(lambda: len(protocol.received) == count)  # noqa: B023
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(protocol.received) == count
        transport.resume_reading()
    assert [data for data, _ in protocol.received] == [b"%d" % number for number in range(100)]


async def test_an_error_while_paused_does_not_spin(loop, open_endpoint, refusing, eventually):
    """Nobody waits for the descriptor, so nothing is reported about it."""
    transport, protocol = await open_endpoint(remote_addr=("127.0.0.1", refusing))
    transport.pause_reading()
    transport.sendto(b"anybody?")
    assert await iterations_of_a_rest(loop) < 20
    assert protocol.errors == []
    transport.resume_reading()
    await eventually(lambda: protocol.errors)
    await iterations_of_a_rest(loop, 0.01)
    assert [type(error) for error in protocol.errors] == [ConnectionRefusedError]


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_nothing_after_the_end(open_endpoint, opened, eventually, end):
    class Ends(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            getattr(self.transport, end)()

    transport, protocol = await open_endpoint(Ends())
    peer = plain_socket()
    opened.append(peer)
    for _ in range(50):
        peer.sendto(b"x", transport.get_extra_info("sockname"))
    await eventually(lambda: protocol.lost)
    assert protocol.names == ["connection_made", "datagram_received", "connection_lost"]


async def test_another_protocol(open_endpoint, opened, eventually):
    transport, first = await open_endpoint()
    second = Recorder()
    transport.set_protocol(second)
    assert transport.get_protocol() is second
    peer = plain_socket()
    opened.append(peer)
    peer.sendto(b"x", transport.get_extra_info("sockname"))
    await eventually(lambda: second.received)
    transport.close()
    await eventually(lambda: second.lost)
    assert first.names == ["connection_made"]


async def test_methods_are_looked_up_each_time(open_endpoint, opened, eventually):
    transport, protocol = await open_endpoint()
    seen = []
    protocol.datagram_received = lambda data, addr: seen.append(data)
    peer = plain_socket()
    opened.append(peer)
    peer.sendto(b"x", transport.get_extra_info("sockname"))
    await eventually(lambda: seen)


class Contexts(Recorder):
    def __init__(self):
        super().__init__()
        self.values = []

    def connection_made(self, transport):
        super().connection_made(transport)
        self.values.append(variable.get())

    def datagram_received(self, data, addr):
        super().datagram_received(data, addr)
        self.values.append(variable.get())
        variable.set(data)


async def test_context(open_endpoint, opened, eventually):
    """Callbacks see the context in which the endpoint was made, and nobody sees what they set."""
    variable.set("maker")
    transport, protocol = await open_endpoint(Contexts())
    other, others = await open_endpoint(Contexts())
    variable.set("later")
    peer = plain_socket()
    opened.append(peer)
    peer.sendto(b"x", transport.get_extra_info("sockname"))
    await eventually(lambda: protocol.received)
    peer.sendto(b"y", other.get_extra_info("sockname"))
    await eventually(lambda: others.received)
    assert protocol.values == others.values == ["maker", "maker"]
    assert variable.get() == "later"
